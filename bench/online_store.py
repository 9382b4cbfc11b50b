"""The live online stores side by side: bytes per user, reads, and commits of a worker's batches.

    python -m bench.online_store --users 50000

Each store holds the same history: accounts with orders over a year, their cards, devices and
addresses, outcomes, refunds and recent views. LMDB is on the temporary folder's disk, Redis a
process of its own on a unix socket, without persistence; both share the machine with the client.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import redis
from rich.console import Console
from rich.table import Table

from ibook_assets.core.arrow import integers, nulls
from ibook_assets.core.fact_rules import ORDER_COLUMNS
from ibook_assets.core.facts import ENTITY_COLUMNS
from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.features.packing import in_known_order, pack_rows
from ibook_assets.core.features.plan import layouts_of
from ibook_assets.core.features.spec import SOURCES
from ibook_assets.core.tables import TIERS
from ibook_assets.core.times import DAY_US, HOUR_US, SECOND_US
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.stores.online import LiveStore, Position, Write, open_live
from ibook_assets.stores.online.format import (
    ORDER_PREFIX,
    PROGRESS_KEY,
    VIEW_PREFIX,
    OrderRecord,
    key_of,
    pack_attributes,
    pack_seen,
    record_expires_us,
    seen_expires_us,
)
from ibook_assets.stores.online.live import Entry
from ibook_assets.stores.online.merging import merge_all
from ibook_assets.stores.online.packed import packed_records

REPORT: Final = Path("reports/bench/online_store.json")
BASE_US: Final = 20_500 * DAY_US
LAYOUTS: Final = layouts_of(FEATURE_VIEWS)
EVENTS: Final = 2_000
BATCH: Final = 200
"""Orders in a commit: what 2,000 a second are in a tenth of one."""

Facts = Mapping[str, pa.Table]

_ENTITIES: Final = ("transaction_id", *ENTITY_COLUMNS.values())


@dataclass(frozen=True)
class Measurement:
    """What one store took."""

    store: str
    users: int
    orders: int
    record_bytes_per_user: float
    """Packed records of all kinds of entities."""
    order_bytes: float
    """Each order remembered for refunds, outcomes and repetitions."""
    view_bytes: float
    """Each view id remembered until the day after."""
    load_entries_per_s: float
    read_1_us: float
    """Median of the fraud model's features for one order."""
    read_1_p99_us: float
    read_100_us: float
    """Median for a hundred orders together."""
    commit_rows_per_s: float
    """Orders read, merged into all records and committed, in batches of BATCH."""
    commit_p99_ms: float
    commit_cpu_us_per_row: float
    """This process's CPU time; the server's is beside it."""


def facts(users: int, orders_each: int, rng: np.random.Generator) -> Facts:
    """A year of all fact tables; two orders in three by the busier third of the accounts."""
    count = users * orders_each
    ids = np.where(
        rng.random(count) < 0.5, rng.integers(0, users, count), rng.integers(0, users // 3, count)
    )
    known = np.sort(BASE_US - (rng.random(count) ** 2 * 365 * DAY_US).astype(np.int64)) - 1
    orders = {
        "transaction_id": np.arange(count),
        "known_ts": known,
        "user_id": ids,
        "event_id": (rng.random(count) ** 2 * EVENTS).astype(np.int64),
        "amount_cents": rng.integers(1_000, 30_000, count),
        "quantity": rng.integers(1, 6, count),
        "tier": np.array(TIERS)[rng.integers(0, len(TIERS), count)],
        **{name: ids * 3 + rng.integers(0, 3, count) // 2 for name in ("card_id", "device_id")},
        "ip_id": ids * 5 + rng.integers(0, 5, count),
        **{name: rng.integers(0, 90, count) for name in ("declines", "checkout_ms")},
    }
    orders["promoter_id"] = orders["event_id"] % 50
    settled = np.nonzero(known < BASE_US - 45 * DAY_US)[0]
    outcomes = {k: orders[k][settled] for k in _ENTITIES}
    outcomes |= {
        "known_ts": known[settled] + 45 * DAY_US,
        "is_fraud": rng.random(len(settled)) < 0.03,
    }
    back = rng.choice(count, count // 20, replace=False)
    refunds = {k: orders[k][back] for k in (*_ENTITIES, "amount_cents")}
    refunds |= {
        "refund_id": np.arange(len(back)),
        "known_ts": np.minimum(known[back] + DAY_US, BASE_US - 1),
    }
    looks = users // 5
    views = {
        "view_id": np.arange(looks),
        "known_ts": BASE_US - 1 - rng.integers(0, HOUR_US, looks),
        "user_id": rng.integers(0, users, looks),
        "event_id": rng.integers(0, EVENTS, looks),
        "session_id": rng.integers(0, looks // 3, looks),
    }
    tables = {"transactions": orders, "outcomes": outcomes, "refunds": refunds, "views": views}
    return {n: in_known_order(_table(n, columns), n) for n, columns in tables.items()}


def _table(name: str, columns: Mapping[str, np.typing.NDArray[np.generic]]) -> pa.Table:
    rows = len(columns["known_ts"])
    arrays = [
        pa.array(columns[c.name]).cast(c.type)
        if c.name in columns
        else nulls(rows, c.type)
        if c.nullable
        else pa.array(np.zeros(rows)).cast(c.type)
        for c in SOURCES[name].columns
    ]
    return pa.table(arrays, names=list(SOURCES[name].column_names))


def records(tables: Facts) -> Iterator[Entry]:
    """Every entity's record, and the catalogue."""
    for number, layout in enumerate(LAYOUTS):
        for key, value in packed_records(number, tables[layout.source], layout, BASE_US):
            yield key, bytes(value), record_expires_us(layout, bytes(value))
    for event in range(EVENTS):
        attributes = pack_attributes((event % 50, 1, 20_000, 5_000, BASE_US))
        yield key_of(b"\xff", event), attributes, None


def orders_of(table: pa.Table) -> Iterator[Entry]:
    """What is remembered of each order."""
    columns = [integers(table[name], null=-1).tolist() for name in ORDER_COLUMNS]
    for order_id, known_ts, *entities in zip(*columns, strict=True):
        order = OrderRecord._make([known_ts, *entities, known_ts // DAY_US])
        yield key_of(ORDER_PREFIX, order_id), order.pack(), order.expires_us


def views_of(table: pa.Table) -> Iterator[Entry]:
    """What is remembered of each view."""
    ids, times = (integers(table[name], null=-1).tolist() for name in ("view_id", "known_ts"))
    for view_id, known_ts in zip(ids, times, strict=True):
        expires_us = seen_expires_us(VIEW_PREFIX, known_ts)
        yield key_of(VIEW_PREFIX, view_id), pack_seen(known_ts), expires_us


class _Lmdb:
    name = "LMDB"

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "lmdb")
        self._file = folder / "lmdb" / "data.mdb"

    def used(self) -> int:
        return self._file.stat().st_blocks * 512


class _Redis:
    name = "Redis"

    def __init__(self, folder: Path) -> None:
        self.address = f"unix://{folder / 'redis.sock'}"
        self._client = redis.Redis.from_url(self.address)

    def used(self) -> int:
        return int(self._client.info("memory")["used_memory"])


@contextmanager
def redis_server(folder: Path) -> Iterator[None]:
    """A Redis that keeps nothing, on a socket in `folder`."""
    socket = folder / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", ""]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as server:
        try:
            while not socket.exists():
                time.sleep(0.05)
            yield
        finally:
            server.terminate()


def measure(place: _Lmdb | _Redis, tables: Facts, users: int) -> Measurement:
    """Fill, read and write the store at `place`."""
    store = open_live(place.address)
    hashes = {view.name: view.spec_hash for view in FEATURE_VIEWS}
    generation = store.begin_generation(LAYOUTS, hashes, BASE_US)
    entries = list(records(tables))
    before = place.used()
    begun = time.perf_counter()
    loaded = store.load(generation, entries)
    seconds = time.perf_counter() - begun
    with_records = place.used()
    orders = store.load(generation, orders_of(tables["transactions"]))
    with_orders = place.used()
    views = store.load(generation, views_of(tables["views"]))
    with_views = place.used()
    store.publish_generation(generation)
    one, hundred = (reads(store, users, rows) for rows in (1, 100))
    orders_to_come = batches_of(users)
    # Kernels are compiled, or loaded, by the first of them.
    commits(store, orders_to_come[:5])
    cpu = time.process_time()
    batches = commits(store, orders_to_come[5:])
    cpu = time.process_time() - cpu
    found = Measurement(
        place.name,
        users,
        orders,
        record_bytes_per_user=(with_records - before) / users,
        order_bytes=(with_orders - with_records) / orders,
        view_bytes=(with_views - with_orders) / views,
        load_entries_per_s=loaded / seconds,
        read_1_us=float(np.median(one)) * 1e6,
        read_1_p99_us=float(np.quantile(one, 0.99)) * 1e6,
        read_100_us=float(np.median(hundred)) * 1e6,
        commit_rows_per_s=BATCH * len(batches) / float(batches.sum()),
        commit_p99_ms=float(np.quantile(batches, 0.99)) * 1e3,
        commit_cpu_us_per_row=cpu / (BATCH * len(batches)) * 1e6,
    )
    store.close()
    return found


def reads(store: LiveStore, users: int, rows: int) -> np.typing.NDArray[np.float64]:
    """Seconds that fetching the fraud model's features took, again and again."""
    rng = np.random.default_rng(3)
    took = []
    for n in range(300 if rows > 1 else 2_000):
        requests = [
            {
                "user_id": user,
                "event_id": int(rng.integers(0, EVENTS)),
                "card_id": user * 3,
                "device_id": user * 3,
                "ip_id": user * 5,
                "amount_cents": 5_000,
            }
            for user in rng.integers(0, users, rows).tolist()
        ]
        begun = time.perf_counter()
        store.fetch(FRAUD.features, requests)
        if n >= 20:
            took.append(time.perf_counter() - begun)
    return np.array(took)


def batches_of(users: int) -> list[pa.Table]:
    """Batches of orders that come one after the other."""
    rng = np.random.default_rng(4)
    batches = []
    for n in range(100):
        batch = facts(users, 1, rng)["transactions"].slice(0, BATCH)
        known = BASE_US + n * SECOND_US + np.arange(BATCH)
        batches.append(batch.set_column(2, batch.schema.field(2), pa.array(known)))
    return batches


def commits(store: LiveStore, batches: Sequence[pa.Table]) -> np.typing.NDArray[np.float64]:
    """Seconds that reading, merging and committing each batch took."""
    took = []
    for n, batch in enumerate(batches):
        begun = time.perf_counter()
        apply(store, batch, BASE_US + (n + 6) * SECOND_US)
        took.append(time.perf_counter() - begun)
    return np.array(took)


def apply(store: LiveStore, batch: pa.Table, watermark_us: int) -> None:
    """Merge orders into all records of their entities and commit, as the worker does."""
    own = [(n, layout) for n, layout in enumerate(LAYOUTS) if layout.source == "transactions"]
    packed = [pack_rows(batch, layout) for _, layout in own]
    keys = [
        [key_of(bytes([n]), i) for i in ids.tolist()]
        for (n, _), (ids, _, _) in zip(own, packed, strict=True)
    ]
    reading = store.read([PROGRESS_KEY, *(key for some in keys for key in some)])
    values = iter(reading.values[1:])
    writes = {key: Write(value, 0, expires) for key, value, expires in orders_of(batch)}
    for (_, layout), (_, rows, starts), some in zip(own, packed, keys, strict=True):
        merged = merge_all([next(values) for _ in some], rows, starts, layout, BASE_US)
        writes |= {
            key: Write(tail, offset, record_expires_us(layout, tail))
            for key, (offset, tail) in zip(some, merged, strict=True)
        }
    progress = store.progress().advanced({"raw.transactions/0": Position(0, watermark_us)})
    writes[PROGRESS_KEY] = Write(progress.encoded())
    assert store.commit(reading.version, writes)


def show(found: list[Measurement]) -> None:
    """One line for each store."""
    table = Table(title=f"Live stores, {found[0].users:,} users, {found[0].orders:,} orders")
    for name in found[0].__dataclass_fields__:
        if name not in {"users", "orders"}:
            table.add_column(name.replace("_", " "), justify="right")
    for m in found:
        values = asdict(m)
        table.add_row(m.store, *(f"{v:,.0f}" for v in list(values.values())[3:]))
    Console(width=150).print(table)


def main() -> None:
    """Measure both stores and write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--orders", type=int, default=10, help="orders of a user in a year")
    asked = parser.parse_args()
    tables = facts(asked.users, asked.orders, np.random.default_rng(2))
    with tempfile.TemporaryDirectory(prefix="ibook-bench-") as name:
        folder = Path(name)
        found = [measure(_Lmdb(folder), tables, asked.users)]
        if shutil.which("redis-server") is None:
            print("Redis is left out: redis-server is not installed")
        else:
            with redis_server(folder):
                found.append(measure(_Redis(folder), tables, asked.users))
    show(found)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps([asdict(m) for m in found], indent=1))
    print(f"written to {REPORT}")


if __name__ == "__main__":
    main()
