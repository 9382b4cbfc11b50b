"""Sales: legitimate orders of every event on every day, clipped to the seats there are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise

import numpy as np

from ibook_sim.world.config import WorldConfig
from ibook_sim.world.emissions import QUANTITIES, QUANTITY
from ibook_sim.world.events import MAX_LEAD_DAYS, RESERVE, Events, EventSource
from ibook_sim.world.randomness import Floats, Ints, Stream, generator


def sale_curve(lead_days: Ints) -> Floats:
    """Shape (n, MAX_LEAD_DAYS): share of an event's demand on each day of its sale.

    A burst when the sale opens, a plateau, and a rise in the last week: the cycle that ticket
    sellers describe. The weights are assumed.

    Source: LineUp (2018), "Event marketing: when do people buy tickets?".
    """
    t = np.arange(MAX_LEAD_DAYS)[None, :]
    lead = lead_days[:, None]
    curve = 0.45 * np.exp(-t / 1.2) / 1.2 + 0.30 / lead + 0.25 * np.exp(-(lead - t).clip(0) / 4) / 4
    curve = np.where(t < lead, curve, 0.0)
    return np.asarray(curve / curve.sum(axis=1, keepdims=True))


def calendar(config: WorldConfig, first_day: int, days: int) -> Floats:
    """Demand of each of `days` days from `first_day` on, relative to an average day."""
    date = config.start_date + timedelta(days=first_day)
    index = np.arange(days)
    weekday = (date.weekday() + index) % 7
    lift = np.where((weekday == 4) | (weekday == 5), 1.0 + config.weekend_lift, 1.0)
    phase = 2 * np.pi * (date.timetuple().tm_yday + index - 340) / 365.25
    season = 1.0 + config.seasonal_amplitude * np.cos(phase)
    return np.asarray(lift / (1.0 + 2 * config.weekend_lift / 7) * season)


def order_rate(config: WorldConfig, events: Events, on_sale_day: int) -> Floats:
    """Shape (n, MAX_LEAD_DAYS): mean orders that `events` want on each day of their sale.

    All go on sale on `on_sale_day`. Seats are not looked at.
    """
    rate = events.demand[:, None] * sale_curve(events.lead_days)
    return rate * calendar(config, on_sale_day, MAX_LEAD_DAYS)


def room_of(capacity: Ints) -> Ints:
    """Seats of events of `capacity` that legitimate orders may take."""
    return np.asarray(np.floor((1.0 - RESERVE) * capacity), np.int64)


@dataclass(frozen=True, slots=True)
class Sales:
    """Legitimate orders by event, day and quantity; only combinations with orders."""

    day: Ints
    event: Ints
    quantity: Ints
    orders: Ints

    def take(self, rows: Ints) -> Sales:
        """The chosen rows."""
        return Sales(self.day[rows], self.event[rows], self.quantity[rows], self.orders[rows])


class SalesBook:
    """Sales day by day, and the seats that legitimate orders leave over the whole sale."""

    def __init__(self, config: WorldConfig) -> None:
        self._config = config
        self.source = EventSource(config)
        self.events: Events = self.source.until(0)
        """Every event released so far; row number = event number."""
        self.seats_left = np.empty(0, np.int64)
        self._released = -MAX_LEAD_DAYS
        self._ahead: Sales | None = None

    def extend(self, first: int, stop: int) -> list[Sales]:
        """Sales of days `first` to `stop` - 1, which follow the days asked for before."""
        self.events = self.source.until(self.source.first_number(stop))
        parts = [self._ahead] if self._ahead is not None else []
        seats = [self.seats_left]
        for release in range(self._released, stop):
            sales, tickets = sales_of_release(self._config, self.source, self.events, release)
            numbers = slice(self.source.first_number(release), None)
            seats.append(self.events.capacity[numbers][: tickets.size] - tickets)
            parts.append(sales)
        self._released = stop
        self.seats_left = np.concatenate(seats)
        joined = Sales(*(np.concatenate([getattr(p, f) for p in parts]) for f in Sales.__slots__))
        order = np.lexsort((joined.quantity, joined.event, joined.day))
        edges = np.searchsorted(joined.day[order], np.arange(first, stop + 1))
        self._ahead = joined.take(order[edges[-1] :])
        return [joined.take(order[a:b]) for a, b in pairwise(edges)]


def sales_of_release(
    config: WorldConfig, source: EventSource, events: Events, on_sale_day: int
) -> tuple[Sales, Ints]:
    """Sales of every event of `events` that goes on sale on `on_sale_day`, over its whole life.

    Returns:
        The sales, and each event's tickets; they never exceed capacity less `RESERVE`.
    """
    numbers = slice(source.first_number(on_sale_day), source.first_number(on_sale_day + 1))
    ids = events.event_id[numbers]
    g = generator(config.seed, Stream.DEMAND, on_sale_day + MAX_LEAD_DAYS)
    rate = order_rate(config, events.take(numbers), on_sale_day)
    orders = g.poisson(rate[:, :, None] * QUANTITY[0]).astype(np.int64)
    room = room_of(events.capacity[numbers])
    sizes = np.arange(1, QUANTITIES + 1)
    for i in np.flatnonzero((orders * sizes).sum(axis=(1, 2)) > room):
        _sell_out(orders[i], int(room[i]), g)
    event, day, quantity = np.nonzero(orders)
    sales = Sales(on_sale_day + day, ids[event], quantity + 1, orders[event, day, quantity])
    return sales, (orders * sizes).sum(axis=(1, 2))


def _sell_out(orders: Ints, room: int, g: np.random.Generator) -> None:
    """Close the sale, in place, at the first order that finds too few of `room` seats."""
    sizes = np.arange(1, QUANTITIES + 1)
    sold = (orders * sizes).sum(axis=1).cumsum()
    last = int(np.searchsorted(sold, room, side="right"))
    left = room - (int(sold[last - 1]) if last else 0)
    queue = g.permutation(np.repeat(sizes, orders[last]))
    served = queue[queue.cumsum() <= left]
    orders[last] = np.bincount(served, minlength=QUANTITIES + 1)[1:]
    orders[last + 1 :] = 0
