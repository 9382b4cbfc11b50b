"""Plays one part of a run: its orders, what happens to them on the way, and what must add up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Final, Protocol

import numpy as np
import pyarrow as pa

from ibook_assets.core.arrow import array, integers, pc
from ibook_assets.core.errors import ContractError
from ibook_assets.core.tables import TIERS, TRANSACTIONS
from ibook_assets.core.times import SECOND_US
from ibook_sim.chaos import Chaos, Delivery, deliver, request_faults
from ibook_sim.drift import (
    DRIFTED_PRICE_PERCENT,
    Divergence,
    DriftedShare,
    DriftedWorld,
    divergence,
)
from ibook_sim.findings import UNKNOWN_TRUTH, Books, PartFound, Seen
from ibook_sim.labels import labels_of
from ibook_sim.recordings import Recording, rows_digest
from ibook_sim.scenarios import Scenario
from ibook_sim.watching import platform_drift
from ibook_sim.world import World
from ibook_sim.world.orders import TIER_PERCENT
from ibook_sim.world.randomness import Bools, Floats, Ints

WARM_UP_DAYS: Final = 30
"""Days of history before the first order of a run; the posterior needs a past."""
COLUMNS: Final = ("amount_cents", "quantity", "declines", "checkout_ms", "geo_distance_m")
"""Columns whose divergence from the undrifted twin is measured."""
ROW_POSTERIOR: Final = "row posterior of the world before any drift (not a trained model)"
MAX_DAYS: Final = 3_650
"""Days that are looked through for the orders of a run."""

Stopped = Callable[[], bool]
"""Whether the run shall end with what has been played."""


class Scorer(Protocol):
    """Whatever gives orders a fraud probability."""

    @property
    def name(self) -> str:
        """What the report calls it."""
        ...

    def warm_up_days(self, start: date) -> int:
        """Days it needs between a world's `start` and the first order that it is to judge.

        At least `WARM_UP_DAYS` are played.
        """
        ...

    def score(self, orders: pa.Table, *, world: World, chaos: Chaos) -> Floats:
        """Probability of fraud of each row of `orders`, by what was known when it was placed.

        Args:
            orders: `tables.TRANSACTIONS` as sent, by (known_ts, transaction_id).
            world: where they come from, with everything that happened before them.
            chaos: what goes wrong on the way to the platform.
        """
        ...


@dataclass(frozen=True, slots=True)
class Orders:
    """Orders as they were placed, before anything went wrong; shape (n,) each."""

    sent: pa.Table
    """Columns of `TRANSACTIONS`."""
    archetype: Ints
    posterior: Floats
    score: Floats
    found: PartFound

    @property
    def truth_known(self) -> bool:
        """Whether it is known of every order what it was."""
        return bool((self.archetype != UNKNOWN_TRUTH).all())

    def take(self, rows: Ints) -> Orders:
        """The chosen orders."""
        return Orders(
            self.sent.take(array(rows)),
            self.archetype[rows],
            self.posterior[rows],
            self.score[rows],
            self.found,
        )


@dataclass(frozen=True, slots=True)
class Played:
    """One part's orders, before the queue."""

    seen: Seen
    found: PartFound
    complete: bool
    """False when the run was stopped."""


def never() -> bool:
    """Nobody stops the run."""
    return False


def of_world(
    item: Scenario, count: int, *, seed: int, scorer: Scorer | None = None, stopped: Stopped = never
) -> Orders:
    """The first `count` orders of the scenario's world after its warm-up; fewer when stopped.

    Raises:
        ContractError: the world has too few.
    """
    config = item.config(seed)
    world, twin = DriftedWorld(config, item.drift), World(config)
    warm_up = scorer.warm_up_days(config.start_date) if scorer else 0
    days = _days(world, count, warm_up_days=warm_up, stopped=stopped)
    sent = pa.concat_tables([world.transactions(day) for day in days]).slice(0, count)
    known = world.truth(days)
    truth = pa.concat_tables([known[day] for day in days]).slice(0, count)
    before = pa.concat_tables([twin.transactions(day) for day in days]).slice(0, sent.num_rows)
    if scorer:
        score = scorer.score(sent, world=world, chaos=item.chaos)
    else:
        score = _unaware(world, days)[:count]
    wants = item.objectives
    judged = wants.labels_in_time_share is not None or wants.label_delay_p95_days is not None
    found = PartFound(
        scenario=item,
        orders=sent.num_rows,
        books=_books(sent, world.catalogue(days[-1]).events, _oversold(world, days[-1])),
        divergences=_divergences(before, sent),
        drifted=_drifted(world, days),
        platform=platform_drift(before, sent),
        labels=labels_of(sent, days, world, item.chaos, seed=seed) if judged else None,
    )
    return _orders(sent, truth, np.asarray(score, dtype=np.float64), found)


def of_recording(item: Scenario, recording: Recording, count: int | None = None) -> Orders:
    """The first `count` recorded orders (all of them if None).

    Their scores are the truth's row posteriors, NaN without truth.
    """
    rows, truth, events = recording.transactions(), recording.truth(), recording.events()
    sent = rows.slice(0, count)
    capacity = integers(events["capacity"], null=0)
    about = integers(sent["event_id"], null=0)
    sold = np.bincount(about, integers(sent["quantity"], null=0), capacity.size)
    oversold = int((sold > capacity).sum())
    digests = None if recording.digest is None else (recording.digest, rows_digest(rows))
    found = PartFound(
        scenario=item,
        orders=sent.num_rows,
        books=_books(sent, events, oversold),
        divergences=(),
        drifted=(),
        platform=None,
        recording=digests,
    )
    return _orders(sent, None if truth is None else truth.slice(0, count), None, found)


def delivered(found: PartFound, delivery: Delivery) -> PartFound:
    """`found` with the books of what arrived."""
    books = Books(
        oversold_events=found.books.oversold_events,
        wrong_amounts=found.books.wrong_amounts,
        sent=found.orders,
        dropped=delivery.dropped,
        duplicated=delivery.duplicated,
        arrived=delivery.rows.num_rows,
    )
    return replace(found, books=books)


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


def age_seconds(rows: pa.Table) -> Floats:
    """From when each order happened to when it became known."""
    ago = integers(rows["known_ts"], null=0) - integers(rows["occurred_ts"], null=0)
    return np.asarray(ago / SECOND_US)


def days_holding(world: World, count: int) -> list[date]:
    """The days after the warm-up that hold `count` orders."""
    return _days(world, count, warm_up_days=0, stopped=never)


def _orders(
    sent: pa.Table, truth: pa.Table | None, score: Floats | None, found: PartFound
) -> Orders:
    n = sent.num_rows
    if truth is None:
        unknown = np.full(n, np.nan)
        return Orders(sent, np.full(n, UNKNOWN_TRUTH), unknown, unknown, found)
    if score is None:
        score = np.asarray(truth["row_posterior"], dtype=np.float64)
    return Orders(
        sent=sent,
        archetype=integers(truth["archetype"], null=0),
        posterior=np.asarray(truth["posterior"], dtype=np.float64),
        score=score,
        found=found,
    )


def _days(world: World, count: int, *, warm_up_days: int, stopped: Stopped) -> list[date]:
    first = world.config.start_date + timedelta(days=max(WARM_UP_DAYS, warm_up_days))
    days: list[date] = []
    found = 0
    while found < count and not (days and stopped()):
        if len(days) == MAX_DAYS:
            msg = f"{MAX_DAYS} days hold {found:,} orders, {count:,} are asked: shorten the run"
            raise ContractError(msg)
        day = first + timedelta(days=len(days))
        found += world.orders(day).row.size
        days.append(day)
    return days


def _unaware(world: DriftedWorld, days: Sequence[date]) -> Floats:
    parts = []
    for day in days:
        rows = world.orders(day)
        order = np.lexsort((rows.transaction_id, rows.known_ts))
        parts.append(world.unaware_posterior((day - world.config.start_date).days)[order])
    return np.concatenate(parts)


def _divergences(before: pa.Table, sent: pa.Table) -> tuple[Divergence, ...]:
    return tuple(divergence(c, _floats(before, c), _floats(sent, c)) for c in COLUMNS)


def _drifted(world: DriftedWorld, days: Sequence[date]) -> tuple[DriftedShare, ...]:
    coins = [world.drifted((day - world.config.start_date).days) for day in days]
    return tuple(
        DriftedShare(axis[0].axis, sum(s.drifted for s in axis), sum(s.eligible for s in axis))
        for axis in zip(*coins, strict=True)
        if world.drift.level_of(axis[0].axis) > 0.0
    )


def _floats(table: pa.Table, column: str) -> Floats:
    return integers(table[column], null=0).astype(np.float64)


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


def _books(sent: pa.Table, events: pa.Table, oversold: int) -> Books:
    """The books of what was sent; what arrived is added when it has."""
    n = sent.num_rows
    return Books(oversold, _wrong_amounts(sent, events), n, 0, 0, n)


def _oversold(world: World, until: date) -> int:
    """Events with more tickets sold than seats, over all days up to `until`."""
    capacity = integers(world.catalogue(until).events["capacity"], null=0)
    sold = np.zeros(capacity.size)
    for number in range((until - world.config.start_date).days + 1):
        orders = world.orders(world.config.start_date + timedelta(days=number))
        sold += np.bincount(orders.event_id, orders.quantity, capacity.size)
    return int((sold > capacity).sum())


def _wrong_amounts(sent: pa.Table, events: pa.Table) -> int:
    """Orders whose amount is not tickets times the tier's price, before or after the drift."""
    price = integers(events["list_price_cents"], null=0)
    tier = integers(pc.index_in(sent["tier"], value_set=array(list(TIERS))), null=0)
    each = price[integers(sent["event_id"], null=0)] * TIER_PERCENT[tier] // 100
    quantity = integers(sent["quantity"], null=0)
    amount = integers(sent["amount_cents"], null=0)
    drifted = each * DRIFTED_PRICE_PERCENT // 100
    return int(((amount != each * quantity) & (amount != drifted * quantity)).sum())
