"""Refunds and outcomes by the day they become known, from orders of earlier days.

Which earlier orders are due is found from their fates alone; only those orders' rows are made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from ibook_assets.core.times import DAY_US, SECOND_US
from ibook_sim.world.config import WorldConfig
from ibook_sim.world.fates import (
    CHARGEBACK_LIMIT_DAYS,
    NEVER,
    REFUND_LIMIT_DAYS,
    Fates,
    fates,
)
from ibook_sim.world.orders import MAX_ROWS_PER_DAY, Orders, OrderSource
from ibook_sim.world.plan import Plan
from ibook_sim.world.randomness import (
    Bools,
    Ints,
    Namespace,
    identifier_key,
    opaque_all,
)

REFUND_HANDLING_US: Final = 30 * SECOND_US
"""From the refund to the moment the platform knows of it."""


class Refunds(NamedTuple):
    """Refunds in `known_ts` order; columns as in the published table."""

    refund_id: Ints
    occurred_ts: Ints
    known_ts: Ints
    transaction_id: Ints
    amount_cents: Ints


class Outcomes(NamedTuple):
    """Outcomes in `known_ts` order; columns as in the published table."""

    transaction_id: Ints
    known_ts: Ints
    is_fraud: Ints
    amount_cents: Ints


class Aftermath:
    """Refunds and outcomes of a world, by day."""

    def __init__(self, config: WorldConfig, plan: Plan, orders: OrderSource) -> None:
        self._config = config
        self._plan = plan
        self._orders = orders
        self._refund_key = identifier_key(config.seed, Namespace.REFUND)

    def refunds(self, day: int) -> Refunds:
        """Refunds that become known on `day`."""
        parts = []
        for before, orders, fate in self._due(day, "refund_us", REFUND_LIMIT_DAYS):
            known = orders.known_ts + fate.refund_us
            part = (fate.partial == 1) & (orders.quantity > 1)
            amount = np.where(part, orders.amount_cents // orders.quantity, orders.amount_cents)
            numbers = before * MAX_ROWS_PER_DAY + orders.row
            parts.append(
                (
                    opaque_all(numbers, self._refund_key),
                    known - REFUND_HANDLING_US,
                    known,
                    orders.transaction_id,
                    amount,
                )
            )
        columns = _columns(parts, len(Refunds._fields))
        order = np.lexsort((columns[0], columns[2]))
        return Refunds(*(c[order] for c in columns))

    def outcomes(self, day: int) -> Outcomes:
        """Chargebacks that become known on `day`, and orders that count as settled on it."""
        parts = []
        for _, orders, fate in self._due(day, "chargeback_us", CHARGEBACK_LIMIT_DAYS):
            known = orders.known_ts + fate.chargeback_us
            ones = np.ones(known.size, np.int64)
            parts.append((orders.transaction_id, known, ones, orders.amount_cents))
        if day >= self._config.label_maturity_days:
            parts.append(self._settled(day - self._config.label_maturity_days))
        columns = _columns(parts, len(Outcomes._fields))
        order = np.lexsort((columns[0], columns[1]))
        return Outcomes(*(c[order] for c in columns))

    def _settled(self, day: int) -> tuple[Ints, Ints, Ints, Ints]:
        """Orders of `day` without a chargeback by the time their label matures."""
        orders = self._orders.rows(day)
        fate = fates(self._config, day, orders.row, orders.archetype)
        matures = orders.occurred_ts + self._config.label_maturity_days * DAY_US
        matures = np.maximum(matures, orders.known_ts)
        charged = fate.chargeback_us != NEVER
        rows = np.flatnonzero(~charged | (orders.known_ts + fate.chargeback_us > matures))
        zeros = np.zeros(rows.size, np.int64)
        return orders.transaction_id[rows], matures[rows], zeros, orders.amount_cents[rows]

    def _due(self, day: int, delay: str, limit: int) -> Iterator[tuple[int, Orders, Fates]]:
        """Orders of the last `limit` days whose `delay` ends on `day`, with their fates."""
        self._plan.day(day)
        start = self._plan.day(day).start_us
        for before in range(max(0, day - limit), day + 1):
            planned = self._plan.day(before)
            archetype = np.zeros(planned.rows, np.int8)
            archetype[planned.legit_orders :] = planned.fraud.archetype
            fate = fates(self._config, before, np.arange(planned.rows), archetype)
            chosen = _may_end(getattr(fate, delay), day - before)
            orders = self._orders.rows(before, chosen)
            known = orders.known_ts + getattr(fate, delay)[chosen]
            now = np.flatnonzero((known >= start) & (known < start + DAY_US))
            yield (
                before,
                Orders(*(c[now] for c in orders)),
                Fates(*(c[chosen[now]] for c in fate)),
            )


def _may_end(delay_us: Ints, days: int) -> Ints:
    """Rows whose delay, counted from some time of a day, can end `days` days later."""
    possible: Bools = (delay_us > (days - 1) * DAY_US) & (delay_us < (days + 1) * DAY_US)
    return np.flatnonzero(possible & (delay_us != NEVER))


def _columns(parts: list[tuple[Ints, ...]], width: int) -> list[Ints]:
    if not parts:
        return [np.empty(0, np.int64)] * width
    return [np.concatenate([part[i] for part in parts]) for i in range(width)]
