"""The sending side of the stream's benchmarks, a process of its own.

    python -m bench.streaming_sender pace --bootstrap 127.0.0.1:9092 --rate 2000 --seconds 30

`pace` sends one event after the other through a gateway, each at its scheduled time whatever became
of those before. It writes a line of JSON when it is ready, when the warm-up is over, for some of
the orders and when it has sent everything; after the first two, and before it leaves, it waits for
a line or the end of its input. `fill` sends rows in bulk, as quickly as the gateway takes them.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from typing import Any, Final

import numpy as np
import pyarrow as pa

from bench.online_store import BASE_US
from ibook_assets.core.arrow import integers
from ibook_assets.core.tables import EVENTS, RAW_TABLES, TRANSACTIONS
from ibook_assets.stores.log import LogAddress
from ibook_assets.streaming.gateway import Gateway
from ibook_assets.streaming.replaying import Recording, recorded
from ibook_sim.world import World, WorldConfig

PARTITIONS: Final = 4
USERS: Final = 20_000
WARM_UP_SECONDS: Final = 5
ORDERS_A_SAMPLE: Final = 5
"""One order in so many is looked for by the reader."""

_DAY: Final = date(2026, 1, 20)
_EVENTS_PER_ORDER: Final = 3.5
_CHUNK_ROWS: Final = 1_000


def catalogue() -> pa.Table:
    """The events that rows name."""
    return _world(1_000).catalogue(_DAY).events


def recordings(rows: int) -> dict[str, Recording]:
    """At least `rows` rows of a simulated day by table, of accounts with a history in the store."""
    day = dict(_world(rows / _EVENTS_PER_ORDER).day(_DAY).items())
    tables = {spec.name: _of_known_accounts(day[spec.name]) for spec in RAW_TABLES}
    return recorded(tables, {})


def _world(orders: float) -> World:
    return World(WorldConfig(users=USERS, orders_per_day=max(orders, 1_000)))


def _of_known_accounts(table: pa.Table) -> pa.Table:
    """`table` with the ids of `bench.online_store`'s accounts, cards, devices and addresses."""
    if "user_id" not in table.column_names:
        return table
    users = integers(table["user_id"], null=0) % USERS
    known = {"user_id": users}
    for name, each in (("card_id", 3), ("device_id", 3), ("ip_id", 5)):
        if name in table.column_names:
            known[name] = users * each + integers(table[name], null=0) % (each - 1)
    for name, ids in known.items():
        at = table.column_names.index(name)
        table = table.set_column(at, table.schema.field(at), pa.array(ids))
    return table


Event = tuple[str, dict[str, Any], int]
"""Table, row and user."""


def in_turn(found: Mapping[str, Recording], rows: int) -> list[Event]:
    """The first `rows` rows of all tables as they became known."""
    names = list(found)
    known_us = np.concatenate([found[name].known_us for name in names])
    source = np.repeat(np.arange(len(names)), [len(found[name].users) for name in names])
    first = np.argsort(known_us, kind="stable")[:rows]
    taken = np.bincount(source[first], minlength=len(names))
    events = {
        name: iter(_events(name, found[name], n)) for name, n in zip(names, taken, strict=True)
    }
    return [next(events[names[number]]) for number in source[first].tolist()]


def _events(name: str, recording: Recording, rows: int) -> Iterator[Event]:
    order = np.argsort(recording.known_us, kind="stable")[:rows]
    users = recording.users[order].tolist()
    for row, user in zip(recording.rows.take(order).to_pylist(), users, strict=True):
        yield name, row, user


def clock_from(start_us: int) -> Callable[[], int]:
    """A clock that shows `start_us` now."""
    began = time.monotonic_ns()
    return lambda: start_us + (time.monotonic_ns() - began) // 1_000


def open_gateway(bootstrap: str, clock: Callable[[], int]) -> Gateway:
    """A gateway that has sent the catalogue."""
    log = LogAddress(bootstrap)
    gateway = Gateway(log, gateway_id="bench", partitions=PARTITIONS, clock=clock)
    events = catalogue()
    gateway.send_rows(EVENTS.name, events, integers(events["event_id"], null=0))
    gateway.flush()
    return gateway


def tell(what: str, **values: object) -> None:
    """Write one line for the parent."""
    sys.stdout.write(json.dumps({"what": what, **values}) + "\n")
    sys.stdout.flush()


def pace(bootstrap: str, *, rate: int, seconds: int) -> None:
    """Send `rate` events a second, after a warm-up at the same rate."""
    warm_up = WARM_UP_SECONDS * rate
    rows = warm_up + rate * seconds
    events = in_turn(recordings(rows), rows)
    clock = clock_from(BASE_US)
    # A pause of ours would count as the stream's.
    gc.freeze()
    with open_gateway(bootstrap, clock) as gateway:
        tell("ready", known_us=clock())
        sys.stdin.readline()
        _send(gateway, events[:warm_up], rate, clock, sampled=False)
        tell("warm", known_us=clock())
        sys.stdin.readline()
        began = time.monotonic()
        lags = _send(gateway, events[warm_up:], rate, clock, sampled=True)
        took = time.monotonic() - began
        tell(
            "done",
            events=len(lags),
            rate=len(lags) / took,
            lag_p99_ms=float(np.quantile(lags, 0.99)) / 1e6,
            lag_max_ms=max(lags) / 1e6,
        )
        sys.stdin.readline()


def _send(
    gateway: Gateway,
    events: list[Event],
    rate: int,
    clock: Callable[[], int],
    *,
    sampled: bool,
) -> list[int]:
    """Nanoseconds that each event was sent after its time."""
    lags = []
    orders = 0
    start = time.monotonic_ns()
    for number, (table, row, user) in enumerate(events):
        due = start + number * 1_000_000_000 // rate
        while (now := time.monotonic_ns()) < due:
            time.sleep((due - now) / 1e9)
        lags.append(now - due)
        if "occurred_ts" in row:
            row["occurred_ts"] = clock()
        known_us = gateway.send(table, row, user_id=user)
        if sampled and table == TRANSACTIONS.name:
            orders += 1
            if orders % ORDERS_A_SAMPLE == 0:
                tell("order", user_id=user, known_us=known_us, due_ns=due)
    return lags


def fill(bootstrap: str, rows: int) -> None:
    """Send at least `rows` rows, tables in turn, and say how long it took."""
    found = recordings(rows)
    pieces = max(len(r.users) for r in found.values()) // _CHUNK_ROWS + 1
    clock = clock_from(BASE_US)
    with open_gateway(bootstrap, clock) as gateway:
        began, cpu = time.monotonic(), time.process_time()
        sent = 0
        for piece in range(pieces):
            for name, recording in found.items():
                first, end = (len(recording.users) * p // pieces for p in (piece, piece + 1))
                table = recording.rows.slice(first, end - first)
                gateway.send_rows(name, table, recording.users[first:end])
                sent += end - first
        gateway.flush()
        took, cpu = time.monotonic() - began, time.process_time() - cpu
    tell("done", rows=sent, rate=sent / took, cpu_us_per_row=1e6 * cpu / sent)


def main() -> None:
    """Send."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("how", choices=["pace", "fill"])
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--rate", type=int, default=2_000)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--rows", type=int, default=200_000)
    asked = parser.parse_args()
    if asked.how == "pace":
        pace(asked.bootstrap, rate=asked.rate, seconds=asked.seconds)
    else:
        fill(asked.bootstrap, asked.rows)


if __name__ == "__main__":
    main()
