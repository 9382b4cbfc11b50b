"""One contract for live stores, run against LMDB and a real Redis."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ibook_assets.core.errors import ConflictError, ContractError, NotFoundError
from ibook_assets.core.features import catalog
from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.features.engine import compute_view
from ibook_assets.core.features.plan import layouts_of
from ibook_assets.core.features.spec import SOURCES
from ibook_assets.core.times import DAY_US, HOUR_US, MINUTE_US
from ibook_assets.stores.online.format import (
    EVENT_PREFIX,
    PROGRESS_KEY,
    key_of,
    pack_attributes,
)
from ibook_assets.stores.online.live import (
    LiveQuestions,
    LiveStore,
    Position,
    Progress,
    Reading,
    Write,
)
from ibook_assets.stores.online.opening import open_live
from ibook_assets.stores.online.reading import driven
from tests.core.features.worlds import BASE_US, EVERYTHING, World, bits, table_of, worlds
from tests.stores.online.live_worlds import applied, apply, publish, put

COUNT = "user_realtime_fraud_features:order_count_1h"
INVENTORY = "event_realtime_metrics:current_inventory"


def values(store: LiveStore, *keys: bytes) -> list[bytes | None]:
    return store.read(keys).values


def orders(*rows: dict[str, Any]) -> dict[str, pa.Table | None]:
    numbered = [{"transaction_id": k} | row for k, row in enumerate(rows)]
    nothing: dict[str, pa.Table | None] = dict.fromkeys(SOURCES)
    return nothing | {"transactions": table_of(SOURCES["transactions"], numbered)}


def test_an_empty_store_says_what_to_do(live: LiveStore) -> None:
    with pytest.raises(NotFoundError, match="is empty; run `ibook stream backfill`"):
        live.read([b"a"])
    with pytest.raises(NotFoundError):
        live.fetch([COUNT], [{"user_id": 1}])


def test_what_is_committed_is_read(live: LiveStore) -> None:
    publish(live)
    before = live.read([b"a"])
    assert before.values == [None]
    assert live.commit(before.version, {b"a": Write(b"one"), b"\x00\xff": Write(b"")})
    after = live.read([b"a", b"\x00\xff", b"b"])
    assert after.values == [b"one", b"", None]
    assert after.version != before.version


def test_only_one_of_two_commits_on_one_version_is_made(live: LiveStore) -> None:
    publish(live)
    version = live.read([]).version
    assert live.commit(version, {b"a": Write(b"first")})
    assert not live.commit(version, {b"a": Write(b"second"), b"b": Write(b"second")})
    assert values(live, b"a", b"b") == [b"first", None]


@pytest.mark.parametrize(
    ("offset", "tail", "expected"),
    [
        (6, b"gh", b"abcdefgh"),
        (4, b"EFGH", b"abcdEFGH"),
        (2, b"C", b"abC"),
        (0, b"x", b"x"),
        (3, b"", b"abc"),
    ],
)
def test_a_tail_replaces_the_rest_of_a_value(
    live: LiveStore, offset: int, tail: bytes, expected: bytes
) -> None:
    publish(live)
    assert put(live, {b"a": b"abcdef"})
    assert put(live, {b"a": Write(tail, offset)})
    assert values(live, b"a") == [expected]


def test_a_tail_without_its_head_commits_nothing(live: LiveStore) -> None:
    publish(live)
    assert put(live, {b"a": b"abc"})
    assert not put(live, {b"b": b"new", b"a": Write(b"x", 4)})
    assert not put(live, {b"b": b"new", b"c": Write(b"x", 1)})
    assert values(live, b"a", b"b", b"c") == [b"abc", None, None]


def test_progress_is_the_least_of_all_partitions(live: LiveStore) -> None:
    publish(live, base_us=50)
    assert live.progress() == Progress(50)
    assert live.progress().watermark_us == 50
    progress = live.progress().including(["t/0", "t/1"]).advanced({"t/0": Position(7, 90)})
    assert put(live, {PROGRESS_KEY: progress.encoded()})
    assert live.progress() == progress
    assert progress.watermark_us == 50
    assert progress.advanced({"t/1": Position(3, 80)}).watermark_us == 80
    assert progress.including(["t/0"]) == progress


def test_a_generation_is_filled_aside_and_replaces_everything_at_once(live: LiveStore) -> None:
    publish(live, [(b"a", b"old", None), (b"b", b"old", None)])
    version = live.read([]).version
    hashes = {view.name: view.spec_hash for view in FEATURE_VIEWS}
    generation = live.begin_generation(layouts_of(FEATURE_VIEWS), hashes, 70)
    assert live.load(generation, [(b"a", b"new", None)]) == 1
    assert values(live, b"a", b"b") == [b"old", b"old"]
    assert live.progress().base_us == 0
    live.publish_generation(generation)
    assert values(live, b"a", b"b") == [b"new", None]
    assert live.progress().base_us == 70
    # A worker that read the old generation must look again.
    assert not live.commit(version, {b"a": Write(b"stale")})
    assert {key for key, *_ in live.entries()} == {b"a", PROGRESS_KEY}


def test_of_two_backfills_the_later_one_stays(live: LiveStore) -> None:
    hashes = {view.name: view.spec_hash for view in FEATURE_VIEWS}
    first, second = (live.begin_generation(layouts_of(FEATURE_VIEWS), hashes, k) for k in (1, 2))
    live.publish_generation(second)
    with pytest.raises(ConflictError, match=f"generation {second} was published meanwhile"):
        live.publish_generation(first)
    assert live.progress().base_us == 2


def test_another_process_sees_a_commit_and_can_commit(live: LiveStore, live_address: str) -> None:
    publish(live, [(b"a", b"1", None)])
    code = (
        "import sys; from ibook_assets.stores.online.opening import open_live\n"
        "from ibook_assets.stores.online.live import Write\n"
        "store = open_live(sys.argv[1]); reading = store.read([b'a'])\n"
        "assert reading.values == [b'1']\n"
        "assert store.commit(reading.version, {b'a': Write(b'2')})\n"
    )
    subprocess.run([sys.executable, "-c", code, live_address], check=True)
    assert values(live, b"a") == [b"2"]


def test_writers_that_race_lose_no_update(live: LiveStore, live_address: str) -> None:
    publish(live, [(b"n", b"0", None)])

    def count_up() -> None:
        store = open_live(live_address)
        for _ in range(25):
            done = False
            while not done:
                reading = store.read([b"n"])
                number = int(reading.values[0] or b"") + 1
                done = store.commit(reading.version, {b"n": Write(b"%d" % number)})
        store.close()

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values(live, b"n") == [b"100"]  # 4 threads, 25 times each


def test_a_reading_never_mixes_two_commits(live: LiveStore, live_address: str) -> None:
    keys = [b"%d" % k for k in range(50)]
    publish(live, [(key, b"0", None) for key in keys])
    ended = threading.Event()
    mixed: list[Reading] = []

    def look() -> None:
        store = open_live(live_address)
        while not ended.is_set():
            reading = store.read(keys)
            if len(set(reading.values)) > 1:
                mixed.append(reading)
        store.close()

    reader = threading.Thread(target=look)
    reader.start()
    for k in range(100):
        assert put(live, dict.fromkeys(keys, b"%d" % k))
    ended.set()
    reader.join()
    assert not mixed


def test_other_definitions_are_refused_with_the_next_step(live: LiveStore) -> None:
    publish(live)
    live.require()
    live.require(FEATURE_VIEWS)
    publish(live, views=FEATURE_VIEWS[1:])
    with pytest.raises(ContractError, match=r"\['event_realtime_metrics'\].*`ibook stream backf"):
        live.require()
    with pytest.raises(ContractError, match=r"not at all, this code defines .*stream backfill"):
        live.fetch([INVENTORY], [{"event_id": 1}])


def test_a_fetch_is_as_of_the_watermark(live: LiveStore) -> None:
    publish(live, base_us=BASE_US)
    apply(live, orders({"known_ts": BASE_US + 5, "user_id": 1, "event_id": 5}), BASE_US + 5)
    fetched = live.fetch([COUNT], [{"user_id": 1}, {"user_id": 2}, {}])
    # The order is in the store, but not before the watermark.
    assert fetched.values[:2, 0].tolist() == [0, 0]
    assert fetched.as_of_us == BASE_US + 5
    assert fetched.unknown == ((), ("user",), ())
    assert fetched.degraded == ()
    assert put(live, {PROGRESS_KEY: applied(live, BASE_US + 6)})
    fetched = live.fetch([COUNT], [{"user_id": 1}])
    assert fetched.values[0, 0] == 1
    assert live.fetch([COUNT], [{"user_id": 1}], BASE_US + HOUR_US + 6).values[0, 0] == 0
    with pytest.raises(ContractError, match="long before the live store's"):
        live.fetch([COUNT], [{"user_id": 1}], BASE_US - HOUR_US)


def test_an_event_brings_its_attributes_and_its_promoter(live: LiveStore) -> None:
    event = (3, 1, 100, 4_000, BASE_US + 5 * HOUR_US)
    publish(live, [(key_of(EVENT_PREFIX, 5), pack_attributes(event), None)], base_us=BASE_US)
    apply(live, orders({"known_ts": BASE_US, "event_id": 5, "quantity": 30}), BASE_US + HOUR_US)
    names = [INVENTORY, "order_context:hours_to_event", "promoter_risk:known_outcomes_1d"]
    for _ in range(2):
        fetched = live.fetch(names, [{"event_id": 5}])
        assert fetched.values[0].tolist() == [70, 4, 0]  # 100 - 30 seats, 5 h - 1 h
        assert fetched.unknown == (("promoter",),)
    moved = pack_attributes((4, *event[1:]))
    assert put(live, {key_of(EVENT_PREFIX, 5): moved, b"\x03" + bytes(7) + b"\x04": bytes(32)})
    assert live.fetch(names, [{"event_id": 5}]).unknown == ((),)


def test_one_round_trip_for_all_entities_of_all_rows(live: LiveStore) -> None:
    catalogue = [
        (key_of(EVENT_PREFIX, k), pack_attributes((k, 1, 100, 4_000, 0)), None) for k in range(5)
    ]
    publish(live, catalogue, base_us=BASE_US)
    rows = [{"user_id": k, "event_id": k % 5, "card_id": k} for k in range(20)]
    features = tuple(name for view in FEATURE_VIEWS for name in view.qualified_names)
    asked: list[int] = []

    def counted(keys: Sequence[bytes]) -> Reading:
        asked.append(len(keys))
        return live.read(keys)

    questions = LiveQuestions("here")
    driven(questions.fetching(features, rows, None), counted)
    asked.clear()
    driven(questions.fetching(features, rows, None), counted)
    assert len(asked) == 1


@pytest.mark.parametrize("kind", ["lmdb", "redis"])
def test_streamed_is_batch_bit_for_bit(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setitem(catalog._BY_NAME, EVERYTHING.name, EVERYTHING)
    address = str(tmp_path) if kind == "lmdb" else request.getfixturevalue("redis_url")
    store = open_live(address)

    @given(world=worlds(most=15), cuts=st.lists(st.integers(0, 15), max_size=4))
    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    def check(world: World, cuts: list[int]) -> None:
        publish(store, base_us=BASE_US - world.step_us, views=[EVERYTHING])
        ends = sorted({BASE_US + cut * world.step_us for cut in cuts})
        end = BASE_US + 20 * world.step_us
        for first, last in itertools.pairwise([0, *ends, end]):
            some = {
                name: None if table is None else _between(table, first, last)
                for name, table in world.sources.items()
            }
            apply(store, some, last, [EVERYTHING])
        queries = world.queries.set_column(
            world.queries.schema.get_field_index("known_ts"),
            "known_ts",
            pa.array(np.full(world.queries.num_rows, end)),
        )
        batch = compute_view(EVERYTHING, world.sources, queries)
        rows = [
            {k: v for k, v in row.items() if v is not None and k != "known_ts"}
            for row in queries.to_pylist()
        ]
        fetched = store.fetch(EVERYTHING.qualified_names, rows)
        for k, name in enumerate(EVERYTHING.feature_names):
            assert bits(batch[name].to_numpy()) == bits(fetched.values[:, k]), name

    check()
    store.close()


def _between(table: pa.Table, first: int, last: int) -> pa.Table:
    known = np.asarray(table["known_ts"])
    return table.filter(pa.array((known >= first) & (known < last)))


def test_old_entries_go_by_the_time_of_the_data(live: LiveStore) -> None:
    old = [(b"v%03d" % k, b"x", 10 * MINUTE_US) for k in range(500)]
    stays = [(b"w", b"y", 10 * DAY_US), (b"x", b"z", None)]
    publish(live, [*old, *stays], base_us=0)
    assert len(list(live.entries())) == 503
    for _ in range(15):
        assert put(live, {PROGRESS_KEY: applied(live, 9 * MINUTE_US)})
    assert len(list(live.entries())) == 503
    for _ in range(15):
        assert put(live, {PROGRESS_KEY: applied(live, 11 * MINUTE_US)})
    left = {key for key, *_ in live.entries()}
    assert {b"w", b"x", PROGRESS_KEY} <= left
    if "redis" not in live.address:
        assert left == {b"w", b"x", PROGRESS_KEY}
