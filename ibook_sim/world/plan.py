"""The plan: per day, how many orders of what, and every fraudulent order; grown on demand.

Planning walks the days in order because takeovers, closed accounts and seats left carry over,
but it only handles counts and the few fraudulent orders, never the rows. A planned day is final.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from ibook_assets.core.tables import CATEGORIES
from ibook_assets.core.times import DAY_US, day_start_us
from ibook_sim.world.accounts import Slots
from ibook_sim.world.clock import CLOCK, moments
from ibook_sim.world.config import WorldConfig
from ibook_sim.world.emissions import BOT_HYPE, QUANTITY
from ibook_sim.world.events import Events
from ibook_sim.world.queue import FraudQueue
from ibook_sim.world.randomness import Bools, Floats, Ints
from ibook_sim.world.register import Register
from ibook_sim.world.sales import Sales, SalesBook

_STRIDE: Final = 32
_BOT: Final = 2


@dataclass(frozen=True, slots=True)
class FraudOrders:
    """Fraudulent orders of one day in time order."""

    account: Ints
    archetype: Ints
    known_us: Ints
    event: Ints
    quantity: Ints


@dataclass(frozen=True, slots=True)
class DayPlan:
    """One day of the world, without its rows."""

    day: int
    start_us: int
    sales: Sales
    """Legitimate orders by event and quantity: the first rows of the day."""
    legit_orders: int
    time: float
    """Operational time as the day begins."""
    pace: float
    """Operational time that the day takes."""
    pull: Floats
    """Shape (4,): legitimate orders before this day per unit of activity times taste."""
    pull_of_day: Floats
    """Shape (4,): the same for this day."""
    bot_weight: float
    """Sum over the legitimate orders of exp(BOT_HYPE * hype): normalises the bots' choice."""
    fraud: FraudOrders
    seats: Ints
    """Seats that the honest orders of a whole sale leave, by row of `sales`, as the day begins."""
    unserved: int
    """Fraudulent orders that found no seat and so never happened."""

    @property
    def rows(self) -> int:
        """Number of orders."""
        return self.legit_orders + self.fraud.account.size


class Plan:
    """All planned days of a world; `day(n)` plans as far as needed."""

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self.start_us = day_start_us(config.start_date)
        self.slots = Slots(config)
        self.register = Register(config, self.slots)
        self.book = SalesBook(config)
        self._queue = FraudQueue(config, self.register)
        self._days: list[DayPlan] = []
        self._time = 0.0
        self._pull = np.zeros(len(CATEGORIES))

    @property
    def events(self) -> Events:
        """Every event released so far; row number = event number."""
        return self.book.events

    def day(self, day: int) -> DayPlan:
        """The plan of day `day` (0 is the start date)."""
        while len(self._days) <= day:
            first = len(self._days)
            for offset, sales in enumerate(self.book.extend(first, first + _STRIDE)):
                self._days.append(self._plan(first + offset, sales))
        return self._days[day]

    def _plan(self, day: int, sales: Sales) -> DayPlan:
        self._queue.renewed(self.register.renew(day))
        legit = int(sales.orders.sum())
        pace = legit / self.config.legit_per_day
        category = self.events.category[sales.event]
        pull = np.bincount(category, sales.orders, len(CATEGORIES)) / self.slots.pull
        hyped: Floats = np.exp(BOT_HYPE * self.events.hype[sales.event]) * sales.orders
        start_us = self.start_us + day * DAY_US
        seats = self.book.seats_left[sales.event]
        fraud, unserved = self._fraud(day, pace, sales, hyped)
        planned = DayPlan(
            day=day,
            start_us=start_us,
            sales=sales,
            legit_orders=legit,
            time=self._time,
            pace=pace,
            pull=self._pull,
            pull_of_day=pull,
            bot_weight=float(hyped.sum()),
            fraud=fraud,
            seats=seats,
            unserved=unserved,
        )
        self._time += pace
        self._pull = self._pull + pull
        return planned

    def _fraud(self, day: int, pace: float, sales: Sales, hyped: Floats) -> tuple[FraudOrders, int]:
        due = self._queue.due(self._time + pace)
        wish = due.attempts
        known_us = (
            self.start_us
            + day * DAY_US
            + moments((wish.time - self._time) / max(pace, 1e-12), CLOCK)
        )
        opening = wish.first
        self.register.date_abusers(
            day, due.account[opening], known_us[opening], due.age_days[opening]
        )
        quantity = 1 + (
            wish.quantity_draw[:, None] >= QUANTITY.cumsum(axis=1)[wish.archetype, :-1]
        ).sum(axis=1)
        event = np.zeros(wish.time.size, np.int64)
        if event.size:
            for weight, rows in (
                (sales.orders, wish.archetype != _BOT),
                (hyped, wish.archetype == _BOT),
            ):
                total = np.cumsum(weight)
                at = np.searchsorted(total, wish.event_draw[rows] * total[-1], side="right")
                event[rows] = sales.event[np.minimum(at, total.size - 1)]
        served = self._seat(event, quantity)
        orders = FraudOrders(
            account=due.account[served],
            archetype=wish.archetype[served],
            known_us=known_us[served],
            event=event[served],
            quantity=quantity[served],
        )
        return orders, int((~served).sum())

    def _seat(self, event: Ints, quantity: Ints) -> Bools:
        """Which orders still find seats, first come first served; takes the seats."""
        served = np.ones(event.size, np.bool_)
        wanted = np.bincount(event, quantity, self.book.seats_left.size).astype(np.int64)
        short = wanted > self.book.seats_left
        for i in np.flatnonzero(short[event]):
            before = quantity[:i][served[:i] & (event[:i] == event[i])].sum()
            served[i] = before + quantity[i] <= self.book.seats_left[event[i]]
        taken = np.bincount(event[served], quantity[served], self.book.seats_left.size)
        self.book.seats_left = self.book.seats_left - taken.astype(np.int64)
        return served
