"""Refunds and outcomes by the day they become known, from orders of earlier days.

Which earlier orders are due is found from their fates alone; only those orders' rows are made.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple, TypeVar

import numpy as np

from ibook_assets.core.times import DAY_US, SECOND_US
from ibook_sim.world.config import WorldConfig
from ibook_sim.world.fates import CHARGEBACK_LIMIT_DAYS, NEVER, REFUND_LIMIT_DAYS, fates
from ibook_sim.world.orders import MAX_ROWS_PER_DAY, OrderSource
from ibook_sim.world.plan import Plan
from ibook_sim.world.randomness import Ints, Namespace, identifier_key, opaque_all

REFUND_HANDLING_US: Final = 30 * SECOND_US
"""From the refund to the moment the platform knows of it."""

_CACHED_DAYS: Final = CHARGEBACK_LIMIT_DAYS + 2


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


_Rows = TypeVar("_Rows", Refunds, Outcomes)


class Aftermath:
    """Refunds and outcomes of a world, by day."""

    def __init__(self, config: WorldConfig, plan: Plan, orders: OrderSource) -> None:
        self._config = config
        self._plan = plan
        self._orders = orders
        self._refund_key = identifier_key(config.seed, Namespace.REFUND)
        self._cache: OrderedDict[int, tuple[Refunds, Outcomes]] = OrderedDict()

    def refunds(self, day: int) -> Refunds:
        """Refunds that become known on `day`."""
        parts = [self._due(self._of(d)[0], day) for d in _days_back(day, REFUND_LIMIT_DAYS)]
        joined = Refunds._make(np.concatenate(columns) for columns in zip(*parts, strict=True))
        order = np.lexsort((joined.refund_id, joined.known_ts))
        return Refunds._make(column[order] for column in joined)

    def outcomes(self, day: int) -> Outcomes:
        """Chargebacks that become known on `day`, and orders that count as settled on it."""
        parts = [self._due(self._of(d)[1], day) for d in _days_back(day, CHARGEBACK_LIMIT_DAYS)]
        if day >= self._config.label_maturity_days:
            parts.append(self._settled(day - self._config.label_maturity_days))
        joined = Outcomes._make(np.concatenate(columns) for columns in zip(*parts, strict=True))
        order = np.lexsort((joined.transaction_id, joined.known_ts))
        return Outcomes._make(column[order] for column in joined)

    def _due(self, rows: _Rows, day: int) -> _Rows:
        start = self._plan.start_us + day * DAY_US
        now = np.flatnonzero((rows.known_ts >= start) & (rows.known_ts < start + DAY_US))
        return type(rows)._make(column[now] for column in rows)

    def _of(self, day: int) -> tuple[Refunds, Outcomes]:
        """All refunds and chargebacks that orders of `day` ever lead to."""
        if day not in self._cache:
            self._cache[day] = self._follow_up(day)
            while len(self._cache) > _CACHED_DAYS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(day)
        return self._cache[day]

    def _follow_up(self, day: int) -> tuple[Refunds, Outcomes]:
        planned = self._plan.day(day)
        archetype = np.zeros(planned.rows, np.int8)
        archetype[planned.legit_orders :] = planned.fraud.archetype
        fate = fates(self._config, day, np.arange(planned.rows), archetype)
        rows = np.flatnonzero((fate.refund_us != NEVER) | (fate.chargeback_us != NEVER))
        orders = self._orders.rows(day, rows)
        delay, part = fate.refund_us[rows], (fate.partial[rows] == 1) & (orders.quantity > 1)
        amount = np.where(part, orders.amount_cents // orders.quantity, orders.amount_cents)
        refunds = Refunds(
            refund_id=opaque_all(day * MAX_ROWS_PER_DAY + rows, self._refund_key),
            occurred_ts=orders.known_ts + delay - REFUND_HANDLING_US,
            known_ts=orders.known_ts + delay,
            transaction_id=orders.transaction_id,
            amount_cents=amount,
        )
        charge = fate.chargeback_us[rows]
        charged = np.flatnonzero(charge != NEVER)
        chargebacks = Outcomes(
            transaction_id=orders.transaction_id,
            known_ts=orders.known_ts + charge,
            is_fraud=np.ones(rows.size, np.int64),
            amount_cents=orders.amount_cents,
        )
        refunded = np.flatnonzero(delay != NEVER)
        return (
            Refunds._make(column[refunded] for column in refunds),
            Outcomes._make(column[charged] for column in chargebacks),
        )

    def _settled(self, day: int) -> Outcomes:
        """Orders of `day` without a chargeback by the time their label matures."""
        orders = self._orders.rows(day)
        fate = fates(self._config, day, orders.row, orders.archetype)
        matures = orders.occurred_ts + self._config.label_maturity_days * DAY_US
        matures = np.maximum(matures, orders.known_ts)
        charged = fate.chargeback_us != NEVER
        rows = np.flatnonzero(~charged | (orders.known_ts + fate.chargeback_us > matures))
        return Outcomes(
            transaction_id=orders.transaction_id[rows],
            known_ts=matures[rows],
            is_fraud=np.zeros(rows.size, np.int64),
            amount_cents=orders.amount_cents[rows],
        )


def _days_back(day: int, limit: int) -> range:
    return range(max(0, day - limit), day + 1)
