"""Looks at event pages: before an order, after it, and by people who never log in.

Views tell nothing about fraud beyond the orders themselves. Those before an order start after
the account's previous order, so they never announce an order that the account is yet to place
when another is judged; those after it (browsing on the following days) follow any order alike.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from scipy.special import ndtri

from ibook_assets.core.ids import MISSING_ID
from ibook_assets.core.tables import CATEGORIES
from ibook_assets.core.times import MINUTE_US
from ibook_sim.world.clock import CLOCK, moments
from ibook_sim.world.config import WorldConfig
from ibook_sim.world.orders import MAX_ROWS_PER_DAY, Orders, OrderSource
from ibook_sim.world.plan import Plan
from ibook_sim.world.randomness import (
    Floats,
    Ints,
    Namespace,
    Stream,
    Words,
    generator,
    identifier_key,
    jit,
    opaque_all,
    philox,
    row_key,
    unit,
)

SECOND_LOOK: Final = 0.45
"""Chance of one more look in the session that ends in an order (at most three looks)."""
RETURNS: Final = 0.4
"""Share of orders after which the account comes back to browse within a week."""
RETURN_DAYS: Final = np.array([0.30, 0.22, 0.16, 0.12, 0.09, 0.06, 0.05])
SAME_CATEGORY: Final = 0.7
VISITORS_PER_ORDER: Final = 0.8
SESSION_US: Final = 15 * MINUTE_US
"""Longest session before an order."""

_DWELL: Final = (3.4, 0.9)
_LOOKS: Final = 4
_ANY: Final = -1
_BEFORE, _AFTER, _VISITOR = 0, 1, 2


class Views(NamedTuple):
    """Views in `known_ts` order; a visitor who never logged in has user `MISSING_ID`."""

    view_id: Ints
    occurred_ts: Ints
    known_ts: Ints
    session_id: Ints
    user_id: Ints
    event_id: Ints
    dwell_ms: Ints


class SessionSource:
    """All views of a world, by day."""

    def __init__(self, config: WorldConfig, plan: Plan, orders: OrderSource) -> None:
        self._config = config
        self._plan = plan
        self._orders = orders
        self._view_key = identifier_key(config.seed, Namespace.VIEW)
        self._session_key = identifier_key(config.seed, Namespace.SESSION)
        self._user_key = identifier_key(config.seed, Namespace.USER)

    def views(self, day: int, orders: Orders | None = None) -> Views:
        """Views known on `day`; pass the day's orders if they are at hand."""
        orders = self._orders.rows(day) if orders is None else orders
        parts = [self._before(day, orders), self._visitors(day)]
        parts += [self._after(day, lag) for lag in range(1, min(day, RETURN_DAYS.size) + 1)]
        joined = Views(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
        order = np.lexsort((joined.view_id, joined.known_ts))
        return Views(*(column[order] for column in joined))

    def _views(
        self,
        *,
        session: Ints,
        look: Ints,
        user: Ints,
        event: Ints,
        times: tuple[Ints, Ints],
        dwell: Floats,
    ) -> Views:
        return Views(
            view_id=opaque_all(session * _LOOKS + look, self._view_key),
            occurred_ts=times[0],
            known_ts=times[1],
            session_id=opaque_all(session, self._session_key),
            user_id=user,
            event_id=event,
            dwell_ms=(1e3 * np.exp(_DWELL[0] + _DWELL[1] * ndtri(dwell))).astype(np.int64),
        )

    def _before(self, day: int, orders: Orders) -> Views:
        """The session that ends in the order: one to three looks at its event."""
        since = _previous_known(orders, self._plan.day(day).start_us)
        draws = _draws(orders.row, row_key(self._config.seed, Stream.SESSIONS, day, 0))
        longest = np.minimum(SESSION_US, orders.occurred_ts - since).clip(1)
        looks = 1 + (draws[:, :1] < SECOND_LOOK ** np.arange(1, 3)).sum(axis=1)
        rows = np.repeat(np.arange(looks.size), looks)
        look = np.arange(rows.size) - np.repeat(looks.cumsum() - looks, looks)
        back = (draws[rows, 1 + look] * longest[rows]).astype(np.int64).clip(1)
        occurred = orders.occurred_ts[rows] - back
        return self._views(
            session=_number(_BEFORE, day, orders.row[rows]),
            look=look,
            user=orders.user_id[rows],
            event=orders.event_id[rows],
            times=(occurred, np.maximum(occurred, since[rows] + 1)),
            dwell=draws[rows, 4 + look],
        )

    def _after(self, day: int, lag: int) -> Views:
        """Browsing on `day` that orders of `lag` days ago lead to."""
        before = day - lag
        rows = np.arange(self._plan.day(before).rows)
        draws = _draws(rows, row_key(self._config.seed, Stream.SESSIONS, before, 1))
        due = np.searchsorted(RETURN_DAYS.cumsum()[:-1], draws[:, 1], side="right") == lag - 1
        rows = np.flatnonzero((draws[:, 0] < RETURNS) & due)
        draws = draws[rows]
        orders = self._orders.rows(before, rows)
        wish = np.where(
            draws[:, 2] < SAME_CATEGORY, self._plan.events.category[orders.event_id], _ANY
        )
        event = self._choose(day, wish, draws[:, 3])
        seen = np.flatnonzero(event != MISSING_ID)
        start = self._plan.day(day).start_us
        occurred = start + moments(draws[seen, 4], CLOCK)
        return self._views(
            session=_number(_AFTER, before, rows[seen]),
            look=np.zeros(seen.size, np.int64),
            user=orders.user_id[seen],
            event=event[seen],
            times=(occurred, occurred),
            dwell=draws[seen, 5],
        )

    def _visitors(self, day: int) -> Views:
        """Looks by people who never log in."""
        planned = self._plan.day(day)
        g = generator(self._config.seed, Stream.VISITORS, day)
        n = int(g.poisson(VISITORS_PER_ORDER * planned.legit_orders))
        choice, time, dwell = g.random((3, n))
        event = self._choose(day, np.full(n, _ANY), choice)
        occurred = planned.start_us + moments(time, CLOCK)
        return self._views(
            session=_number(_VISITOR, day, np.arange(n)),
            look=np.zeros(n, np.int64),
            user=np.full(n, MISSING_ID),
            event=event,
            times=(occurred, occurred),
            dwell=np.maximum(dwell, 1e-12),
        )

    def _choose(self, day: int, category: Ints, draw: Floats) -> Ints:
        """An event on sale on `day`, by its orders; `MISSING_ID` where the category has none."""
        sales = self._plan.day(day).sales
        kinds = self._plan.events.category[sales.event]
        out = np.full(draw.size, MISSING_ID)
        for kind in range(_ANY, len(CATEGORIES)):
            weight = sales.orders if kind == _ANY else sales.orders * (kinds == kind)
            total = np.cumsum(weight)
            rows = np.flatnonzero(category == kind)
            if rows.size and total.size and total[-1]:
                at = np.searchsorted(total, draw[rows] * total[-1], side="right")
                out[rows] = sales.event[at]
        return out


def _number(kind: int, day: int, row: Ints) -> Ints:
    return (kind << 44) + day * MAX_ROWS_PER_DAY + row


def _previous_known(orders: Orders, start_us: int) -> Ints:
    """When the account's previous order of the day became known, else the day's start."""
    order = np.lexsort((orders.known_ts, orders.account))
    account, known = orders.account[order], orders.known_ts[order]
    previous = np.full(known.size, start_us)
    same = account[1:] == account[:-1]
    previous[1:][same] = known[:-1][same]
    out = np.empty(known.size, np.int64)
    out[order] = previous
    return out


@jit
def _draws(rows: Ints, key: Words) -> Floats:
    """Shape (n, 8): numbers in (0, 1)."""
    out = np.empty((rows.size, 8))
    for i in range(rows.size):
        for block in range(2):
            a, b, c, d = philox(rows[i], block, key[0], key[1])
            at = 4 * block
            out[i, at], out[i, at + 1] = unit(a), unit(b)
            out[i, at + 2], out[i, at + 3] = unit(c), unit(d)
    return out
