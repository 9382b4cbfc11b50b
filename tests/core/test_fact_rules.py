"""Facts: pure functions of what was known, whatever order or how often it arrived."""

import random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibook_assets.core.arrow import Array
from ibook_assets.core.fact_rules import (
    ID_LOOKBACK_DAYS,
    ORDER_COLUMNS,
    ORDER_LOOKBACK_DAYS,
    Facts,
    build_outcomes,
    build_refunds,
    build_transactions,
    build_views,
)
from ibook_assets.core.facts import FACT_OUTCOMES, FACT_TRANSACTIONS
from ibook_assets.core.tables import EVENTS, OUTCOMES, REFUNDS, TRANSACTIONS, VIEWS, TableSpec
from ibook_assets.core.times import DAY_US

NO_IDS = pa.array([], pa.int64())
CATALOGUE = pa.Table.from_pylist(
    [
        {
            "event_id": 10, "promoter_id": 77, "venue_id": 1, "category": "concert",
            "capacity": 500, "list_price_cents": 4_000, "on_sale_ts": 0, "starts_ts": 9_000,
        }
    ],
    schema=EVENTS.schema,
)  # fmt: skip


def _table(rows: list[dict[str, Any]], spec: TableSpec) -> pa.Table:
    blank = dict.fromkeys(spec.column_names)
    return pa.Table.from_pylist([{**blank, **row} for row in rows], schema=spec.schema)


def _order(transaction_id: int, known_ts: int, **more: Any) -> dict[str, Any]:
    return {
        "transaction_id": transaction_id, "occurred_ts": known_ts, "known_ts": known_ts,
        "user_id": 1, "event_id": 10, "amount_cents": 100, **more,
    }  # fmt: skip


def _transactions(
    rows: list[dict[str, Any]], earlier_ids: Array = NO_IDS, events: pa.Table = CATALOGUE
) -> Facts:
    return build_transactions(_table(rows, TRANSACTIONS), earlier_ids=earlier_ids, events=events)


def _bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


orders = st.lists(
    st.builds(
        _order,
        st.integers(0, 8),
        st.integers(0, 5),
        user_id=st.integers(0, 2),
        event_id=st.sampled_from([10, 11]),
        promoter_id=st.none() | st.just(5),
        tier=st.none() | st.just("vip"),
    ),
    max_size=25,
)


@settings(deadline=None)
@given(orders, st.randoms(use_true_random=False))
def test_shuffled_rows_give_the_same_bytes(
    rows: list[dict[str, Any]], shuffler: random.Random
) -> None:
    shuffled = rows.copy()
    shuffler.shuffle(shuffled)
    assert _bytes(_transactions(shuffled).table) == _bytes(_transactions(rows).table)


@settings(deadline=None)
@given(orders)
def test_rows_sent_twice_give_the_same_bytes(rows: list[dict[str, Any]]) -> None:
    assert _bytes(_transactions(rows + rows).table) == _bytes(_transactions(rows).table)


@settings(deadline=None)
@given(orders)
def test_facts_of_facts_are_the_facts(rows: list[dict[str, Any]]) -> None:
    facts = _transactions(rows).table
    again = build_transactions(
        facts.select(TRANSACTIONS.column_names), earlier_ids=NO_IDS, events=CATALOGUE
    )
    assert _bytes(again.table) == _bytes(facts)
    assert again.counts["repeated"] == again.counts["conflicting"] == 0


@settings(deadline=None)
@given(orders)
def test_every_raw_row_is_accounted_for(rows: list[dict[str, Any]]) -> None:
    facts = _transactions(rows, earlier_ids=pa.array([0, 1]))
    left_out = ("repeated", "conflicting", "known_before")
    assert facts.table.num_rows + sum(facts.counts[name] for name in left_out) == len(rows)


def test_rows_lie_in_known_order_with_ties_by_id() -> None:
    table = _transactions([_order(3, 7), _order(2, 7), _order(9, 1)]).table
    assert table["transaction_id"].to_pylist() == [9, 2, 3]
    assert table.schema == FACT_TRANSACTIONS.schema


def test_the_catalogue_fills_attributes_and_a_missing_promoter() -> None:
    rows = [_order(1, 1), _order(2, 2, promoter_id=5), _order(3, 3, event_id=999)]
    facts = _transactions(rows)
    assert facts.table["promoter_id"].to_pylist() == [77, 5, None]
    assert facts.table["category_code"].to_pylist() == [1, 1, None]  # concert is CATEGORIES[1]
    assert facts.table["starts_ts"].to_pylist() == [9_000, 9_000, None]
    assert facts.counts["unknown_events"] == 1


def test_an_empty_catalogue_leaves_attributes_null() -> None:
    facts = _transactions([_order(1, 1)], events=EVENTS.schema.empty_table())
    assert facts.table["capacity"].to_pylist() == [None]


def test_an_order_that_returns_within_the_look_back_counts_once() -> None:
    # Known on days 0, 5 and 10. Looking back over raw rows, day 10 still sees day 5's repetition,
    # so the order counts once although ten days lie between its first and last arrival.
    counted = 0
    arrivals = (0, 5, 10)
    for day in arrivals:
        earlier = [1 for other in arrivals if day - ID_LOOKBACK_DAYS <= other < day]
        facts = _transactions([_order(1, day * DAY_US)], pa.array(earlier, pa.int64()))
        counted += facts.table.num_rows
    assert counted == 1


def _orders(*rows: dict[str, Any]) -> pa.Table:
    return _transactions(list(rows)).table.select(ORDER_COLUMNS)


def test_an_outcome_carries_the_entities_of_its_order() -> None:
    raw = _table(
        [
            {"transaction_id": 1, "known_ts": 50, "is_fraud": 1, "amount_cents": 100},
            {"transaction_id": 2, "known_ts": 40, "is_fraud": 0, "amount_cents": 100},
        ],
        OUTCOMES,
    )
    facts = build_outcomes(raw, orders=_orders(_order(1, 10, user_id=8, card_id=9)))
    assert facts.table.schema == FACT_OUTCOMES.schema
    assert facts.table["transaction_id"].to_pylist() == [2, 1]
    assert facts.table["user_id"].to_pylist() == [None, 8]
    assert facts.table["card_id"].to_pylist() == [None, 9]
    assert facts.counts["orphans"] == 1


def test_an_outcome_cannot_tell_the_entities_of_an_order_known_later() -> None:
    raw = _table(
        [{"transaction_id": 1, "known_ts": 5, "is_fraud": 1, "amount_cents": 100}], OUTCOMES
    )
    facts = build_outcomes(raw, orders=_orders(_order(1, 6)))
    assert facts.table["user_id"].to_pylist() == [None]
    assert facts.counts["orphans"] == 1


def test_orders_that_no_row_names_change_nothing() -> None:
    raw = _table(
        [{"transaction_id": 1, "known_ts": 9, "is_fraud": 1, "amount_cents": 100}], OUTCOMES
    )
    few = build_outcomes(raw, orders=_orders(_order(1, 6)))
    many = build_outcomes(raw, orders=_orders(*(_order(i, 6) for i in range(20))))
    assert _bytes(few.table) == _bytes(many.table)


@pytest.mark.parametrize(
    ("known_day", "user"), [(0, None), (1, 8)], ids=["beyond the look-back", "its first day"]
)
def test_orders_beyond_the_look_back_change_nothing(known_day: int, user: int | None) -> None:
    # A caller that builds many days at once reads more than one day needs.
    known_ts = (1 + ORDER_LOOKBACK_DAYS) * DAY_US
    row = {"transaction_id": 1, "known_ts": known_ts, "is_fraud": 1, "amount_cents": 100}
    first = _order(1, known_day * DAY_US, user_id=8)
    facts = build_outcomes(_table([row], OUTCOMES), orders=_orders(first))
    assert facts.table["user_id"].to_pylist() == [user]


def test_a_refund_returns_once_and_knows_its_order() -> None:
    refund = {"occurred_ts": 7, "known_ts": 8, "transaction_id": 1, "amount_cents": 100}
    raw = _table([{"refund_id": i, **refund} for i in (3, 3, 4)], REFUNDS)
    facts = build_refunds(raw, earlier_ids=pa.array([4]), orders=_orders(_order(1, 6, ip_id=2)))
    assert facts.table["refund_id"].to_pylist() == [3]
    assert facts.table["ip_id"].to_pylist() == [2]
    assert (facts.counts["repeated"], facts.counts["known_before"]) == (1, 1)


def test_views_are_sorted_and_counted_once() -> None:
    view = {"occurred_ts": 1, "session_id": 1, "event_id": 10, "dwell_ms": 5}
    raw = _table(
        [{"view_id": i, "known_ts": t, **view} for i, t in ((2, 4), (1, 9), (2, 4))], VIEWS
    )
    assert build_views(raw).table["view_id"].to_pylist() == [2, 1]


@pytest.mark.parametrize("spec", [TRANSACTIONS, REFUNDS, OUTCOMES, VIEWS], ids=lambda s: s.name)
def test_a_day_without_rows_is_an_empty_fact_partition(spec: TableSpec) -> None:
    raw, nobody = spec.schema.empty_table(), _orders()
    built = {
        "transactions": lambda: build_transactions(raw, earlier_ids=NO_IDS, events=CATALOGUE),
        "refunds": lambda: build_refunds(raw, earlier_ids=NO_IDS, orders=nobody),
        "outcomes": lambda: build_outcomes(raw, orders=nobody),
        "views": lambda: build_views(raw),
    }[spec.name]()
    assert built.table.num_rows == 0
    assert built.counts["raw"] == 0
