"""Plays one part of a run: what happens to its orders on their way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ibook_assets.core.arrow import array, integers, pc
from ibook_assets.core.tables import TRANSACTIONS
from ibook_sim.chaos import deliver, request_faults
from ibook_sim.judging.books import delivered
from ibook_sim.judging.findings import PartFound, Seen
from ibook_sim.orders.placed import Orders, age_seconds
from ibook_sim.world.randomness import Bools, Floats


@dataclass(frozen=True, slots=True)
class Played:
    """One part's orders, before the queue."""

    seen: Seen
    found: PartFound
    complete: bool
    """False when the run was stopped."""


def played(orders: Orders, sent_seconds: Floats, *, asked: int, seed: int) -> Played:
    """What becomes of `orders` on their way; `sent_seconds` is when each is sent."""
    chaos, count = orders.found.scenario.chaos, orders.found.orders
    delivery = deliver(orders.sent, TRANSACTIONS, chaos, seed=seed)
    faults = request_faults(np.arange(count), chaos, seed=seed)
    first = np.unique(delivery.origin, return_index=True)
    dropped = np.ones(count, np.bool_)
    dropped[first[0]] = False
    refused = np.zeros(count, np.bool_)
    refused[first[0]] = ~_sound(delivery.rows)[first[1]]
    age = np.full(count, np.nan)
    age[first[0]] = age_seconds(delivery.rows)[first[1]]
    seen = Seen(
        sent_seconds=sent_seconds,
        archetype=orders.archetype,
        amount_cents=integers(orders.sent["amount_cents"], null=0),
        posterior=orders.posterior,
        score=orders.score,
        dropped=dropped,
        refused=refused,
        failed=faults.fails & ~dropped & ~refused,
        delay_ms=faults.delay_seconds * 1e3,
        freshness_seconds=age,
        latency_ms=np.full(count, np.nan),
        account=integers(orders.sent["user_id"], null=0),
    )
    return Played(seen, delivered(orders.found, delivery), complete=count >= asked)


def _sound(rows: pa.Table) -> Bools:
    """Rows with every value inside its contract."""
    sound = np.ones(rows.num_rows, np.bool_)
    for column in TRANSACTIONS.columns:
        values = rows[column.name]
        if column.allowed is not None:
            known = pc.is_in(values, value_set=array(list(column.allowed)))
            sound &= np.asarray(pc.or_(known, pc.is_null(values)))
            continue
        if column.minimum is not None:
            sound &= integers(values, null=column.minimum) >= column.minimum
        if column.maximum is not None:
            sound &= integers(values, null=column.maximum) <= column.maximum
    return sound
