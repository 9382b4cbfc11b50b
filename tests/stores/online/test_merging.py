"""Merging in any split and interleaving answers as packing everything at once does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.features.kernel import Ints
from ibook_assets.core.features.packing import in_known_order, pack_keys, pack_rows
from ibook_assets.core.features.plan import Layout, RecordColumn, layouts_of, plan_features
from ibook_assets.core.features.point import PointPlan
from ibook_assets.core.features.spec import (
    SOURCES,
    Aggregation,
    Feature,
    FeatureView,
    Function,
)
from ibook_assets.core.times import DAY_US, HOUR_US, MINUTE_US, SECOND_US
from ibook_assets.stores.online.format import CAP_LATENESS_US, LATENESS_US
from ibook_assets.stores.online.merging import merge, merge_all
from tests.core.features.worlds import BASE_US, EVERYTHING, bits, tables

CATALOGUE = layouts_of(FEATURE_VIEWS)
COUNTED: tuple[tuple[Function, str | None], ...] = (
    ("count", None),
    ("sum", "quantity"),
    ("distinct", "card_id"),
)
CAPPED = FeatureView(
    name="capped",
    entity="user",
    description="Caps so small that trimming happens all the time.",
    features=tuple(
        Aggregation(
            name=f"{function}_{cap}",
            entity="user",
            source="transactions",
            function=function,
            column=column,
            window_us=5 * MINUTE_US,
            cap=cap,
        )
        for function, column in COUNTED
        for cap in (1, 3)
    ),
)
VIEWS = (
    dict.fromkeys(CATALOGUE, FEATURE_VIEWS)
    | dict.fromkeys(layouts_of([EVERYTHING]), (EVERYTHING,))
    | dict.fromkeys(layouts_of([CAPPED]), (CAPPED,))
)


def name_of(layout: Layout) -> str:
    return "-".join(map(str, (layout.source, layout.entity, layout.resolution_us, layout.width)))


def answers(record: bytes, layout: Layout, views: tuple[FeatureView, ...], time: int) -> list[int]:
    """Bits of every aggregate of `views` over this one record."""
    pairs: list[tuple[FeatureView, Feature]] = [
        (view, a)
        for view in views
        for a in view.aggregations
        if (a.source, a.entity, a.resolution_us) == layout.key and a.emit
    ] or [(v, f) for v in views for f in v.emitted]
    plan = plan_features(pairs, layouts_of(views))
    point = PointPlan.of(plan)
    values = np.frombuffer(record, np.int64)
    places = np.zeros((1, len(plan.groups), 2), np.int64)
    for g, group in enumerate(plan.groups):
        places[0, g] = (0, len(values)) if group.layout.key == layout.key and record else (0, -1)
    requests = np.zeros((1, len(plan.row_operands)), np.int64)
    return bits(point.answer(values, places, np.array([time]), requests)[0])


def append(record: bytes | None, rows: Ints, layout: Layout, as_of_us: int) -> bytes:
    offset, tail = merge(record, rows, layout, as_of_us)
    held = record or b""
    assert offset <= len(held)
    assert offset == 0 or offset + len(tail) >= len(held)
    return held[:offset] + tail


@st.composite
def merged_worlds(draw: st.DrawFn, layout: Layout) -> tuple[list[tuple[Ints, list[int]]], int]:
    """Rows of some entities, and of each the numbers of the batches they come in."""
    step_us = draw(st.sampled_from([MINUTE_US // 3, MINUTE_US, HOUR_US, DAY_US, 40 * DAY_US]))
    table = in_known_order(draw(tables(SOURCES[layout.source], step_us, 20)), layout.source)
    _, rows, starts = pack_rows(table, layout)
    worlds = []
    for k in range(len(starts) - 1):
        own = rows[starts[k] : starts[k + 1]]
        numbers = draw(st.lists(st.integers(0, 4), min_size=len(own), max_size=len(own)))
        # Facts of one moment come together: they are released at once, and keep their order.
        for i in range(1, len(own)):
            if own[i, 0] == own[i - 1, 0]:
                numbers[i] = numbers[i - 1]
        worlds.append((own, numbers))
    return worlds, draw(st.integers(0, 18)) * step_us


@pytest.mark.parametrize("layout", VIEWS, ids=name_of)
@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_any_split_in_any_order_answers_as_the_whole(layout: Layout, data: st.DataObject) -> None:
    worlds, later_us = data.draw(merged_worlds(layout))
    for own, numbers in worlds:
        # The watermark never passes a row that is still to come.
        order = data.draw(st.permutations(sorted(set(numbers))))
        record: bytes | None = None
        watermark = 0
        for at, batch in enumerate(order):
            to_come = [int(own[i, 0]) for i, n in enumerate(numbers) if n in order[at:]]
            watermark = max(watermark, min(to_come))
            mine = own[[i for i, n in enumerate(numbers) if n == batch]]
            record = append(record, mine, layout, watermark)
        assert record is not None
        whole = append(None, own, layout, 0)
        last = int(own[-1, 0])
        for time in (watermark, watermark - LATENESS_US, last, last + 1, last + later_us):
            if time >= watermark - LATENESS_US:
                found = answers(record, layout, VIEWS[layout], time)
                assert found == answers(whole, layout, VIEWS[layout], time)


@pytest.mark.parametrize("layout", VIEWS, ids=name_of)
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_merging_into_what_was_packed_answers_as_packing_all(
    layout: Layout, data: st.DataObject
) -> None:
    step_us = data.draw(st.sampled_from([MINUTE_US // 3, MINUTE_US, DAY_US, 40 * DAY_US]))
    table = in_known_order(data.draw(tables(SOURCES[layout.source], step_us, 20)), layout.source)
    base_us = BASE_US + data.draw(st.integers(0, 15)) * step_us
    ids, kept, starts = pack_keys(table, layout, base_us)
    records = {
        int(i): kept[a:b].tobytes()
        for i, a, b in zip(ids, starts, starts[1:], strict=False)
        if a < b
    }
    known = np.asarray(table["known_ts"])
    new_ids, rows, at = pack_rows(table.filter(known >= base_us), layout)
    merged = merge_all([records.get(int(i)) for i in new_ids], rows, at, layout, base_us)
    for entity, (offset, tail) in zip(new_ids.tolist(), merged, strict=True):
        records[entity] = records.get(entity, b"")[:offset] + tail
    time = max(base_us, BASE_US + 20 * step_us)
    ids, kept, starts = pack_keys(table, layout, time)
    for entity, a, b in zip(ids.tolist(), starts, starts[1:], strict=False):
        expected = answers(kept[a:b].tobytes(), layout, VIEWS[layout], time)
        assert answers(records.get(entity, b""), layout, VIEWS[layout], time) == expected


TOTAL = Layout("transactions", "user", 0, (RecordColumn(True, "quantity", None),), DAY_US, 100)


def rows_at(times: range) -> Ints:
    return np.array([[t, 1] for t in times], np.int64)


def seconds_at(times: range) -> Ints:
    return np.array([[t * SECOND_US, 1] for t in times], np.int64)


def test_appending_writes_the_new_rows_only() -> None:
    record = append(None, rows_at(range(10, 20)), TOTAL, 0)
    offset, tail = merge(record, rows_at(range(20, 22)), TOTAL, 0)
    assert offset == len(record) == 11 * 16  # an anchor and ten rows of two integers
    assert np.frombuffer(tail, np.int64).tolist() == [20, 11, 21, 12]


def test_a_late_row_goes_to_its_place() -> None:
    record = append(None, rows_at(range(10, 20, 2)), TOTAL, 0)
    offset, tail = merge(record, rows_at(range(15, 16)), TOTAL, 0)
    assert offset == 4 * 16  # behind the anchor, 10, 12 and 14
    assert np.frombuffer(tail, np.int64).reshape(-1, 2).tolist() == [[15, 4], [16, 5], [18, 6]]


def test_rows_of_one_bucket_are_one_row() -> None:
    minutes = replace(TOTAL, resolution_us=60, cap=0)
    record = append(None, rows_at(range(60, 70)), minutes, 0)
    record = append(record, rows_at(range(118, 122)), minutes, 0)
    late = append(record, rows_at(range(61, 62)), minutes, 0)
    assert np.frombuffer(late, np.int64).reshape(-1, 2).tolist() == [[0, 0], [60, 13], [120, 15]]


def test_the_cap_bounds_a_bot_and_counts_before_the_watermark() -> None:
    late = CAP_LATENESS_US // SECOND_US
    record: bytes | None = None
    for first in range(1_000, 5_000, 10):
        record = append(record, seconds_at(range(first, first + 10)), TOTAL, first * SECOND_US)
        assert len(record) <= (max(2 * 100 + 25, 100 + late + 25) + 10 + 10 + 1) * 16
    assert record is not None
    kept = np.frombuffer(record, np.int64).reshape(-1, 2)
    assert np.count_nonzero(kept[1:, 0] < 4_990 * SECOND_US - CAP_LATENESS_US) >= 100
    # Totals go on from the anchor: rows 1_000 … 4_999 are 4,000.
    assert kept[-1].tolist() == [4_999 * SECOND_US, 4_000]


def test_a_reader_that_is_behind_gets_the_same_from_a_record_beyond_its_cap() -> None:
    layout = next(key for key in VIEWS if VIEWS[key] == (CAPPED,))
    own = np.zeros((2_000, layout.width), np.int64)
    own[:, 0] = BASE_US + np.arange(2_000) * (CAP_LATENESS_US // 500)
    own[:, 1:] = 1
    whole = append(None, own, layout, 0)
    record: bytes | None = None
    for first in range(0, 2_000, 50):
        record = append(record, own[first : first + 50], layout, int(own[first, 0]))
    assert record is not None
    assert len(record) < len(whole) // 2
    watermark_us = int(own[1_950, 0])
    for late_us in (0, CAP_LATENESS_US // 2, CAP_LATENESS_US):
        time = watermark_us - late_us
        assert answers(record, layout, (CAPPED,), time) == answers(whole, layout, (CAPPED,), time)


def test_a_watermark_that_stands_still_drops_nothing_that_counts() -> None:
    record = append(None, rows_at(range(1, 500)), TOTAL, 50)
    kept = np.frombuffer(record, np.int64).reshape(-1, 2)
    assert np.count_nonzero(kept[1:, 0] < 50) >= 49
    assert len(kept) == 500


def test_history_beyond_the_horizon_goes_when_it_is_a_quarter() -> None:
    day = [[k * HOUR_US, 1] for k in range(100, 200)]
    record = append(None, np.array(day, np.int64), TOTAL, 100 * HOUR_US)
    later = append(record, np.array([[210 * HOUR_US, 1]], np.int64), TOTAL, 140 * HOUR_US)
    # As of 140 h, a day and an hour back: rows before 115 h cannot count, 15 of 101 stay.
    assert len(later) == 102 * 16
    later = append(record, np.array([[210 * HOUR_US, 1]], np.int64), TOTAL, 155 * HOUR_US)
    # Before 130 h: 30 of 101 go, the last of them is the anchor.
    assert len(later) == 72 * 16
    assert np.frombuffer(later, np.int64)[0] == 129 * HOUR_US
