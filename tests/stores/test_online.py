"""The online store gives batch's bits, swaps under readers, and refuses what was tampered with."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibook_assets.core.errors import (
    ContractError,
    IntegrityError,
    NotFoundError,
    RunNotLiveError,
    StoreUnavailableError,
    UnknownFeatureError,
)
from ibook_assets.core.features import catalog
from ibook_assets.core.features.catalog import ALL_FEATURES, FEATURE_VIEWS
from ibook_assets.core.features.engine import compute_view
from ibook_assets.core.features.spec import SOURCES, FeatureView
from ibook_assets.core.tables import EVENTS
from ibook_assets.core.times import DAY_US, HOUR_US
from ibook_assets.stores.online import (
    OnlineSnapshot,
    OnlineStore,
    OnlineWriter,
    current_snapshot_id,
    fetch_online_features,
)
from ibook_assets.stores.online.format import DATA, META
from tests.core.features.worlds import BASE_US, EVERYTHING, World, bits, table_of, worlds

NOTHING = dict.fromkeys(SOURCES)
COUNT = "user_realtime_fraud_features:order_count_1h"
INVENTORY = "event_realtime_metrics:current_inventory"


@pytest.fixture
def _everything_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalog._BY_NAME, EVERYTHING.name, EVERYTHING)


def orders(*rows: dict[str, Any]) -> pa.Table:
    numbered = [{"transaction_id": k} | row for k, row in enumerate(rows)]
    return table_of(SOURCES["transactions"], numbered)


def facts(*rows: dict[str, Any]) -> dict[str, pa.Table | None]:
    return NOTHING | {"transactions": orders(*rows)}


def events(**attributes: int) -> pa.Table:
    known = {"event_id": 5, "capacity": 100, "list_price_cents": 4_000, "category": "concert"}
    return table_of(EVENTS, [known | attributes])


def value_of(store: OnlineStore | OnlineSnapshot, name: str, **row: Any) -> float:
    return float(store.fetch([name], [row]).values[0, 0])


def as_requests(queries: pa.Table) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in row.items() if v is not None and k != "known_ts"}
        for row in queries.to_pylist()
    ]


def assert_online_equals_batch(
    view: FeatureView, world: World, as_of_us: int, published_us: int
) -> None:
    queries = world.queries.set_column(
        world.queries.schema.get_field_index("known_ts"),
        "known_ts",
        pa.array(np.full(world.queries.num_rows, as_of_us)),
    )
    # Later facts must not matter, so batch sees only what the snapshot may know.
    known = {
        name: None
        if table is None
        else table.filter(pa.array(np.asarray(table["known_ts"]) < published_us))
        for name, table in world.sources.items()
    }
    batch = compute_view(view, known, queries)
    with tempfile.TemporaryDirectory() as folder:
        writer = OnlineWriter(Path(folder))
        writer.publish(world.sources, None, as_of_us=published_us, views=[view])
        fetched = fetch_online_features(
            features=view.qualified_names,
            entity_rows=as_requests(queries),
            store=OnlineStore.open(Path(folder)),
            as_of_us=as_of_us,
        )
    assert fetched.values.dtype == np.float32
    for k, name in enumerate(view.feature_names):
        assert bits(batch[name].to_numpy()) == bits(fetched.values[:, k]), name


@pytest.mark.usefixtures("_everything_is_known")
def test_online_equals_batch_bit_for_bit() -> None:
    @given(world=worlds(), steps=st.integers(1, 20), later=st.integers(0, 20))
    @settings(max_examples=120, deadline=None)
    def check(world: World, steps: int, later: int) -> None:
        # Published and asked on the clock's own steps, so that windows end exactly on rows.
        published = BASE_US + steps * world.step_us
        assert_online_equals_batch(
            EVERYTHING, world, published + later * world.step_us // 2, published
        )

    check()


@pytest.mark.parametrize("view", FEATURE_VIEWS, ids=lambda view: view.name)
@given(world=worlds(most=12), steps=st.integers(1, 20))
@settings(max_examples=5, deadline=None)
def test_every_view_of_the_catalogue_is_equal_online(
    view: FeatureView, world: World, steps: int
) -> None:
    published = BASE_US + steps * world.step_us
    assert_online_equals_batch(view, world, published, published)


def test_a_request_with_user_event_and_amount_is_enough(tmp_path: Path) -> None:
    source = facts(
        {"known_ts": BASE_US, "user_id": 1, "event_id": 5, "quantity": 30, "amount_cents": 100}
    )
    catalogue = events(promoter_id=3, starts_ts=BASE_US + 5 * HOUR_US)
    OnlineWriter(tmp_path).publish(source, catalogue, as_of_us=BASE_US + HOUR_US)
    store = OnlineStore.open(tmp_path)
    row = {"user_id": 1, "event_id": 5, "amount_cents": 8_000}
    assert value_of(store, INVENTORY, **row) == 70  # 100 seats - 30 sold
    assert value_of(store, "order_context:amount_to_list_price", **row) == 2  # 8,000 / 4,000
    assert value_of(store, "order_context:category", **row) == 1  # concert
    assert value_of(store, "order_context:hours_to_event", **row) == 4  # 5 h - 1 h
    assert value_of(store, "promoter_risk:known_outcomes_1d", **row) != 0  # no outcomes at all


def test_entity_without_history_counts_zero_and_is_named(tmp_path: Path) -> None:
    source = facts({"known_ts": BASE_US, "user_id": 1, "event_id": 5})
    OnlineWriter(tmp_path).publish(source, None, as_of_us=BASE_US + 1)
    store = OnlineStore.open(tmp_path)
    fetched = store.fetch([COUNT], [{"user_id": 1}, {"user_id": 2}, {}])
    assert fetched.values[:, 0].tolist()[:2] == [1, 0]
    assert np.isnan(fetched.values[2, 0])
    assert fetched.unknown == ((), ("user",), ())
    assert fetched.as_of_us == BASE_US + 1


def test_text_and_number_name_the_same_entity(tmp_path: Path) -> None:
    source = facts({"known_ts": BASE_US, "user_id": 12, "event_id": 5})
    OnlineWriter(tmp_path).publish(source, None, as_of_us=BASE_US + 1)
    store = OnlineStore.open(tmp_path)
    assert value_of(store, COUNT, user_id="12") == value_of(store, COUNT, user_id=12) == 1


def test_history_beyond_the_horizon_is_dropped(tmp_path: Path) -> None:
    source = facts({"known_ts": BASE_US, "user_id": 1, "event_id": 5})
    kept = OnlineWriter(tmp_path).publish(source, None, as_of_us=BASE_US + 300 * DAY_US)
    gone = OnlineWriter(tmp_path).publish(source, None, as_of_us=BASE_US + 399 * DAY_US)
    assert kept.entities > 0
    assert gone.entities == 0
    assert OnlineStore.open(tmp_path).fetch([COUNT], [{"user_id": 1}]).unknown == (("user",),)


def test_a_bot_keeps_no_more_than_the_cap(tmp_path: Path) -> None:
    rows = [{"known_ts": BASE_US + k, "user_id": 1, "event_id": 5} for k in range(5_000)]
    published = OnlineWriter(tmp_path).publish(facts(*rows), None, as_of_us=BASE_US + HOUR_US)
    store = OnlineStore.open(tmp_path)
    assert value_of(store, COUNT, user_id=1) == 4_096
    assert published.bytes < 4 * 5_000 * 100
    # Minute buckets instead: the event's counter is exact at any volume.
    assert value_of(store, "event_velocity:order_count_1d", event_id=5) == 5_000


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"user": 1}, r"unknown request columns \['user'\].*Did you mean 'user_id'"),
        ({"user_id": -4}, "identifier -4 is outside"),
        ({"user_id": ""}, "must not be empty"),
        ({"user_id": True}, "'user_id' is True"),
        ({"amount_cents": 12.5}, "'amount_cents' is 12.5; allowed: an integer from 0"),
        ({"amount_cents": -1}, "'amount_cents' is -1"),
        ({"quantity": True}, "'quantity' is True"),
        ({"tier": "gold"}, "'tier' is 'gold'; allowed: one of"),
        ({"avs_match": 1}, "'avs_match' is 1; allowed: true or false"),
    ],
    ids=str,
)
def test_a_bad_row_is_refused(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    OnlineWriter(tmp_path).publish(NOTHING, None, as_of_us=BASE_US)
    store = OnlineStore.open(tmp_path)
    with pytest.raises(ContractError, match=message):
        store.fetch(ALL_FEATURES, [row])


def test_the_past_and_unknown_features_are_refused(tmp_path: Path) -> None:
    OnlineWriter(tmp_path).publish(NOTHING, None, as_of_us=BASE_US)
    store = OnlineStore.open(tmp_path)
    with pytest.raises(ContractError, match="before the snapshot's"):
        store.fetch([COUNT], [{"user_id": 1}], as_of_us=BASE_US - 1)
    with pytest.raises(UnknownFeatureError):
        store.fetch(["user_velocity:nothing"], [{"user_id": 1}])


@pytest.mark.usefixtures("_everything_is_known")
def test_another_definition_than_the_published_one_is_refused(tmp_path: Path) -> None:
    OnlineWriter(tmp_path).publish(NOTHING, None, as_of_us=BASE_US)
    with pytest.raises(ContractError, match="holds everything not at all"):
        OnlineStore.open(tmp_path).fetch(["everything:count_1m"], [{"user_id": 1}])


def test_before_the_first_publication(tmp_path: Path) -> None:
    assert current_snapshot_id(tmp_path) is None
    with pytest.raises(NotFoundError, match="nothing is published"):
        OnlineStore.open(tmp_path)


def test_publishing_the_same_again_is_the_same_snapshot(tmp_path: Path) -> None:
    source = facts({"known_ts": BASE_US, "user_id": 1, "event_id": 5})
    one = OnlineWriter(tmp_path).publish(source, None, as_of_us=BASE_US + 1)
    two = OnlineWriter(tmp_path).publish(source, None, as_of_us=BASE_US + 1)
    assert one == two
    assert current_snapshot_id(tmp_path) == one.snapshot_id


def test_readers_move_to_the_newer_snapshot_and_free_the_old_one(tmp_path: Path) -> None:
    writer = OnlineWriter(tmp_path, keep=1)
    source = facts({"known_ts": BASE_US, "user_id": 1, "event_id": 5})
    first = writer.publish(source, None, as_of_us=BASE_US + 1)
    store = OnlineStore.open(tmp_path)
    old = store.refresh()
    second = writer.publish(source, None, as_of_us=BASE_US + 2 * HOUR_US)
    # The old snapshot is still read, so it stays although only one is to be kept.
    assert (tmp_path / first.snapshot_id).exists()
    assert value_of(old, COUNT, user_id=1) == 1
    assert value_of(store, COUNT, user_id=1) == 0
    assert store.refresh().snapshot_id == second.snapshot_id
    del old
    third = writer.publish(source, None, as_of_us=BASE_US + 3 * HOUR_US)
    left = {path.parent.name for path in tmp_path.glob(f"*/{META}")}
    assert left == {second.snapshot_id, third.snapshot_id}


READER = """
import sys
from pathlib import Path
from ibook_assets.stores.online import OnlineStore
store = OnlineStore.open(Path(sys.argv[1]))
print("ready", flush=True)
for _ in sys.stdin:
    found = store.fetch([sys.argv[2]], [{"user_id": 1}])
    print(found.snapshot_id, float(found.values[0, 0]), flush=True)
"""


def test_another_process_follows_the_pointer(tmp_path: Path) -> None:
    writer = OnlineWriter(tmp_path, keep=1)
    source = facts({"known_ts": BASE_US, "user_id": 1, "event_id": 5})
    first = writer.publish(source, None, as_of_us=BASE_US + 1)
    with subprocess.Popen(
        [sys.executable, "-c", READER, str(tmp_path), COUNT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        second = writer.publish(source, None, as_of_us=BASE_US + 2 * HOUR_US)
        # Not collected: the lease of the other process holds it.
        assert (tmp_path / first.snapshot_id).exists()
        print(file=reader.stdin, flush=True)
        assert reader.stdout.readline() == f"{second.snapshot_id} 0.0\n"
        reader.stdin.close()


@pytest.mark.parametrize("name", [DATA, META])
def test_a_changed_byte_is_refused(tmp_path: Path, name: str) -> None:
    published = OnlineWriter(tmp_path).publish(
        facts({"known_ts": BASE_US, "user_id": 1, "event_id": 5}), None, as_of_us=BASE_US + 1
    )
    path = tmp_path / published.snapshot_id / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError):
        OnlineStore.open(tmp_path)


def test_a_publication_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    writer = OnlineWriter(tmp_path)
    before = writer.publish(NOTHING, None, as_of_us=BASE_US)
    with pytest.raises(ContractError, match="publish needs"):
        writer.publish({}, None, as_of_us=BASE_US + 1)
    blocked = OnlineWriter(tmp_path / before.snapshot_id / DATA)
    with pytest.raises(StoreUnavailableError, match="cannot publish"):
        blocked.publish(NOTHING, None, as_of_us=BASE_US + 1)
    assert current_snapshot_id(tmp_path) == before.snapshot_id
    assert not list(tmp_path.glob(".staging-*"))


def test_a_run_that_ended_publishes_nothing(tmp_path: Path) -> None:
    writer = OnlineWriter(tmp_path)
    before = writer.publish(NOTHING, None, as_of_us=BASE_US)

    def ended() -> None:
        raise RunNotLiveError(run_id="r", status="FAILURE")

    with pytest.raises(RunNotLiveError):
        writer.publish(NOTHING, None, as_of_us=BASE_US + 1, precommit=ended)
    assert current_snapshot_id(tmp_path) == before.snapshot_id
    assert not list(tmp_path.glob(".staging-*"))
