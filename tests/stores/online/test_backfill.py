"""Filling live stores from a lake, and moving one in a file."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ibook_assets.core.errors import ConflictError, ContractError, IntegrityError
from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.features.engine import compute_view
from ibook_assets.core.features.spec import SOURCES
from ibook_assets.core.tables import EVENTS, RAW_TABLES
from ibook_assets.core.times import DAY_US, day_start_us
from ibook_assets.stores.fact_days import FACT_DAYS
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.local_blobs import LocalBlobs
from ibook_assets.stores.online.backfill import backfill
from ibook_assets.stores.online.dumping import dump, restore
from ibook_assets.stores.online.format import (
    ORDER_PREFIX,
    REFUND_PREFIX,
    OrderRecord,
    key_of,
    unpack_seen,
)
from ibook_assets.stores.online.live import Entry, LiveStore
from ibook_assets.stores.online.lmdb_live import LmdbLiveStore
from ibook_assets.stores.online.redis_live import RedisLiveStore
from ibook_sim.world import World, WorldConfig
from tests.core.features.worlds import bits
from tests.services.redis_server import RedisService
from tests.stores.online.live_worlds import publish, put

FIRST = date(2026, 1, 1)
DAYS = [(FIRST + timedelta(days=n)).isoformat() for n in range(12)]
BASE_US = day_start_us(FIRST) + len(DAYS) * DAY_US
AGAIN = 987_654_321
"""An id that came back every six days: its order is on the first day."""


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Twelve days of a small world, raw and as facts."""
    lake = Lake(LocalBlobs(tmp_path_factory.mktemp("lake")))
    world = World(WorldConfig(users=300, events=12, orders_per_day=60, seed=5))
    lake.write("raw/events", None, world.catalogue(date.fromisoformat(DAYS[-1])).events)
    for n, day in enumerate(DAYS):
        tables = world.day(date.fromisoformat(day))
        for spec in RAW_TABLES:
            rows: pa.Table = getattr(tables, spec.name)
            if spec.name == "transactions" and n % 6 == 0:
                ids = np.asarray(rows["transaction_id"]).copy()
                ids[0] = AGAIN
                rows = rows.set_column(0, rows.schema.field(0), pa.array(ids))
            lake.write(f"raw/{spec.name}", day, rows, spec=spec)
    for name in ("transactions", "views", "refunds", "outcomes"):
        for day, facts in FACT_DAYS[name](lake, DAYS):
            lake.write(f"facts/{name}", day, facts.table, spec=SOURCES[name])
    return lake


def test_features_after_a_backfill_are_batch_bit_for_bit(live: LiveStore, lake: Lake) -> None:
    assert backfill(lake, live) == BASE_US
    assert live.progress().watermark_us == live.progress().base_us == BASE_US
    sources: dict[str, pa.Table | None] = {n: lake.read(f"facts/{n}") for n in SOURCES}
    orders = sources["transactions"]
    assert orders is not None
    queries = orders.slice(orders.num_rows - 100)
    at = queries.schema.get_field_index("known_ts")
    now = pa.array(np.full(queries.num_rows, BASE_US))
    queries = queries.set_column(at, queries.schema.field(at), now)
    rows = [{k: v for k, v in r.items() if v is not None} for r in queries.to_pylist()]
    for view in FEATURE_VIEWS:
        batch = compute_view(view, sources, queries)
        fetched = live.fetch(view.qualified_names, rows)
        for k, name in enumerate(view.feature_names):
            assert bits(batch[name].to_numpy()) == bits(fetched.values[:, k]), name


def test_orders_and_ids_are_there_for_what_comes_later(live: LiveStore, lake: Lake) -> None:
    backfill(lake, live)
    held = {key: value for key, value, _ in live.entries()}
    facts = lake.read("facts/transactions")
    for row in facts.slice(0, 50).to_pylist():
        order = OrderRecord.unpack(held[key_of(ORDER_PREFIX, row["transaction_id"])])
        assert order.known_ts == row["known_ts"]
        ids = [order.user_id, order.event_id, order.card_id, order.device_id, order.ip_id]
        named = ("user_id", "event_id", "card_id", "device_id", "ip_id")
        assert ids == [-1 if row[n] is None else row[n] for n in named]
        if row["transaction_id"] != AGAIN:
            assert order.last_seen_day == row["known_ts"] // DAY_US
    again = OrderRecord.unpack(held[key_of(ORDER_PREFIX, AGAIN)])
    first_day = day_start_us(FIRST) // DAY_US
    assert (again.known_ts // DAY_US, again.last_seen_day) == (first_day, first_day + 6)
    refunds = lake.read("raw/refunds")
    for row in refunds.to_pylist():
        value = held.get(key_of(REFUND_PREFIX, row["refund_id"]))
        reached = row["known_ts"] >= BASE_US - 7 * DAY_US
        assert (value is not None) == reached
        assert value is None or unpack_seen(value) // DAY_US == row["known_ts"] // DAY_US


def test_facts_that_lag_end_the_backfill_earlier(tmp_path: Path, lake: Lake) -> None:
    lagging = Lake(LocalBlobs(tmp_path / "lake"))
    lagging.write("raw/events", None, lake.read("raw/events", spec=EVENTS))
    for name in SOURCES:
        for day in DAYS[: 4 if name == "views" else 5]:
            lagging.write(f"facts/{name}", day, lake.read(f"facts/{name}", [day]))
    store = LmdbLiveStore(tmp_path / "live")
    assert backfill(lagging, store) == day_start_us(FIRST) + 4 * DAY_US
    with pytest.raises(ContractError, match="has no day yet"):
        backfill(Lake(LocalBlobs(tmp_path / "nothing")), store)
    assert store.progress().base_us == day_start_us(FIRST) + 4 * DAY_US


def test_an_order_is_forgotten_when_nothing_can_name_it_any_more() -> None:
    order = OrderRecord(5 * DAY_US + 7, 1, 2, 3, 4, 5, -1, 6)
    assert OrderRecord.unpack(order.pack()) == order
    assert order.expires_us == 186 * DAY_US  # through the 180th day after day 5
    seen = order._replace(known_ts=-1)
    assert seen.expires_us == 14 * DAY_US  # through the 7th day after day 6
    assert order._replace(last_seen_day=200).expires_us == 208 * DAY_US


@pytest.fixture
def pair(tmp_path: Path, redis_service: RedisService) -> Iterator[list[LiveStore]]:
    """A store of each kind."""
    stores = [
        LmdbLiveStore(tmp_path / "live"),
        RedisLiveStore(redis_service.url, timeout_seconds=2),
    ]
    yield list(stores)
    for store in stores:
        store.close()


@pytest.mark.parametrize("way", ["lmdb-to-redis", "redis-to-lmdb"])
def test_a_dump_moves_a_store_to_another_kind(
    pair: list[LiveStore], lake: Lake, tmp_path: Path, way: str
) -> None:
    source, target = pair if way == "lmdb-to-redis" else pair[::-1]
    backfill(lake, source)
    assert put(source, {b"later": b"x"})
    count = dump(source, tmp_path / "dump")
    publish(target, [(b"old", b"x", None)])
    assert restore(target, tmp_path / "dump") == count
    assert _by_key(target) == _by_key(source)
    assert target.meta() == source.meta()
    target.require()
    assert target.read([b"old"]).values == [None]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dump", "live"]


def _by_key(store: LiveStore) -> dict[bytes, bytes]:
    return {key: value for key, value, _ in store.entries()}


def test_expiry_survives_the_move(pair: list[LiveStore], tmp_path: Path) -> None:
    lmdb, redis = pair
    publish(lmdb, [(b"a", b"1", 9 * DAY_US), (b"b", b"1", None)], base_us=DAY_US)
    dump(lmdb, tmp_path / "one")
    restore(redis, tmp_path / "one")
    dump(redis, tmp_path / "two")
    restore(lmdb, tmp_path / "two")
    left = {key: expires for key, _, expires in lmdb.entries()}
    assert left[b"b"] is None
    assert left[b"a"] is not None
    assert 9 * DAY_US - 60_000_000 < left[b"a"] <= 9 * DAY_US


@pytest.mark.parametrize("damage", ["flipped", "cut", "longer"])
def test_a_damaged_dump_is_refused_and_changes_nothing(
    live: LiveStore, tmp_path: Path, damage: str
) -> None:
    publish(live, [(b"a", b"1" * 100, None)])
    path = tmp_path / "dump"
    dump(live, path)
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    path.write_bytes(data[:-20] if damage == "cut" else data + b"x" * (damage == "longer"))
    before = live.read([])
    with pytest.raises(IntegrityError):
        restore(live, path)
    assert live.read([]) == before
    path.write_bytes(b"something else")
    with pytest.raises(ContractError, match="does not start as a dump"):
        restore(live, path)


def test_redis_is_not_dumped_while_it_is_written(pair: list[LiveStore]) -> None:
    redis = pair[1]
    publish(redis, [(b"%d" % k, b"1", None) for k in range(10)])

    def writing() -> Iterator[Entry]:
        entries = redis.entries()
        yield next(entries)
        assert put(redis, {b"a": b"2"})
        yield from entries

    with pytest.raises(ConflictError, match="stop the worker"):
        list(writing())
    # LMDB holds the moment still.
    lmdb = pair[0]
    publish(lmdb, [(b"%d" % k, b"1", None) for k in range(10)])
    entries = lmdb.entries()
    next(entries)
    assert put(lmdb, {b"5": b"2"})
    assert {value for key, value, _ in entries if key.isdigit()} == {b"1"}
