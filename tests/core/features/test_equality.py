"""Kernel, SQL and plain Python give the same bits, whatever the world throws at them."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibook_assets.core.features.catalog import FEATURE_VIEWS, USER_REALTIME_FRAUD_FEATURES
from ibook_assets.core.features.engine import compute_view
from ibook_assets.core.features.spec import SOURCES, FeatureView
from ibook_assets.core.features.sql import Columns, join_sql, window_sql
from tests.core.features.naive import naive_view
from tests.core.features.worlds import BASE_US, EVERYTHING, World, bits, table_of, worlds

Writer = Callable[[FeatureView, Columns], str]


def run_sql(write: Writer, view: FeatureView, world: World) -> pa.Table:
    """What DuckDB makes of the generated text."""
    with duckdb.connect(":memory:") as connection:
        numbered = world.queries.append_column(
            "query_row", pa.array(np.arange(world.queries.num_rows, dtype=np.int64))
        )
        connection.register("queries", numbered)
        columns = {"queries": world.queries.column_names}
        for name, table in world.sources.items():
            if table is not None:
                connection.register(name, table)
                columns[name] = table.column_names
        found: pa.Table = connection.sql(write(view, columns)).to_arrow_table()
        return found


def assert_same_bits(view: FeatureView, ours: pa.Table, theirs: pa.Table) -> None:
    assert ours["transaction_id"].to_pylist() == theirs["transaction_id"].to_pylist()
    for name in view.feature_names:
        other = theirs[name].cast(pa.float32()).to_pandas().to_numpy(np.float32)
        # SQL has null where we have NaN.
        assert bits(ours[name].to_numpy()) == bits(other), name


@given(worlds())
@settings(max_examples=150, deadline=None)
def test_kernel_equals_plain_python(world: World) -> None:
    ours = compute_view(EVERYTHING, world.sources, world.queries)
    naive = naive_view(EVERYTHING, world.sources, world.queries)
    for name in EVERYTHING.feature_names:
        assert bits(ours[name].to_numpy()) == bits(naive[name]), name


@given(worlds())
@settings(max_examples=40, deadline=None)
def test_kernel_equals_sql(world: World) -> None:
    ours = compute_view(EVERYTHING, world.sources, world.queries)
    assert_same_bits(EVERYTHING, ours, run_sql(join_sql, EVERYTHING, world))


@pytest.mark.parametrize("view", FEATURE_VIEWS, ids=lambda view: view.name)
@given(world=worlds(most=12))
@settings(max_examples=8, deadline=None)
def test_every_view_of_the_catalogue_equals_both(view: FeatureView, world: World) -> None:
    ours = compute_view(view, world.sources, world.queries)
    naive = naive_view(view, world.sources, world.queries)
    for name in view.feature_names:
        assert bits(ours[name].to_numpy()) == bits(naive[name]), name
    assert_same_bits(view, ours, run_sql(join_sql, view, world))


@pytest.mark.parametrize("view", FEATURE_VIEWS, ids=lambda view: view.name)
@given(world=worlds(most=12))
@settings(max_examples=4, deadline=None)
def test_range_windows_equal_below_the_cap(view: FeatureView, world: World) -> None:
    facts = world.sources["transactions"]
    assert facts is not None
    own = World(world.sources, facts)
    ours = compute_view(view, own.sources, own.queries)
    assert_same_bits(view, ours, run_sql(window_sql, view, own))


@given(worlds(most=12), st.data())
@settings(max_examples=30, deadline=None)
def test_absent_columns_and_tables_are_nan_in_both(world: World, data: st.DataObject) -> None:
    sources = dict(world.sources)
    for name, table in world.sources.items():
        if data.draw(st.booleans(), label=f"{name} is absent") and name != "transactions":
            sources[name] = None
        elif table is not None:
            optional = [c.name for c in SOURCES[name].columns if c.nullable]
            gone = data.draw(st.sets(st.sampled_from(optional)) if optional else st.just(set()))
            sources[name] = table.drop_columns(sorted(gone))
    less = World(sources, world.queries)
    ours = compute_view(EVERYTHING, less.sources, less.queries)
    assert_same_bits(EVERYTHING, ours, run_sql(join_sql, EVERYTHING, less))


@given(world=worlds(), random=st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_values_do_not_depend_on_row_order(world: World, random: Random) -> None:
    facts = world.sources["transactions"]
    assert facts is not None
    order = list(range(facts.num_rows))
    random.shuffle(order)
    shuffled = world.sources | {"transactions": facts.take(np.array(order, np.int64))}
    one = compute_view(EVERYTHING, world.sources, world.queries)
    other = compute_view(EVERYTHING, shuffled, world.queries)
    for name in EVERYTHING.feature_names:
        assert bits(one[name].to_numpy()) == bits(other[name].to_numpy()), name


@given(world=worlds(), chunk_rows=st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_values_do_not_depend_on_chunks(world: World, chunk_rows: int) -> None:
    whole = compute_view(EVERYTHING, world.sources, world.queries)
    pieces = compute_view(EVERYTHING, world.sources, world.queries, chunk_rows=chunk_rows)
    for name in EVERYTHING.feature_names:
        assert bits(whole[name].to_numpy()) == bits(pieces[name].to_numpy()), name


def test_a_bot_with_more_rows_than_its_cap_equals_sql() -> None:
    # 6,000 orders of one account a second apart: 30 d holds them all, 4,096 count.
    rows = [
        {"transaction_id": k, "known_ts": BASE_US + k * 1_000_000, "user_id": 1, "card_id": k % 700}
        for k in range(6_000)
    ]
    facts = table_of(SOURCES["transactions"], rows)
    world = World(dict.fromkeys(SOURCES) | {"transactions": facts}, facts.slice(5_990))
    view = USER_REALTIME_FRAUD_FEATURES
    ours = compute_view(view, world.sources, world.queries)
    assert ours["order_count_30d"].to_pylist() == [4_096] * 10
    assert ours["distinct_cards_30d"].to_pylist() == [700] * 10
    assert_same_bits(view, ours, run_sql(join_sql, view, world))
