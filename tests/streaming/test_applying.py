"""What the stream applies, in whatever pieces, answers as batch does, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ibook_assets.core.arrow import array, integers
from ibook_assets.core.errors import ContractError
from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.features.engine import compute_view, required_sources
from ibook_assets.core.features.plan import layouts_of
from ibook_assets.core.tables import EVENTS, RAW_TABLES
from ibook_assets.core.times import HOUR_US, day_start_us
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.stores.fact_days import FACT_DAYS
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.local_blobs import LocalBlobs
from ibook_assets.stores.online.backfill import begin_empty
from ibook_assets.stores.online.live import LiveStore, Position
from ibook_assets.stores.online.lmdb_live import LmdbLiveStore
from ibook_assets.streaming.applying import Applier, OvertakenError
from ibook_assets.streaming.cataloguing import news_of
from ibook_sim.world import World, WorldConfig

FIRST = date(2026, 1, 20)
DAYS = [FIRST + timedelta(days=n) for n in range(3)]
PLACE = "raw.transactions/0"
END_US = day_start_us(DAYS[-1] + timedelta(days=1))


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Three days of a small world that has been going on for a while, and their facts."""
    found = Lake(LocalBlobs(tmp_path_factory.mktemp("applied") / "lake"))
    world = World(WorldConfig(users=800, events=40, orders_per_day=150))
    found.write("raw/events", None, world.catalogue(DAYS[-1]).events, spec=EVENTS)
    for day in DAYS:
        tables = dict(world.day(day).items())
        for spec in RAW_TABLES:
            found.write(f"raw/{spec.name}", day.isoformat(), tables[spec.name], spec=spec)
    for spec in RAW_TABLES:
        for key, facts in FACT_DAYS[spec.name](found, [d.isoformat() for d in DAYS]):
            found.write(f"facts/{spec.name}", key, facts.table)
    return found


def rows_of(lake: Lake) -> dict[str, pa.Table]:
    return {spec.name: lake.read(f"raw/{spec.name}", spec=spec) for spec in RAW_TABLES}


def empty_store(folder: Path) -> LiveStore:
    store = LmdbLiveStore(folder)
    begin_empty(store, day_start_us(FIRST))
    return store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LiveStore]:
    opened = empty_store(tmp_path / "store")
    yield opened
    opened.close()


def between(tables: dict[str, pa.Table], first_us: int, until_us: int) -> dict[str, pa.Table]:
    def chosen(table: pa.Table) -> pa.Table:
        known_us = integers(table["known_ts"], null=0)
        return table.filter(array((known_us >= first_us) & (known_us < until_us)))

    return {name: chosen(table) for name, table in tables.items()}


def batch_values(lake: Lake, orders: pa.Table) -> np.ndarray:
    facts = {spec.name: lake.read(f"facts/{spec.name}") for spec in RAW_TABLES}
    columns = []
    for view in FEATURE_VIEWS:
        sources = {name: facts[name] for name in required_sources(view)}
        values = compute_view(view, sources, orders)
        columns += [values[name].to_numpy() for name in view.feature_names]
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("seed", [1, 2])
def test_every_order_sees_online_what_batch_computes(
    lake: Lake, store: LiveStore, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    applier = Applier(store)
    news = news_of(lake.read("raw/events"))
    raw = rows_of(lake)
    orders = lake.read("facts/transactions")
    known_us = integers(orders["known_ts"], null=0)
    expected = batch_values(lake, orders)
    at = Position(0, day_start_us(FIRST))
    cuts = sorted(rng.integers(at.applied_us, END_US, 25).tolist())
    checked = 0
    for until_us in (*cuts, END_US):
        then = Position(at.offset + 1, until_us)
        applier.commit(
            between(raw, at.applied_us, until_us),
            before={PLACE: at},
            after={PLACE: then},
            news=news,
        )
        fresh = np.flatnonzero((known_us <= until_us) & (known_us > until_us - HOUR_US))
        requests = orders.take(fresh).drop_columns(_FROM_CATALOGUE).to_pylist()
        got = store.fetch_as_of(FRAUD.features, requests, known_us[fresh])
        np.testing.assert_array_equal(got.view(np.uint32), expected[fresh].view(np.uint32))
        checked += len(fresh)
        at = then
    assert checked > 60, "orders of the last hour before each cut"


_FROM_CATALOGUE = ["category_code", "capacity", "list_price_cents", "starts_ts"]


def test_two_workers_that_share_entities_end_where_one_does(lake: Lake, tmp_path: Path) -> None:
    """Rows of even and odd users come through two workers, out of step with each other."""
    raw = rows_of(lake)
    start = Position(0, day_start_us(FIRST))
    end = Position(9, END_US)
    one, two = empty_store(tmp_path / "one"), empty_store(tmp_path / "two")
    alone = Applier(one)
    news = news_of(lake.read("raw/events"))
    alone.commit(raw, before={PLACE: start}, after={PLACE: end}, news=news)

    owners = {row["transaction_id"]: row["user_id"] % 2 for row in raw["transactions"].to_pylist()}

    def share(table: pa.Table, half: int) -> pa.Table:
        key = "user_id" if "user_id" in table.column_names else "transaction_id"
        ids = table[key].to_pylist()
        mine = [(i or 0) % 2 if key == "user_id" else owners.get(i, 0) for i in ids]
        return table.filter(array(np.array(mine) == half))

    for half in (1, 0):
        worker = Applier(two)
        place, at = f"raw.transactions/{half}", start
        for until_us in (*range(start.applied_us + 5 * HOUR_US, END_US, 5 * HOUR_US), END_US):
            then = Position(at.offset + 1, until_us)
            mine = {name: share(table, half) for name, table in raw.items()}
            rows = between(mine, at.applied_us, until_us)
            both = [f"raw.transactions/{n}" for n in (0, 1)]
            worker.commit(rows, before={place: at}, after={place: then}, news=news, everybody=both)
            at = then
    orders = lake.read("facts/transactions").to_pylist()[-40:]
    requests = [{k: v for k, v in o.items() if k not in _FROM_CATALOGUE} for o in orders]
    apart = two.fetch(FRAUD.features, requests, END_US + HOUR_US)
    together = one.fetch(FRAUD.features, requests, END_US + HOUR_US)
    np.testing.assert_array_equal(apart.values, together.values)
    one.close()
    two.close()


def test_a_worker_whose_partitions_were_taken_over_changes_nothing(
    lake: Lake, store: LiveStore
) -> None:
    start = Position(0, day_start_us(FIRST))
    taken = Position(5, start.applied_us + HOUR_US)
    Applier(store).commit({}, before={PLACE: start}, after={PLACE: taken})
    zombie = Applier(store)
    with pytest.raises(OvertakenError, match=PLACE):
        zombie.commit(rows_of(lake), before={PLACE: start}, after={PLACE: Position(9, END_US)})
    assert store.progress().positions[PLACE] == taken


def test_a_store_of_other_definitions_is_refused(tmp_path: Path) -> None:
    store = LmdbLiveStore(tmp_path / "other")
    store.publish_generation(store.begin_generation(layouts_of(FEATURE_VIEWS), {}, 0))
    with pytest.raises(ContractError, match="ibook stream backfill"):
        Applier(store)
    store.close()
