"""Contracts: each bad row has one fate, a bad delivery leaves nothing behind."""

import random
import subprocess
import sys
from datetime import date
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibook_assets.core.errors import ContractError
from ibook_assets.core.quarantine import (
    MAX_REJECTED_SHARE,
    MIN_REJECTED_ROWS,
    RULES,
    quarantine_spec,
    reason_counts,
)
from ibook_assets.core.tables import (
    CATEGORIES,
    EVENTS,
    FEATURE_LOG,
    RAW_TABLES,
    TRANSACTIONS,
    TRUTH_ORDERS,
    TableSpec,
)
from ibook_assets.core.times import DAY_US, MINUTE_US, SECOND_US, day_start_us
from ibook_assets.stores.contracts import CLOCK_SKEW_CAP_US, Validated, validate

DAY = date(2026, 1, 5)
NOON_US = day_start_us(DAY) + DAY_US // 2
TRANSACTION_TYPES = {column.name: column.type for column in TRANSACTIONS.columns}


def _row(transaction_id: int, **changed: Any) -> dict[str, Any]:
    return {
        **dict.fromkeys(TRANSACTIONS.column_names),
        "transaction_id": transaction_id, "occurred_ts": NOON_US, "known_ts": NOON_US,
        "user_id": 1, "event_id": 2, "amount_cents": 500, **changed,
    }  # fmt: skip


def _table(*rows: dict[str, Any], **types: pa.DataType) -> pa.Table:
    # Nullable on purpose: a delivery claims nothing about itself.
    schema = pa.schema([(name, kind) for name, kind in (TRANSACTION_TYPES | types).items()])
    return pa.Table.from_pylist(list(rows), schema=schema)


def _validated(*rows: dict[str, Any], **types: pa.DataType) -> Validated:
    return validate(
        _table(*rows, **types), TRANSACTIONS, source="day", day=DAY, now_us=NOON_US + DAY_US
    )


def test_a_sound_delivery_is_stored_in_known_order() -> None:
    found = _validated(_row(2), _row(1), _row(3, known_ts=NOON_US - 1, occurred_ts=0))
    assert found.accepted["transaction_id"].to_pylist() == [3, 1, 2]
    assert found.accepted.schema == TRANSACTIONS.schema
    assert found.counts == {}
    assert found.quarantined.schema == quarantine_spec(TRANSACTIONS).schema


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"user_id": None}, "user_id:null"),
        ({"known_ts": None}, "known_ts:null"),
        ({"amount_cents": -1}, "amount_cents:below_minimum"),
        ({"amount_cents": 10**10 + 1}, "amount_cents:above_maximum"),
        ({"user_id": -1}, "user_id:below_minimum"),
        ({"tier": "gold"}, "tier:unknown_category"),
        ({"quantity": 0}, "quantity:below_minimum"),
        ({"occurred_ts": NOON_US + 6 * MINUTE_US}, "occurred_ts:after_known"),
        ({"known_ts": NOON_US + DAY_US}, "known_ts:other_day"),
        ({"known_ts": NOON_US + DAY_US + 6 * MINUTE_US}, "known_ts:in_the_future"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_row_is_quarantined_with_its_reason(changed: dict[str, Any], reason: str) -> None:
    found = _validated(_row(1), _row(2, **changed), _row(3))
    assert found.accepted["transaction_id"].to_pylist() == [1, 3]
    assert found.counts == {reason: 1}
    assert reason.partition(":")[2] in RULES
    kept = found.quarantined.to_pylist()[0]
    column = reason.partition(":")[0]
    assert kept["source"] == "day"
    assert kept["transaction_id"] == "2"
    assert kept[column] == (None if reason.endswith("null") else str(_row(2, **changed)[column]))


@pytest.mark.parametrize(
    ("amount", "reason"),
    [
        (float("nan"), "amount_cents:null"),
        (float("inf"), "amount_cents:not_a_whole_number"),
        (1.5, "amount_cents:not_a_whole_number"),
    ],
)
def test_amounts_that_came_as_floats_must_be_whole(amount: float, reason: str) -> None:
    found = _validated(_row(1), _row(2, amount_cents=amount), amount_cents=pa.float64())
    assert found.accepted["amount_cents"].to_pylist() == [500]
    assert found.counts == {reason: 1}


def test_a_row_that_breaks_two_rules_counts_once() -> None:
    found = _validated(_row(1, user_id=None, amount_cents=-5, tier="gold"))
    assert found.counts == {"user_id:null": 1}


@pytest.mark.parametrize("skew_us", [0, SECOND_US, CLOCK_SKEW_CAP_US])
def test_clocks_may_run_ahead_up_to_the_cap(skew_us: int) -> None:
    assert _validated(_row(1, occurred_ts=NOON_US + skew_us)).accepted.num_rows == 1
    known = NOON_US + skew_us
    found = validate(_table(_row(1, known_ts=known)), TRANSACTIONS, source="x", now_us=NOON_US)
    assert found.accepted.num_rows == 1


def test_a_late_row_belongs_to_the_day_it_became_known() -> None:
    late = _row(1, occurred_ts=NOON_US - 3 * DAY_US)
    assert _validated(late).accepted.num_rows == 1


def test_an_exact_repetition_is_dropped_and_counted() -> None:
    found = _validated(_row(1), _row(1), _row(1, known_ts=NOON_US + 5))
    assert found.accepted["known_ts"].to_pylist() == [NOON_US]
    assert (found.repeated, found.counts) == (2, {})


def test_of_contradicting_rows_the_first_known_counts() -> None:
    found = _validated(_row(1, known_ts=NOON_US + 5, amount_cents=1), _row(1))
    assert found.accepted["amount_cents"].to_pylist() == [500]
    assert found.counts == {"transaction_id:conflicting_duplicate": 1}


def test_a_bad_row_does_not_shadow_a_good_one_with_its_key() -> None:
    found = _validated(_row(1, known_ts=NOON_US - 5, amount_cents=-1), _row(1))
    assert found.accepted["amount_cents"].to_pylist() == [500]


deliveries = st.lists(
    st.builds(
        _row,
        st.integers(0, 9),
        known_ts=st.integers(NOON_US, NOON_US + 2),
        user_id=st.none() | st.integers(0, 1),
        amount_cents=st.integers(-1, 1),
        tier=st.sampled_from([None, "vip", "gold"]),
    ),
    max_size=MIN_REJECTED_ROWS - 1,
)


@settings(max_examples=30, deadline=None)
@given(deliveries, st.randoms(use_true_random=False))
def test_every_row_has_one_fate_in_any_order(
    rows: list[dict[str, Any]], shuffler: random.Random
) -> None:
    found = _validated(*rows)
    assert found.rows == len(rows)
    assert sum(found.counts.values()) == found.quarantined.num_rows
    assert reason_counts(found.quarantined) == found.counts
    shuffled = rows.copy()
    shuffler.shuffle(shuffled)
    assert _validated(*shuffled).accepted.equals(found.accepted)
    assert _validated(*found.accepted.to_pylist()).accepted.equals(found.accepted)


def test_what_the_reader_refused_counts_too() -> None:
    refused = _validated(_row(9, user_id=None)).quarantined
    found = validate(_table(_row(1)), TRANSACTIONS, source="day", rejected=refused)
    assert found.rows == 2
    assert found.counts == {"user_id:null": 1}


def test_a_delivery_with_too_many_bad_rows_is_refused_whole() -> None:
    bad = [_row(i, amount_cents=-i) for i in range(1, MIN_REJECTED_ROWS + 1)]
    with pytest.raises(ContractError) as refused:
        _validated(*bad, _row(0))
    message = str(refused.value)
    for part in (
        "day -> transactions",
        f"{MIN_REJECTED_ROWS} of {MIN_REJECTED_ROWS + 1} rows",
        "amount_cents:below_minimum",
        "['-1', '-2', '-3', '-4', '-5']",
        f"allowed {MAX_REJECTED_SHARE:.0%}",
        "Nothing was recorded",
    ):
        assert part in message


def test_a_few_bad_rows_of_a_small_day_do_not_refuse_it() -> None:
    bad = [_row(i, amount_cents=-1) for i in range(MIN_REJECTED_ROWS - 1)]
    assert _validated(*bad).quarantined.num_rows == MIN_REJECTED_ROWS - 1


def test_many_bad_rows_of_a_large_day_do_not_refuse_it() -> None:
    bad = [_row(i, amount_cents=-1) for i in range(MIN_REJECTED_ROWS)]
    total = round(MIN_REJECTED_ROWS / MAX_REJECTED_SHARE)
    good = [_row(i) for i in range(MIN_REJECTED_ROWS, total)]
    assert _validated(*bad, *good).quarantined.num_rows == MIN_REJECTED_ROWS


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ContractError, match=r"missing columns \['user_id'\].*1 rows"):
        validate(_table(_row(1)).drop_columns(["user_id"]), TRANSACTIONS, source="x")


def test_an_unknown_column_is_named() -> None:
    table = _table(_row(1)).append_column("surprise", pa.array([1]))
    with pytest.raises(ContractError, match=r"unknown columns \['surprise'\]"):
        validate(table, TRANSACTIONS, source="x")


def test_a_column_of_another_kind_is_named_with_its_values() -> None:
    table = _table(_row(1, amount_cents="five"), amount_cents=pa.string())
    with pytest.raises(ContractError, match=r"'amount_cents' is string.*\['five'\].*int64"):
        validate(table, TRANSACTIONS, source="x")


def test_narrow_and_dictionary_columns_are_widened() -> None:
    found = _validated(
        _row(1, tier="vip"),
        user_id=pa.int32(),
        tier=pa.dictionary(pa.int8(), pa.string()),
        device_id=pa.null(),
    )
    assert found.accepted.schema == TRANSACTIONS.schema


@pytest.mark.parametrize("spec", [*RAW_TABLES, EVENTS, TRUTH_ORDERS], ids=lambda s: s.name)
def test_every_table_accepts_a_day_without_rows(spec: TableSpec) -> None:
    found = validate(spec.schema.empty_table(), spec, source="x")
    assert found.accepted.schema == spec.schema
    assert found.rows == 0


@pytest.mark.parametrize("posterior", [float("nan"), float("inf")])
def test_a_probability_must_be_a_number(posterior: float) -> None:
    row = {"transaction_id": 1, "known_ts": 2, "archetype": 0, "row_posterior": 0.5}
    table = pa.Table.from_pylist([{**row, "posterior": posterior}], schema=TRUTH_ORDERS.schema)
    assert validate(table, TRUTH_ORDERS, source="x").counts == {"posterior:not_finite": 1}


def test_a_catalogue_without_time_is_deduplicated_too() -> None:
    event = {
        "event_id": 1, "promoter_id": 1, "venue_id": 1, "category": CATEGORIES[0], "capacity": 5,
        "list_price_cents": 1, "on_sale_ts": 0, "starts_ts": 1,
    }  # fmt: skip
    table = pa.Table.from_pylist([event, event], schema=EVENTS.schema)
    assert validate(table, EVENTS, source="x").repeated == 1


def test_importing_the_contracts_does_not_import_pandera() -> None:
    probe = "import sys, ibook_assets.stores.contracts; sys.exit('pandera' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


def vectors_of(values: list[bytes | None]) -> pa.Table:
    rows = [
        {"transaction_id": i, "known_ts": 5, "definition": "d", "vector": value}
        for i, value in enumerate(values)
    ]
    nullable = pa.schema([field.with_nullable(True) for field in FEATURE_LOG.schema])
    return pa.Table.from_pylist(rows, schema=nullable)


def test_a_contradicting_binary_value_is_quarantined_as_hex() -> None:
    rows = vectors_of([b"\xff\x01", b"\xff\x01", b"\xff\x02"])
    same_order = rows.set_column(0, "transaction_id", pa.array([1, 1, 1]))
    checked = validate(same_order, FEATURE_LOG, source="the log")
    assert checked.accepted["vector"].to_pylist() == [b"\xff\x01"]
    assert checked.repeated == 1
    assert checked.quarantined["vector"].to_pylist() == ["ff02"]


def test_only_of_one_delivery_do_many_refused_rows_refuse_the_rest() -> None:
    rows = vectors_of([None] * 60 + [b""] * 40)
    with pytest.raises(ContractError, match="60 of 100 rows rejected"):
        validate(rows, FEATURE_LOG, source="a file")
    checked = validate(rows, FEATURE_LOG, source="the log", one_delivery=False)
    assert (checked.accepted.num_rows, checked.quarantined.num_rows) == (40, 60)
