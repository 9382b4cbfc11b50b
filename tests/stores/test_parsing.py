"""Values of a file as the platform's types: exact, and every unreadable one named."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibook_assets.core.arrow import Array
from ibook_assets.core.errors import ContractError
from ibook_assets.core.ids import MAX_ID, entity_id
from ibook_assets.core.times import to_us
from ibook_assets.stores.parsing import (
    NULL_SPELLINGS,
    Parsed,
    parse_cents,
    parse_flags,
    parse_ids,
    parse_times,
    parse_whole,
    plain,
)


def _broken(parsed: Parsed) -> dict[str, list[int]]:
    return {rule: np.flatnonzero(rows).tolist() for rule, rows in parsed.flaws if rows.any()}


def _text(*values: str | None) -> Array:
    return plain(pa.array(values, pa.string()))


def _cents(amount: Decimal) -> int:
    return int(amount.quantize(Decimal("0.01"), ROUND_HALF_EVEN) * 100)


@settings(deadline=None)
@given(st.lists(st.decimals(-(10**9), 10**9, places=4, allow_nan=False), min_size=1))
def test_text_amounts_are_exact_cents(amounts: list[Decimal]) -> None:
    parsed = parse_cents(_text(*map(str, amounts)))
    assert parsed.values.to_pylist() == [_cents(amount) for amount in amounts]


@settings(deadline=None)
@given(st.lists(st.floats(-1e12, 1e12), min_size=1))
def test_a_float_amount_is_its_shortest_decimal(amounts: list[float]) -> None:
    parsed = parse_cents(plain(pa.array(amounts)))
    assert parsed.values.to_pylist() == [_cents(Decimal(repr(amount))) for amount in amounts]


@pytest.mark.parametrize(
    ("amount", "cents"),
    [
        (1.015, 102),  # 1.015 * 100 = 101.49999999999999 in binary, 101.5 in decimal, even is 102
        (0.125, 12),
        (57.16, 5716),
        (-0.5, -50),
        (Decimal("3.105"), 310),
        (7, 700),
    ],
)
def test_amounts_in_cents(amount: float | Decimal, cents: int) -> None:
    assert parse_cents(plain(pa.array([amount]))).values.to_pylist() == [cents]


@pytest.mark.parametrize("amount", [float("nan"), float("inf"), -float("inf"), 1e300, 2**62])
def test_an_amount_that_is_none_is_named(amount: float) -> None:
    parsed = parse_cents(plain(pa.array([5, amount] if isinstance(amount, int) else [5.0, amount])))
    assert _broken(parsed) == {"not_an_amount": [1]}
    assert parsed.values.to_pylist() == [500, None]


def test_text_that_is_no_amount_is_named() -> None:
    parsed = parse_cents(_text("1e3", "+5", "1,000", "$5", "inf", "1e999999999", "9" * 17, None))
    assert parsed.values.to_pylist() == [100_000, 500, *[None] * 6]
    assert _broken(parsed) == {"not_an_amount": [2, 3, 4, 5, 6]}


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8")) | st.integers(0, MAX_ID).map(str)))
def test_text_ids_follow_the_platforms_rule(values: list[str]) -> None:
    column = _text(*values)
    parsed = parse_ids(column)
    decimal_ids = set(_broken(parsed).get("decimal_id", []))
    for i, value in enumerate(column.to_pylist()):
        expected = None if value is None or i in decimal_ids else entity_id(value)
        assert parsed.values[i].as_py() == expected


@settings(deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_integer_ids_pass_through(values: list[int]) -> None:
    parsed = parse_ids(pa.array(values, pa.int64()))
    assert parsed.values.to_pylist() == [value if value >= 0 else None for value in values]
    assert _broken(parsed).get("out_of_range", []) == [i for i, v in enumerate(values) if v < 0]


def test_ids_that_went_through_a_float_are_not_hashed_into_somebody_else() -> None:
    assert _broken(parse_ids(_text("12.0", "12"))) == {"decimal_id": [0]}


def test_float_ids_are_read_where_they_are_whole() -> None:
    parsed = parse_ids(pa.array([12.0, float("nan"), 2.5, 2.0**60, None]))
    assert parsed.values.to_pylist() == [12, None, None, None, None]
    assert _broken(parsed) == {"out_of_range": [2, 3]}


def test_an_unsigned_id_above_63_bits_is_out_of_range() -> None:
    parsed = parse_ids(pa.array([2**63, 5], pa.uint64()))
    assert _broken(parsed) == {"out_of_range": [0]}


offsets = st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m)))
moments = st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=offsets)  # noqa: DTZ001


@settings(deadline=None)
@given(st.lists(moments))
def test_every_value_may_have_a_zone_of_its_own(values: list[datetime]) -> None:
    parsed = parse_times(_text(*(v.isoformat() for v in values)), timezone="Europe/Paris")
    assert parsed.values.to_pylist() == [to_us(v) for v in values]


@pytest.mark.parametrize(
    "text",
    ["2018-07-01T12:00:00+02:00", "2018-07-01 10:00:00Z", "2018-07-01T12:00:00", "2018-07-01 12:00",
     "2018-07-01T05:00:00-0500", "20180701T120000"],
)  # fmt: skip
def test_spellings_of_one_moment(text: str) -> None:
    parsed = parse_times(_text(text), timezone="Europe/Paris")
    assert parsed.values.to_pylist() == [to_us(datetime(2018, 7, 1, 10, tzinfo=UTC))]


def test_zones_mix_with_none_in_one_column() -> None:
    parsed = parse_times(
        _text("2018-07-01 12:00:00", None, "2018-07-01T10:00:00Z"), timezone="Europe/Paris"
    )
    noon = to_us(datetime(2018, 7, 1, 10, tzinfo=UTC))
    assert parsed.values.to_pylist() == [noon, None, noon]


def test_the_repeated_hour_is_its_first_pass_and_the_skipped_one_is_refused() -> None:
    parsed = parse_times(
        _text("2018-10-28 02:30:00", "2018-03-25 02:30:00"), timezone="Europe/Paris"
    )
    assert parsed.values.to_pylist() == [to_us(datetime(2018, 10, 28, 0, 30, tzinfo=UTC)), None]
    assert _broken(parsed) == {"nonexistent_local_time": [1]}


def test_one_impossible_date_does_not_hide_the_others() -> None:
    parsed = parse_times(_text("2018-02-31 00:00:00", "2018-02-28 00:00:00"), timezone="UTC")
    assert parsed.values.to_pylist() == [None, to_us(datetime(2018, 2, 28, tzinfo=UTC))]
    assert _broken(parsed) == {"unreadable_time": [0]}


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "America/New_York"])
def test_timestamps_of_any_unit(unit: Any, zone: str | None) -> None:
    moment = datetime(2018, 7, 1, 10, tzinfo=UTC)
    column = pa.array([moment if zone else moment.replace(tzinfo=None)], pa.timestamp(unit, zone))
    assert parse_times(plain(column), timezone="UTC").values.to_pylist() == [to_us(moment)]


def test_a_number_is_not_a_time() -> None:
    with pytest.raises(ContractError, match="does not say its unit"):
        parse_times(pa.array([1_522_540_831]), timezone="UTC")


def test_an_unknown_zone_names_the_setting() -> None:
    with pytest.raises(ContractError, match="IBOOK_FILES_TIMEZONE"):
        parse_times(_text("2018-07-01 12:00:00"), timezone="Europe/Atlantis")


def test_flags_and_whole_numbers() -> None:
    flags = parse_flags(_text("1", "TRUE", "no", "maybe", None))
    assert flags.values.to_pylist() == [True, True, False, None, None]
    assert _broken(flags) == {"not_a_flag": [3]}
    whole = parse_whole(_text("+3", "-2", "1.5", None))
    assert whole.values.to_pylist() == [3, -2, None, None]
    assert _broken(whole) == {"not_a_whole_number": [2]}


@pytest.mark.parametrize("spelling", NULL_SPELLINGS)
def test_nothing_can_be_spelled(spelling: str) -> None:
    column = pa.array([f" {spelling} "]).dictionary_encode()
    assert plain(column).to_pylist() == [None]
