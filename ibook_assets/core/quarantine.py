"""Quarantine: rejected rows keep their values as text, with the reason and where they came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import pyarrow as pa

from ibook_assets.core.arrow import Array, Positions, array, nulls, pc
from ibook_assets.core.errors import ContractError
from ibook_assets.core.tables import Column, TableSpec

MAX_REJECTED_SHARE: Final = 0.05
"""Share of rejected rows above which a whole delivery is refused: then the file is wrong."""

MIN_REJECTED_ROWS: Final = 20
"""A delivery is never refused for fewer rejected rows: one bad row of ten is a bad row."""

OFFENDERS_SHOWN: Final = 5
"""Offending values an error message quotes for each reason."""

RULES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "null": "a required value is missing, or is spelled as missing",
        "not_an_amount": "text that is no number, NaN, infinite, or above 63 bits of cents",
        "not_a_whole_number": "a fraction, infinite, or text that is no whole number",
        "not_a_flag": "neither yes nor no",
        "not_finite": "NaN or infinite where a probability belongs",
        "decimal_id": "an id written `12.0`: it went through a float and would become another id",
        "out_of_range": "an id that is negative or fractional, or any number above 63 bits",
        "unreadable_time": "text that is no ISO 8601 time, or a date that does not exist",
        "nonexistent_local_time": "a local time that the clocks skipped; the zone is wrong",
        "below_minimum": "less than the column's least value, such as a negative amount",
        "above_maximum": "more than the column's greatest value",
        "unknown_category": "outside the column's closed set",
        "after_known": "happened later than it was known, by more than clocks may differ",
        "in_the_future": "known later than it arrived, by more than clocks may differ",
        "other_day": "known on another day than the partition's",
        "conflicting_duplicate": "contradicts an earlier known row of the same key",
        "wrong_number_of_columns": "a CSV line with too few or too many fields",
        "not_text": "a number, flag, list or object where text belongs",
        "not_base64": "a binary value that is not written in base64",
        "unreadable_message": "no JSON object, nested too deep, or not UTF-8",
        "unknown_schema": "a message whose schema is missing or of a major version not read here",
        "oversized": "a message above the greatest size of the log",
    }
)
"""Why a row is quarantined. A reason is `column:rule`; the first broken rule of a row is named."""

_PROVENANCE: Final = (
    Column("reason", pa.string(), "Column and the rule its value broke, `column:rule`"),
    Column("source", pa.string(), "Delivery the row came in"),
    Column("source_row", pa.int64(), "Position in the delivery, from 0, where it has one", True),
    Column("record", pa.string(), "The row as it arrived, where it had no columns", nullable=True),
)


def quarantine_spec(spec: TableSpec) -> TableSpec:
    """Where rejected rows of `spec` go: its columns as nullable text, and why they are there."""
    return TableSpec(
        name=spec.name,
        description=f"Rows refused by the contract of `{spec.name}`, each with its reason.",
        key=(),
        time_column=None,
        columns=(
            *_PROVENANCE,
            *(Column(c.name, pa.string(), c.description, nullable=True) for c in spec.columns),
        ),
    )


def quarantined(
    rows: pa.Table,
    spec: TableSpec,
    *,
    reasons: Sequence[str] | Array,
    source: str,
    source_rows: Positions | None = None,
    arrived: Mapping[str, Array] | None = None,
    records: Array | None = None,
) -> pa.Table:
    """`rows` as quarantine rows.

    Args:
        rows: rejected rows, typed as far as they could be; a missing column is null.
        spec: the table that refused them.
        reasons: `column:rule` of each row.
        source: file or partition they came in.
        source_rows: position of each row in the source, from 0.
        arrived: text of columns before they were typed; it fills the values that could not be.
        records: text to keep beside a row that no column can hold.
    """
    text: dict[str, Array] = {name: rows[name].cast(pa.string()) for name in rows.column_names}
    for name, original in (arrived or {}).items():
        text[name] = pc.coalesce(text[name], original) if name in text else original
    own: dict[str, Array] = {
        "reason": array(reasons, pa.string()),
        "source": pa.repeat(pa.scalar(source), rows.num_rows),
        "source_row": None if source_rows is None else array(source_rows),
        "record": records,
    }
    return _filled({**text, **own}, spec, rows=rows.num_rows)


def unsplit(records: Sequence[str], spec: TableSpec, *, source: str) -> pa.Table:
    """Quarantine rows for `records` that could not be split into columns."""
    own = {
        "reason": pa.repeat(pa.scalar("record:wrong_number_of_columns"), len(records)),
        "source": pa.repeat(pa.scalar(source), len(records)),
        "record": array(records, pa.string()),
    }
    return _filled(own, spec, rows=len(records))


def _filled(columns: Mapping[str, Array], spec: TableSpec, *, rows: int) -> pa.Table:
    schema = quarantine_spec(spec).schema
    filled: list[Array] = [
        nulls(rows, field.type) if columns.get(field.name) is None else columns[field.name]
        for field in schema
    ]
    return pa.table(filled, schema=schema)


def reason_counts(rejected: pa.Table) -> dict[str, int]:
    """Quarantined rows by reason, in the reasons' alphabetical order; a row counts once."""
    reasons: list[str] = pc.fill_null(rejected["reason"], "").to_pylist()
    return dict(sorted(Counter(reasons).items()))


def check_rejected_share(rejected: pa.Table, *, total_rows: int, table: str, source: str) -> None:
    """ContractError when so many rows were rejected that the delivery itself must be wrong.

    Args:
        rejected: quarantine rows.
        total_rows: rows of the delivery, the rejected ones included.
        table: platform table the delivery was for.
        source: file or partition, as the message should name it.
    """
    count = rejected.num_rows
    if count < MIN_REJECTED_ROWS or count <= MAX_REJECTED_SHARE * total_rows:
        return
    findings = "; ".join(
        f"{reason} {rows:,} rows, first values {_first_values(rejected, reason)}"
        for reason, rows in reason_counts(rejected).items()
    )
    msg = (
        f"{source} -> {table}: {count:,} of {total_rows:,} rows rejected "
        f"({count / total_rows:.1%}, allowed {MAX_REJECTED_SHARE:.0%}): {findings}. "
        "Nothing was recorded. Correct the source, or the column mapping if the wrong column was "
        "named, and materialise the partition again."
    )
    raise ContractError(msg)


def _first_values(rejected: pa.Table, reason: str) -> list[str | None]:
    column = reason.partition(":")[0]
    column = column if column in rejected.column_names else "record"
    of_reason = rejected.filter(pc.equal(rejected["reason"], reason)).slice(0, OFFENDERS_SHOWN)
    values: list[str | None] = of_reason[column].to_pylist()
    return values
