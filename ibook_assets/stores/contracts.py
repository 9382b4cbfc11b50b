"""Contracts of the tables, held by Pandera before anything is recorded.

The rules are derived from the `TableSpec`s of `core.tables`; nothing is typed here a second time.
Importing this module is cheap, Pandera and pandas load with the first validation.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from ibook_assets.core.arrow import Array, Positions, array, as_mask, nulls, one_chunk, pc
from ibook_assets.core.duplicates import deduplicate
from ibook_assets.core.errors import ContractError
from ibook_assets.core.quarantine import check_rejected_share, quarantined, reason_counts
from ibook_assets.core.tables import Column, TableSpec
from ibook_assets.core.times import DAY_US, MINUTE_US, day_start_us
from ibook_assets.stores.parsing import Parsed, parse_whole

if TYPE_CHECKING:
    import pandera.pandas as pandera

CLOCK_SKEW_CAP_US: Final = 5 * MINUTE_US
"""How far a clock may run ahead: an event may claim to have happened this long after it was known,
and to be known this long after now. Beyond it the time is wrong, not early (microseconds)."""

_LEAD: Final = "occurred_ts - known_ts"


@dataclass(frozen=True, slots=True)
class Validated:
    """A delivery after its contract: rows = accepted + repeated + quarantined, exactly."""

    accepted: pa.Table
    """Rows that hold the contract, in the stored schema and the order of (time, key)."""
    quarantined: pa.Table
    """Rows that do not, as quarantine rows with a reason each."""
    repeated: int
    """Rows dropped because they repeat an accepted one."""
    counts: Mapping[str, int]
    """Quarantined rows by reason."""

    @property
    def rows(self) -> int:
        """Rows delivered."""
        return self.accepted.num_rows + self.quarantined.num_rows + self.repeated


def validate(
    table: pa.Table,
    spec: TableSpec,
    *,
    source: str,
    day: date | None = None,
    now_us: int | None = None,
    rejected: pa.Table | None = None,
    one_delivery: bool = True,
) -> Validated:
    """Hold `table` against the contract of `spec`.

    Args:
        table: the delivery, with exactly the columns of `spec`.
        spec: the contract.
        source: file or partition, as messages and quarantine rows name it.
        day: the daily partition; rows known on another day are quarantined, not misfiled.
        now_us: moment of ingestion; rows known more than `CLOCK_SKEW_CAP_US` later are refused.
        rejected: quarantine rows of the same delivery that its reader could not type.
        one_delivery: whether the rows were delivered together, as a file's are, so that many
            rejected ones mean that all of it is wrong.

    Raises:
        ContractError: a column is missing, unknown or of the wrong type, or more than
            `MAX_REJECTED_SHARE` of one delivery's rows are rejected. Nothing must be recorded then.
    """
    columns = _conformed(table, spec, source=source)
    typed = pa.table({name: parsed.values for name, parsed in columns.items()})
    reasons = _reasons(columns, typed, schema_of(spec, day=day, now_us=now_us))
    sound = typed.filter(pc.is_null(reasons))
    split = deduplicate(sound, spec)
    refused = [
        *([] if rejected is None else [rejected]),
        quarantined(
            _readable(typed.filter(pc.is_valid(reasons))),
            spec,
            reasons=reasons.drop_null(),
            source=source,
            arrived=_as_arrived(table.filter(pc.is_valid(reasons))),
        ),
        quarantined(
            _readable(sound.take(split.conflicting)),
            spec,
            reasons=[f"{spec.key[0]}:conflicting_duplicate"] * len(split.conflicting),
            source=source,
        ),
    ]
    quarantine = pa.concat_tables(refused).combine_chunks()
    unread_rows = 0 if rejected is None else rejected.num_rows
    if one_delivery:
        check_rejected_share(
            quarantine, total_rows=table.num_rows + unread_rows, table=spec.name, source=source
        )
    return Validated(
        accepted=sound.take(split.kept).combine_chunks().cast(spec.schema),
        quarantined=quarantine,
        repeated=len(split.repeated),
        counts=reason_counts(quarantine),
    )


def schema_of(
    spec: TableSpec, *, day: date | None = None, now_us: int | None = None
) -> pandera.DataFrameSchema:
    """The Pandera schema of `spec`, over Arrow-backed pandas; a check's error is its rule."""
    import pandas as pd
    import pandera.pandas as pandera

    columns = {
        column.name: pandera.Column(
            pd.ArrowDtype(_working_type(column)),
            _value_checks(column)
            + (_time_checks(day, now_us) if column.name == spec.time_column else []),
            nullable=column.nullable,
        )
        for column in spec.columns
    }
    if _has_lead(spec):
        late_enough = pandera.Check.le(CLOCK_SKEW_CAP_US, error="after_known")
        columns[_LEAD] = pandera.Column(pd.ArrowDtype(pa.int64()), late_enough, nullable=True)
    return pandera.DataFrameSchema(columns, strict=True)


def _value_checks(column: Column) -> list[pandera.Check]:
    import pandera.pandas as pandera

    checks = []
    if column.minimum is not None:
        checks.append(pandera.Check.ge(column.minimum, error="below_minimum"))
    if column.maximum is not None:
        checks.append(pandera.Check.le(column.maximum, error="above_maximum"))
    if column.allowed is not None:
        checks.append(pandera.Check.isin(column.allowed, error="unknown_category"))
    return checks


def _time_checks(day: date | None, now_us: int | None) -> list[pandera.Check]:
    import pandera.pandas as pandera

    checks = []
    if now_us is not None:
        checks.append(pandera.Check.le(now_us + CLOCK_SKEW_CAP_US, error="in_the_future"))
    if day is not None:
        start_us = day_start_us(day)
        checks.append(pandera.Check.ge(start_us, error="other_day"))
        checks.append(pandera.Check.lt(start_us + DAY_US, error="other_day"))
    return checks


def _has_lead(spec: TableSpec) -> bool:
    return {"occurred_ts", "known_ts"} <= set(spec.column_names)


def _conformed(table: pa.Table, spec: TableSpec, *, source: str) -> dict[str, Parsed]:
    """Each column of `spec` in its working type, with the values that have no such form."""
    missing = [name for name in spec.column_names if name not in table.column_names]
    unknown = [name for name in table.column_names if name not in spec.column_names]
    if missing or unknown:
        msg = (
            f"{source} -> {spec.name}: missing columns {missing}, unknown columns {unknown} in "
            f"{table.num_rows:,} rows; the contract is {list(spec.column_names)}. "
            "Nothing was recorded. Correct the source, or the spec in ibook_assets/core/tables.py."
        )
        raise ContractError(msg)
    columns: dict[str, Parsed] = {}
    for column in spec.columns:
        found = one_chunk(table[column.name])
        parsed = _in_working_type(found, column)
        if parsed is None:
            msg = (
                f"{source} -> {spec.name}: column {column.name!r} is {found.type} in "
                f"{table.num_rows:,} rows, first values {found.slice(0, 3).to_pylist()}; the "
                f"contract is {column.type}. Nothing was recorded. Correct the source's type."
            )
            raise ContractError(msg)
        columns[column.name] = parsed
    return columns


def _as_arrived(rows: pa.Table) -> dict[str, Array]:
    shown = _readable(rows)
    return {name: shown[name].cast(pa.string()) for name in rows.column_names}


def _readable(rows: pa.Table) -> pa.Table:
    """`rows` with binary columns as hex, because not all bytes are text."""
    for at, name in enumerate(rows.column_names):
        if pa.types.is_binary(rows[name].type):
            values: Array = rows[name].to_pylist()
            shown = [None if value is None else value.hex() for value in values]
            rows = rows.set_column(at, name, array(shown, pa.string()))
    return rows


def _working_type(column: Column) -> pa.DataType:
    # Narrow integers are held against their limits first; casting them before would overflow.
    return pa.int64() if pa.types.is_integer(column.type) else column.type


def _in_working_type(found: Array, column: Column) -> Parsed | None:
    """`found` as the working type of `column`; None when the whole column is of another kind."""
    wanted = _working_type(column)
    if pa.types.is_dictionary(found.type):
        found = found.dictionary_decode()
    numeric = pa.types.is_integer(found.type) or pa.types.is_floating(found.type)
    if pa.types.is_null(found.type):
        return Parsed(nulls(len(found), wanted))
    if pa.types.is_integer(wanted) and numeric:
        return parse_whole(found)
    if pa.types.is_floating(wanted) and numeric:
        wild = as_mask(pc.invert(pc.is_finite(found)))
        finite = pc.if_else(array(wild), pa.scalar(None, found.type), found)
        return Parsed(finite.cast(wanted), (("not_finite", wild),))
    if pa.types.is_large_string(found.type) or pa.types.is_string_view(found.type):
        found = found.cast(pa.string())
    return Parsed(found) if found.type == wanted else None


def _reasons(
    columns: Mapping[str, Parsed], typed: pa.Table, schema: pandera.DataFrameSchema
) -> Array:
    """Why each row breaks the contract, null where it holds; the first broken rule by column."""
    position = {name: i for i, name in enumerate(columns)}
    broken = sorted(_broken_rules(typed, schema), key=lambda found: position[found[0]])
    unread = [
        (name, rule, np.flatnonzero(rows))
        for name, parsed in columns.items()
        for rule, rows in parsed.flaws
    ]
    reasons = np.full(typed.num_rows, None, dtype=object)
    # What could not be read comes first: its null is our doing, not the sender's.
    for name, rule, rows in reversed(unread + broken):
        reasons[rows] = f"{name}:{rule}"
    return array(reasons, pa.string())


def _broken_rules(
    typed: pa.Table, schema: pandera.DataFrameSchema
) -> list[tuple[str, str, Positions]]:
    """(column, rule, rows) of everything Pandera finds."""
    import pandas as pd
    import pandera.errors

    frame = typed.to_pandas(types_mapper=pd.ArrowDtype)
    if _LEAD in schema.columns:
        frame[_LEAD] = frame["occurred_ts"] - frame["known_ts"]
    try:
        with warnings.catch_warnings():
            # Pandera concatenates what it found; pandas 2 announces other dtypes for that.
            warnings.filterwarnings("ignore", "The behavior of DataFrame concat", FutureWarning)
            schema.validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as errors:
        cases = errors.failure_cases
        return [
            (
                "occurred_ts" if column == _LEAD else str(column),
                "null" if check == "not_nullable" else str(check),
                rows["index"].to_numpy(np.int64),
            )
            for (column, check), rows in cases.groupby(["column", "check"], sort=False)
        ]
    return []
