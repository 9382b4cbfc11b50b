"""Values of somebody's file as the platform's types, a whole column at a time.

Every parser takes a plain Arrow array (see `plain`) and answers with the typed values, null where
there was none or where it could not be read, and which rows broke which rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Any, Final
from zoneinfo import available_timezones

import numpy as np
import pyarrow as pa

from ibook_assets.core.arrow import Array, Column, Mask, array, as_mask, nulls, one_chunk, pc
from ibook_assets.core.errors import ContractError
from ibook_assets.core.ids import MAX_ID, entity_id
from ibook_assets.core.times import to_us

NULL_SPELLINGS: Final = ("", "NULL", "null", "NA", "N/A", "NaN", "nan", "NaT", "None")
"""Text that means "no value" in any column; spaces around it do not matter."""

TRUE_SPELLINGS: Final = ("1", "1.0", "true", "t", "yes", "y")
FALSE_SPELLINGS: Final = ("0", "0.0", "false", "f", "no", "n")
"""Text of a yes/no column, in any case."""

_EXACT_FLOAT: Final = 2**53
_MAX_UNITS: Final = 9 * 10**16
_SHORT_DECIMAL_ID: Final = r"^(0|[1-9][0-9]{0,17})$"
_ID_WRITTEN_AS_FLOAT: Final = r"^[0-9]+\.0*$"
_WHOLE_NUMBER: Final = r"^[+-]?[0-9]{1,18}$"
_PLAIN_AMOUNT: Final = r"^-?[0-9]{1,16}(\.[0-9]{1,12})?$"
_AMOUNT_TYPE: Final = pa.decimal128(30, 12)
_ISO: Final = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?"
_ISO_NAIVE: Final = _ISO + "$"
_ISO_ZONED: Final = _ISO + r"(Z|[+-][0-9]{2}:?[0-9]{2})$"


@dataclass(frozen=True, slots=True)
class Parsed:
    """A column after parsing; `flaws` pairs a rule with the rows whose value broke it."""

    values: Array
    flaws: tuple[tuple[str, Mask], ...] = ()


def plain(column: Column) -> Array:
    """`column` in one chunk, without dictionaries; text trimmed, and null where it says so."""
    values = one_chunk(column)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if not _is_text(values.type):
        return values
    text = pc.utf8_trim_whitespace(values.cast(pa.string()))
    says_null = pc.is_in(text, value_set=array(NULL_SPELLINGS))
    return pc.if_else(says_null, pa.scalar(None, pa.string()), text)


def parse_ids(values: Array) -> Parsed:
    """Identifiers by the rule of `core.ids.entity_id`.

    Rules: `out_of_range` (negative or above 63 bits), `decimal_id` ("12.0": the id 12 that went
    through a float on its way here; hashing it would silently make another entity of it).
    """
    if _is_text(values.type):
        return _ids_of_text(values)
    whole, flawed = _whole_numbers(values)
    negative = as_mask(pc.less(whole, 0))
    return Parsed(_without(whole, negative), (("out_of_range", flawed | negative),))


def parse_whole(values: Array) -> Parsed:
    """Whole numbers as int64. Rule: `not_a_whole_number`."""
    if not _is_text(values.type):
        whole, flawed = _whole_numbers(values)
        return Parsed(whole, (("not_a_whole_number", flawed),))
    readable = as_mask(pc.match_substring_regex(values, _WHOLE_NUMBER))
    digits = pc.replace_substring(_without(values, ~readable), "+", "")
    return Parsed(digits.cast(pa.int64()), (("not_a_whole_number", ~readable & _valid(values)),))


def parse_cents(values: Array) -> Parsed:
    """Amounts in currency units as int64 cents, a half cent going to the even one.

    A float counts as the shortest decimal that reads back as it (57.16, not 57.15999…), so no
    binary fraction reaches the cents. Rule: `not_an_amount` (text, NaN, infinite, above 63 bits).
    """
    if pa.types.is_integer(values.type):
        whole, flawed = _whole_numbers(values)
        large = as_mask(pc.greater(pc.abs(pc.max_element_wise(whole, -_MAX_UNITS - 1)), _MAX_UNITS))
        cents = pc.multiply(_without(whole, large), 100)
        return Parsed(cents, (("not_an_amount", flawed | large),))
    if pa.types.is_floating(values.type) or pa.types.is_decimal(values.type):
        values = values.cast(pa.string())
    _require(_is_text(values.type), values, "numbers or their text")
    simple = as_mask(pc.match_substring_regex(values, _PLAIN_AMOUNT))
    rounded = pc.round(
        _without(values, ~simple).cast(_AMOUNT_TYPE), ndigits=2, round_mode="half_to_even"
    )
    cents = pc.multiply(rounded, pa.scalar(Decimal(100))).cast(pa.int64())
    rest, flawed = _each_distinct(values, ~simple & _valid(values), _cents_of, pa.int64())
    return Parsed(pc.coalesce(cents, rest), (("not_an_amount", flawed),))


def parse_times(values: Array, *, timezone: str) -> Parsed:
    """Times as int64 microseconds UTC; each value may have a zone of its own.

    A time without a zone is local time of `timezone` (IANA name). Where the clocks go back, the
    first of the two instants is taken. Rules: `unreadable_time`, `nonexistent_local_time` (the
    hour that the clocks skip: the zone is probably wrong).
    """
    if _is_text(values.type):
        return _times_of_text(values, timezone=timezone)
    _require(
        pa.types.is_timestamp(values.type) or pa.types.is_date(values.type),
        values,
        "timestamps or ISO 8601 text (a bare number does not say its unit)",
    )
    unreadable = np.zeros(len(values), bool)
    moments = pc.cast(values, pa.timestamp("us", getattr(values.type, "tz", None)), safe=False)
    if moments.type.tz is not None:
        return Parsed(moments.cast(pa.int64()), (("unreadable_time", unreadable),))
    moments_us, skipped = _localised(moments.cast(pa.int64()), timezone)
    return Parsed(moments_us, (("nonexistent_local_time", skipped),))


def parse_flags(values: Array) -> Parsed:
    """Yes/no values as booleans. Rule: `not_a_flag`."""
    text = pc.utf8_lower(values.cast(pa.string()))
    true = as_mask(pc.is_in(text, value_set=array(TRUE_SPELLINGS)))
    false = as_mask(pc.is_in(text, value_set=array(FALSE_SPELLINGS)))
    flags = array(true, mask=~(true | false))
    return Parsed(flags, (("not_a_flag", _valid(values) & ~(true | false)),))


def parse_text(values: Array) -> Parsed:
    """Categories as text, unchanged; the table's contract knows which are allowed."""
    _require(_is_text(values.type), values, "text")
    return Parsed(values)


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _require(condition: bool, values: Array, wanted: str) -> None:  # noqa: FBT001
    if not condition:
        first = values.drop_null().slice(0, 3).to_pylist()
        msg = f"the column holds {values.type}, for example {first}; it needs {wanted}"
        raise ContractError(msg)


def _valid(values: Array) -> Mask:
    return as_mask(pc.is_valid(values))


def _without(values: Array, gone: Mask) -> Array:
    return pc.if_else(array(gone), pa.scalar(None, values.type), values)


def _whole_numbers(values: Array) -> tuple[Array, Mask]:
    """Numbers as int64 and which were not whole or did not fit; NaN means "no value"."""
    if pa.types.is_null(values.type):
        return nulls(len(values), pa.int64()), np.zeros(len(values), bool)
    _require(
        pa.types.is_integer(values.type) or pa.types.is_floating(values.type),
        values,
        "whole numbers, or text",
    )
    if pa.types.is_integer(values.type):
        large = (
            as_mask(pc.greater(values, pa.scalar(MAX_ID, pa.uint64())))
            if pa.types.is_uint64(values.type)
            else np.zeros(len(values), bool)
        )
        return _without(values, large).cast(pa.int64()), large
    numbers = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values).cast(pa.float64())
    whole = as_mask(
        pc.and_(pc.equal(numbers, pc.floor(numbers)), pc.less_equal(pc.abs(numbers), _EXACT_FLOAT))
    )
    return _without(numbers, ~whole).cast(pa.int64()), _valid(numbers) & ~whole


def _ids_of_text(values: Array) -> Parsed:
    short = as_mask(pc.match_substring_regex(values, _SHORT_DECIMAL_ID))
    as_float = as_mask(pc.match_substring_regex(values, _ID_WRITTEN_AS_FLOAT))
    numbers = _without(values, ~short).cast(pa.int64())
    names, _ = _each_distinct(values, ~short & ~as_float & _valid(values), entity_id, pa.int64())
    return Parsed(pc.coalesce(numbers, names), (("decimal_id", as_float),))


def _each_distinct(
    values: Array, chosen: Mask, convert: Callable[[str], Any], kind: pa.DataType
) -> tuple[Array, Mask]:
    """`convert` over the distinct values of the `chosen` rows; None means unreadable."""
    if not chosen.any():
        return nulls(len(values), kind), np.zeros(len(values), bool)
    encoded = _without(values, ~chosen).dictionary_encode()
    converted = array([convert(text) for text in encoded.dictionary.to_pylist()], kind)
    results = converted.take(encoded.indices)
    return results, chosen & ~_valid(results)


def _cents_of(text: str) -> int | None:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        return None
    if not amount.is_finite():
        return None
    # The exponent goes first: quantising 1e999999999 would write out the number.
    if amount.adjusted() < -3:
        return 0
    if amount.adjusted() > 16:
        return None
    cents = int(amount.quantize(Decimal("0.01"), ROUND_HALF_EVEN).scaleb(2))
    return cents if abs(cents) <= MAX_ID else None


def _times_of_text(values: Array, *, timezone: str) -> Parsed:
    zoned = as_mask(pc.match_substring_regex(values, _ISO_ZONED))
    naive = as_mask(pc.match_substring_regex(values, _ISO_NAIVE))
    utc = nulls(len(values), pa.int64())
    local = utc
    try:
        utc = pc.cast(_without(values, ~zoned), pa.timestamp("us", "UTC")).cast(pa.int64())
        local = pc.cast(_without(values, ~naive), pa.timestamp("us")).cast(pa.int64())
    except pa.ArrowInvalid:  # a date such as 2018-02-31 somewhere: go value by value
        zoned[:] = naive[:] = False
        utc = local = nulls(len(values), pa.int64())
    rest = ~zoned & ~naive & _valid(values)
    rest_utc, not_zoned = _each_distinct(values, rest, _zoned_us, pa.int64())
    rest_local, unreadable = _each_distinct(values, not_zoned, _naive_us, pa.int64())
    local_utc, skipped = _localised(pc.coalesce(local, rest_local), timezone)
    return Parsed(
        pc.coalesce(utc, rest_utc, local_utc),
        (("unreadable_time", unreadable), ("nonexistent_local_time", skipped)),
    )


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _zoned_us(text: str) -> int | None:
    moment = _moment(text)
    return None if moment is None or moment.tzinfo is None else to_us(moment)


def _naive_us(text: str) -> int | None:
    moment = _moment(text)
    return None if moment is None else to_us(moment.replace(tzinfo=UTC))


def _localised(local_us: Array, timezone: str) -> tuple[Array, Mask]:
    """Local wall-clock microseconds as UTC ones, and which fell into an hour that was skipped."""
    if timezone == "UTC" or local_us.null_count == len(local_us):
        return local_us, np.zeros(len(local_us), bool)
    if timezone not in available_timezones():
        msg = f"unknown time zone {timezone!r}; IBOOK_FILES_TIMEZONE is an IANA name, Europe/Paris"
        raise ContractError(msg)
    import pandas as pd  # only files in local time pay for it

    clock = pd.DatetimeIndex(local_us.fill_null(0).to_numpy().view("datetime64[us]"))
    first_of_two = np.ones(len(clock), bool)
    # By name: pandas vectorises its own zones, and asks a ZoneInfo object value by value.
    utc = clock.tz_localize(timezone, ambiguous=first_of_two, nonexistent="NaT")
    skipped = np.asarray(utc.isna()) & _valid(local_us)
    moments_us = utc.tz_convert("UTC").tz_localize(None).to_numpy("datetime64[us]").view(np.int64)
    return array(moments_us, mask=skipped | ~_valid(local_us)), skipped
