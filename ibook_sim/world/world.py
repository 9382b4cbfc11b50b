"""The world as the platform sees it: Arrow tables per UTC day, the catalogue, and the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

import numpy as np
import pyarrow as pa

from ibook_assets.core.arrow import array
from ibook_assets.core.errors import ContractError
from ibook_assets.core.ids import MISSING_ID
from ibook_assets.core.tables import (
    CATEGORIES,
    CHANNELS,
    EVENTS,
    OUTCOMES,
    PROMOTERS,
    REFUNDS,
    TIERS,
    TRANSACTIONS,
    TRUTH_ORDERS,
    USERS,
    VENUES,
    VIEWS,
    TableSpec,
)
from ibook_assets.core.times import DAY_US
from ibook_sim.world.aftermath import Aftermath
from ibook_sim.world.config import WorldConfig
from ibook_sim.world.demand import ExpectedSales, expected_sales
from ibook_sim.world.oracle import DayTruth, Oracle
from ibook_sim.world.orders import Codes, Orders, OrderSource, arrival_order
from ibook_sim.world.plan import Plan
from ibook_sim.world.randomness import (
    Ints,
    Namespace,
    Stream,
    generator,
    identifier_key,
    opaque_all,
)
from ibook_sim.world.register import UNKNOWN_TIME
from ibook_sim.world.sales import order_rate, room_of
from ibook_sim.world.sessions import SessionSource

_NAMES: Final = [
    "Aurora",
    "Harbour",
    "Lindgren",
    "Meridian",
    "Northway",
    "Olive",
    "Pavilion",
    "Quayside",
    "Riverside",
    "Solstice",
    "Tramshed",
    "Union",
    "Vesper",
    "Westend",
]
_CITIES: Final = [
    "Amsterdam",
    "Berlin",
    "Dublin",
    "Lisbon",
    "London",
    "Lyon",
    "Madrid",
    "Milan",
    "Paris",
    "Prague",
    "Vienna",
    "Warsaw",
]


@dataclass(frozen=True, slots=True)
class DayTables:
    """What arrives on one UTC day of `known_ts`, each table sorted by (known_ts, row id)."""

    transactions: pa.Table
    views: pa.Table
    refunds: pa.Table
    outcomes: pa.Table

    def items(self) -> tuple[tuple[str, pa.Table], ...]:
        """(table name, rows) of each table."""
        return tuple((name, getattr(self, name)) for name in self.__slots__)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Tables without partitions, as known on some day."""

    events: pa.Table
    users: pa.Table
    promoters: pa.Table
    venues: pa.Table

    def items(self) -> tuple[tuple[str, pa.Table], ...]:
        """(table name, rows) of each table."""
        return tuple((name, getattr(self, name)) for name in self.__slots__)


class World:
    """A simulated ticketing world with known truth.

    Any day may be asked for, in any order and process: the bytes depend on the config alone.
    Plans (counts, not rows) of all days up to the one asked for are kept.
    """

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self._plan = Plan(config)
        self._orders = OrderSource(config, self._plan)
        self._sessions = SessionSource(config, self._plan, self._orders)
        self._aftermath = Aftermath(config, self._plan, self._orders)
        self._oracle = Oracle(config, self._plan, self._orders)

    def day(self, day: date) -> DayTables:
        """Everything that becomes known on `day`.

        Raises:
            ContractError: `day` is before the world's start.
        """
        number = self._number(day)
        orders = self._orders.rows(number)
        return DayTables(
            transactions=self._transactions(orders),
            views=_table(VIEWS, self._sessions.views(number, orders)._asdict()),
            refunds=_table(REFUNDS, self._aftermath.refunds(number)._asdict()),
            outcomes=_table(OUTCOMES, self._aftermath.outcomes(number)._asdict()),
        )

    def transactions(self, day: date) -> pa.Table:
        """The transactions of `day` alone."""
        return self._transactions(self._orders.rows(self._number(day)))

    def orders(self, day: date) -> Orders:
        """Orders of `day` as arrays with their truth, in row order: for measuring, not feeding."""
        return self._orders.rows(self._number(day))

    def truth(self, days: Sequence[date]) -> dict[date, pa.Table]:
        """The truth beside the orders of each of `days` (`TRUTH_ORDERS`, sorted as the orders).

        Reads the history of every account that orders on these days, so ask for many at once.
        """
        numbers = {self._number(day): day for day in days}
        found = self._oracle.truth(list(numbers))
        return {numbers[number]: _truth_table(found[number]) for number in sorted(found)}

    def expected_sales(self, event_id: int) -> ExpectedSales:
        """The exact mean of an event's legitimate sales, day by day: the best forecast there is.

        Raises:
            ContractError: no event has that number.
        """
        if event_id < 0:
            msg = f"event {event_id} does not exist; events are numbered from 0 on, without end"
            raise ContractError(msg)
        event = self._plan.book.source.until(event_id + 1).take(slice(event_id, None))
        on_sale, lead = int(event.on_sale_day[0]), int(event.lead_days[0])
        wanted = order_rate(self.config, event, on_sale)[0, :lead]
        orders, tickets = expected_sales(wanted, int(room_of(event.capacity)[0]))
        first_day = self.config.start_date + timedelta(days=on_sale)
        return ExpectedSales(first_day, wanted, orders, tickets)

    def catalogue(self, until: date) -> Catalogue:
        """Events that have gone on sale, and accounts that exist, by the end of day `until`."""
        number = self._number(until)
        self._plan.day(number)
        on_sale = self._plan.book.source.first_number(number + 1)
        return Catalogue(
            events=self._events(on_sale),
            users=self._users(number),
            promoters=_promoters(self._plan.book.source.promoters),
            venues=_venues(self.config, self._plan.book.source.venues),
        )

    def _number(self, day: date) -> int:
        number = (day - self.config.start_date).days
        if number < 0:
            msg = (
                f"{day} is before the world begins on {self.config.start_date}; "
                "ask for a later day or set an earlier start_date"
            )
            raise ContractError(msg)
        return number

    def _transactions(self, orders: Orders) -> pa.Table:
        order = arrival_order(orders)
        published = set(TRANSACTIONS.column_names).intersection(Orders._fields)
        columns: dict[str, Any] = {name: getattr(orders, name)[order] for name in published}
        columns["promoter_id"] = self._plan.events.promoter_id[columns["event_id"]]
        columns["tier"] = _names(TIERS, columns["tier"])
        columns["channel"] = _names(CHANNELS, columns["channel"])
        return _table(TRANSACTIONS, columns)

    def _events(self, count: int) -> pa.Table:
        events = self._plan.events
        columns = {
            "event_id": events.event_id,
            "promoter_id": events.promoter_id,
            "venue_id": events.venue_id,
            "category": _names(CATEGORIES, events.category),
            "capacity": events.capacity,
            "list_price_cents": events.list_price_cents,
            "on_sale_ts": self._plan.start_us + events.on_sale_day * DAY_US,
            "starts_ts": events.starts_us,
        }
        return _table(EVENTS, columns).slice(0, count)

    def _users(self, number: int) -> pa.Table:
        """Owners' accounts, and abusers' from their first order on."""
        register = self._plan.register
        known = register.created_us[: register.size] != UNKNOWN_TIME
        known &= register.known_day[: register.size] <= number
        accounts = np.flatnonzero(known)
        user_id = opaque_all(accounts, identifier_key(self.config.seed, Namespace.USER))
        order = np.argsort(user_id)
        created = register.created_us[accounts]
        return _table(USERS, {"user_id": user_id[order], "created_ts": created[order]})


def _names(names: tuple[str, ...], codes: Ints | Codes) -> Any:  # noqa: ANN401 - an Arrow array
    return pa.DictionaryArray.from_arrays(array(codes), array(names)).cast(pa.string())


def _table(spec: TableSpec, columns: Mapping[str, Any]) -> pa.Table:
    arrays = []
    for column in spec.columns:
        values = columns[column.name]
        if column.nullable and isinstance(values, np.ndarray) and values.dtype == np.int64:
            missing = values == MISSING_ID
            arrays.append(array(values, column.type, mask=missing if missing.any() else None))
        else:
            arrays.append(array(values, column.type))
    return pa.Table.from_arrays(arrays, schema=spec.schema)


def _truth_table(truth: DayTruth) -> pa.Table:
    columns = {name: getattr(truth, name) for name in truth.__slots__}
    return _table(TRUTH_ORDERS, columns)


def _promoters(count: int) -> pa.Table:
    names = [f"{_NAMES[i % len(_NAMES)]} Live {1 + i // len(_NAMES)}" for i in range(count)]
    return _table(PROMOTERS, {"promoter_id": np.arange(count), "name": names})


def _venues(config: WorldConfig, count: int) -> pa.Table:
    city = generator(config.seed, Stream.VENUES).integers(0, len(_CITIES), count)
    cities = [_CITIES[c] for c in city]
    names = [f"{_NAMES[(7 * i) % len(_NAMES)]} Hall {1 + i // len(_NAMES)}" for i in range(count)]
    return _table(VENUES, {"venue_id": np.arange(count), "name": names, "city": cities})


def days_from(start: date, count: int) -> list[date]:
    """`count` consecutive days from `start` on."""
    return [start + timedelta(days=i) for i in range(count)]
