"""Orders: the rows of a day, or any subset of them, from the plan and the rows' own numbers."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ibook_assets.core.times import MINUTE_US
from ibook_sim.world.accounts import Alias
from ibook_sim.world.clock import CLOCK, moment
from ibook_sim.world.config import WorldConfig
from ibook_sim.world.emissions import MAX_GEO_M, TABLES, Tables, pick
from ibook_sim.world.plan import DayPlan, Plan
from ibook_sim.world.randomness import (
    Bools,
    Floats,
    Ints,
    Namespace,
    Stream,
    Words,
    identifier_key,
    jit,
    opaque,
    philox,
    row_key,
    unit,
    unit_wide,
)

Codes = npt.NDArray[np.int8]

TIER_PERCENT: Final = np.array([100, 135, 180, 320])
"""Price of each tier in percent of the list price."""
MAX_ROWS_PER_DAY: Final = 2**24

_MEAN_DELAY_US: Final = 80_000.0
_MIN_DELAY_US: Final = 20_000
_MEAN_LATENESS_US: Final = 20.0 * MINUTE_US
_NEAR_M: Final = 60_000
_SECOND_CHOICE: Final = (0.15, 0.20, 0.25)
"""Chance that an account uses its second device, card or network address."""
_SHARED: Final = 1 << 44
_POOL_BITS: Final = 36


class Orders(NamedTuple):
    """Orders as arrays, one element each; the first four are truth, not published."""

    row: Ints
    account: Ints
    archetype: Codes
    created_us: Ints
    transaction_id: Ints
    occurred_ts: Ints
    known_ts: Ints
    user_id: Ints
    event_id: Ints
    card_id: Ints
    device_id: Ints
    ip_id: Ints
    amount_cents: Ints
    quantity: Ints
    tier: Codes
    channel: Codes
    declines: Ints
    avs_match: Bools
    device_accounts: Ints
    checkout_ms: Ints
    geo_distance_m: Ints
    account_age_s: Ints


class _Day(NamedTuple):
    """What the kernel needs to know about the day and the world."""

    start_us: int
    day: int
    late_share: float
    clock: Floats
    key: Words
    tenant: Ints
    created_us: Ints
    category: Ints
    price: Ints
    pools: Ints
    """Sizes of the shared pools: devices of two, of a few, of many accounts; cards; addresses."""


class _Ids(NamedTuple):
    transaction: Words
    user: Words
    card: Words
    device: Words
    ip: Words


class OrderSource:
    """All orders of a world, by day and row."""

    def __init__(self, config: WorldConfig, plan: Plan) -> None:
        self._config = config
        self._plan = plan
        spaces = (Namespace.TRANSACTION, Namespace.USER, Namespace.CARD, Namespace.DEVICE)
        keys = [identifier_key(config.seed, space) for space in (*spaces, Namespace.IP)]
        self._ids = _Ids(*keys)
        share = np.array([3.0, 0.3, 0.03, 20.0, 2.0])
        self._pools = np.maximum(5, share * config.orders_per_day).astype(np.int64)
        self._tenants: tuple[int, Ints] = (-1, np.empty(0, np.int64))

    def rows(self, day: int, rows: Ints | None = None) -> Orders:
        """Orders `rows` (all if None) of `day`: legitimate ones first, then the fraudulent."""
        planned = self._plan.day(day)
        sales, fraud = planned.sales, planned.fraud
        known = np.full(planned.rows, -1)
        known[planned.legit_orders :] = fraud.known_us
        account = np.full(planned.rows, -1)
        account[planned.legit_orders :] = fraud.account
        archetype = np.zeros(planned.rows, np.int8)
        archetype[planned.legit_orders :] = fraud.archetype
        event = np.concatenate([np.repeat(sales.event, sales.orders), fraud.event])
        quantity = np.concatenate([np.repeat(sales.quantity, sales.orders), fraud.quantity])
        if rows is None:
            rows = np.arange(planned.rows)
        else:
            known, account, archetype = known[rows], account[rows], archetype[rows]
            event, quantity = event[rows], quantity[rows]
        out = _blank(
            rows,
            account=account,
            archetype=archetype,
            known=known,
            event=event,
            quantity=quantity,
        )
        today = self._day(planned)
        _who_and_when(out, today, self._ids, self._plan.slots.alias)
        _what(out, today, TABLES)
        _with_what(out, today, self._ids)
        return out

    def disguised(self, day: int, orders: Orders, archetype: Codes) -> Orders:
        """`orders` of `day` with their columns drawn as those of `archetype`, from the same draws.

        Who they are (`Orders.archetype`), the event, the quantity and the time stay.
        """
        out = Orders._make(column.copy() for column in orders)._replace(archetype=archetype)
        today = self._day(self._plan.day(day))
        _what(out, today, TABLES)
        _with_what(out, today, self._ids)
        return out._replace(archetype=orders.archetype)

    def _day(self, planned: DayPlan) -> _Day:
        if self._tenants[0] != planned.day:
            self._tenants = (planned.day, self._plan.register.tenants(planned.day))
        return _Day(
            start_us=planned.start_us,
            day=planned.day,
            late_share=self._config.late_share,
            clock=CLOCK,
            key=row_key(self._config.seed, Stream.ORDERS, planned.day),
            tenant=self._tenants[1],
            created_us=self._plan.register.created_us,
            category=self._plan.events.category,
            price=self._plan.events.list_price_cents,
            pools=self._pools,
        )


def _blank(
    rows: Ints, *, account: Ints, archetype: Codes, known: Ints, event: Ints, quantity: Ints
) -> Orders:
    """Orders of which only what the plan says is filled in; -1 stands for not yet known."""
    n = rows.size
    given = {
        "row": rows,
        "account": account,
        "archetype": archetype,
        "known_ts": known,
        "event_id": event,
        "quantity": quantity,
        "tier": np.empty(n, np.int8),
        "channel": np.empty(n, np.int8),
        "avs_match": np.empty(n, np.bool_),
    }
    return Orders._make(given.get(f, np.empty(n, np.int64)) for f in Orders._fields)


def arrival_order(orders: Orders) -> Ints:
    """Positions that sort orders of one day by (known_ts, transaction_id)."""
    # Times of a day and positions fit one integer together, which sorts four times as fast as a
    # sort of positions by two keys; equal times, which are rare, are settled afterwards.
    n = orders.known_ts.size
    since = orders.known_ts - orders.known_ts.min(initial=np.iinfo(np.int64).max)
    order = np.sort(since * MAX_ROWS_PER_DAY + np.arange(n)) & (MAX_ROWS_PER_DAY - 1)
    since = since[order]
    same = np.flatnonzero(since[1:] == since[:-1])
    if same.size:
        tied = np.union1d(same, same + 1)
        rows = order[tied]
        order[tied] = rows[np.lexsort((orders.transaction_id[rows], orders.known_ts[rows]))]
    return order


@jit
def _who_and_when(out: Orders, day: _Day, ids: _Ids, alias: Alias) -> None:
    place = np.empty(out.row.size)
    for i in range(out.row.size):
        a, b, c, d = philox(out.row[i], 0, day.key[0], day.key[1])
        place[i] = unit_wide(c, d) * day.tenant.size
        if out.account[i] < 0:
            out.known_ts[i] = day.start_us + moment(unit_wide(a, b), day.clock)
    # Lookups in tables larger than the cache, in loops of their own: nothing in them waits for a
    # lookup's answer, so that many are under way at once.
    for i in range(out.row.size):
        if out.account[i] < 0:
            category = day.category[out.event_id[i]]
            slot = int(place[i])
            stays = place[i] - slot < alias.keep[category, slot]
            other = alias.other[category, slot]
            out.account[i] = day.tenant[slot if stays else other]
    for i in range(out.row.size):
        out.transaction_id[i] = opaque(day.day * MAX_ROWS_PER_DAY + out.row[i], ids.transaction)
        out.user_id[i] = opaque(out.account[i], ids.user)
        out.created_us[i] = day.created_us[out.account[i]]


@jit
def _what(out: Orders, day: _Day, tables: Tables) -> None:
    for i in range(out.row.size):
        row, kind = out.row[i], out.archetype[i]
        a, b, c, d = philox(row, 1, day.key[0], day.key[1])
        tier = pick(tables.tier, kind, unit(a))
        crowd = pick(tables.devices, kind, unit(b))
        out.tier[i] = tier
        out.avs_match[i] = pick(tables.avs, kind, unit(c)) == 0
        declines = pick(tables.declines, kind, unit(d))
        a, b, c, d = philox(row, 2, day.key[0], day.key[1])
        out.channel[i] = pick(tables.channel, kind, unit(a))
        radius, angle = np.sqrt(-2.0 * np.log(unit(b))), 2.0 * np.pi * unit(c)
        log_s = tables.checkout[kind, 0] + tables.checkout[kind, 1] * radius * np.cos(angle)
        log_km = tables.geo[kind, 0] + tables.geo[kind, 1] * radius * np.sin(angle)
        out.checkout_ms[i] = max(1, int(1e3 * np.exp(log_s)))
        out.geo_distance_m[i] = max(1, min(MAX_GEO_M, int(1e3 * np.exp(log_km))))
        u = unit(d)
        if u < day.late_share:
            delay = -np.log(u / day.late_share) * _MEAN_LATENESS_US
        else:
            rest = (u - day.late_share) / (1.0 - day.late_share)
            delay = _MIN_DELAY_US - np.log1p(-rest) * _MEAN_DELAY_US
        out.occurred_ts[i] = max(out.known_ts[i] - int(delay), day.start_us + 1_000)
        out.account_age_s[i] = max(0, (out.occurred_ts[i] - out.created_us[i]) // 1_000_000)
        unit_price = day.price[out.event_id[i]] * TIER_PERCENT[tier] // 100
        out.amount_cents[i] = out.quantity[i] * unit_price
        out.declines[i] = declines
        out.device_accounts[i] = crowd


@jit
def _with_what(out: Orders, day: _Day, ids: _Ids) -> None:
    """Device, card and address: the account's own, or one of a shared pool.

    Which of the two is settled by published columns alone (accounts on the device, AVS match,
    distance), and the draw inside is the same for everybody, so identifiers tell nothing more.
    """
    for i in range(out.row.size):
        a, b, c, d = philox(out.row[i], 3, day.key[0], day.key[1])
        own, crowd = 4 * out.account[i], out.device_accounts[i]
        device = own + (unit(a) < _SECOND_CHOICE[0])
        if crowd > 0:
            device = _shared(crowd - 1, a, day.pools)
        card = own + (unit(b) < _SECOND_CHOICE[1])
        if not out.avs_match[i]:
            card = _shared(3, b, day.pools)
        ip = own + (unit(c) < _SECOND_CHOICE[2])
        if out.geo_distance_m[i] > _NEAR_M:
            ip = _shared(4, c, day.pools)
        out.device_id[i] = opaque(device, ids.device)
        out.card_id[i] = opaque(card, ids.card)
        out.ip_id[i] = opaque(ip, ids.ip)
        low, high = int(d & np.uint64(0xFFFF)), int(d >> np.uint64(16))
        if out.declines[i] == 2:
            out.declines[i] = 2 + low % 4
        out.device_accounts[i] = _crowd_size(crowd, high)


@jit
def _crowd_size(bucket: int, draw: int) -> int:
    """Accounts on the device, from its bucket in `DEVICE_ACCOUNTS`."""
    if bucket < 2:
        return bucket + 1
    return 3 + draw % 2 if bucket == 2 else 5 + draw % 8


@jit
def _shared(pool: int, word: np.uint64, pools: Ints) -> int:
    member = int(unit(word) * pools[pool])
    return _SHARED + (pool << _POOL_BITS) + member
