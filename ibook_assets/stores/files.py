"""Somebody's own file of transactions, as the platform's raw tables.

Read once per process and version of the file; a day's slice is then a view, not another read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache, partial
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from ibook_assets.core.arrow import (
    Array,
    Column,
    Mask,
    Positions,
    array,
    nulls,
    pc,
)
from ibook_assets.core.errors import ContractError
from ibook_assets.core.mapping import LABEL_ROLE, ROLES, ColumnMapping
from ibook_assets.core.quarantine import check_rejected_share, quarantined, unsplit
from ibook_assets.core.tables import OUTCOMES, TRANSACTIONS
from ibook_assets.core.times import DAY_US, day_of, day_start_us
from ibook_assets.stores.parsing import (
    Parsed,
    parse_cents,
    parse_flags,
    parse_ids,
    parse_text,
    parse_times,
    parse_whole,
    plain,
)

FILES_KEPT: Final = 2
"""Parsed files that a process remembers: the one it works on and the one it compares with."""


class _Version(NamedTuple):
    """One state of a file: a changed file is another one."""

    path: Path
    mtime_ns: int
    size: int


@dataclass(frozen=True, slots=True)
class FileDay:
    """What one daily partition gets from a file."""

    transactions: pa.Table
    outcomes: pa.Table
    rejected: pa.Table
    """Rows of TRANSACTIONS that could not be typed, as quarantine rows."""


@dataclass(frozen=True, slots=True)
class FileTables:
    """A whole file, typed but not yet held against the tables' contracts (`stores.contracts`).

    `transactions` has TRANSACTIONS' columns in the order of (known_ts, transaction_id);
    `outcomes` has OUTCOMES' columns by known_ts, one row for each transaction with a label, known
    `label_delay_days` after the transaction. Required columns may still hold nulls.
    """

    source: str
    rows: int
    """Rows of the file, unreadable ones included."""
    transactions: pa.Table
    outcomes: pa.Table
    original_ids: Column
    """The file's own id of each row of `transactions`, in the file's type; else its row number."""
    rejected: pa.Table
    rejected_days: Positions
    """First microsecond of the partition each rejected row belongs to."""

    def days(self) -> list[date]:
        """UTC days that have transactions or rejected rows, in order."""
        return _days(self.transactions["known_ts"].to_numpy(), self.rejected_days)

    def outcome_days(self) -> list[date]:
        """UTC days on which labels became known, in order."""
        return _days(self.outcomes["known_ts"].to_numpy())

    def day(self, day: date) -> FileDay:
        """The slice of the daily partition `day`; empty tables where the file has nothing."""
        start_us = day_start_us(day)
        return FileDay(
            transactions=_between(self.transactions, start_us),
            outcomes=_between(self.outcomes, start_us),
            rejected=self.rejected.filter(array(self.rejected_days == start_us)),
        )


def read_file(
    path: Path, mapping: ColumnMapping, *, timezone: str, label_delay_days: float
) -> FileTables:
    """The file at `path` (CSV or Parquet, by its suffix) through the declared `mapping`.

    Args:
        path: `.csv`, `.csv.gz` or `.parquet`; CSV has a header line, commas and UTF-8.
        mapping: which column plays which role.
        timezone: IANA zone of times that carry none.
        label_delay_days: days from a transaction's known_ts until its label is known, >= 0.

    Returns:
        Typed tables. A row keeps its id from the `id` column; without one the id is the row's
        position in the file from 0, so appending keeps ids and reordering does not.

    Raises:
        ContractError: no such file, a mapped column is missing or has an unusable type, the file
            has no rows, or more than `MAX_REJECTED_SHARE` of its rows cannot be read.
    """
    try:
        state = path.stat()
    except FileNotFoundError:
        msg = f"{path} does not exist; IBOOK_FILES_TRANSACTIONS names a CSV or Parquet file"
        raise ContractError(msg) from None
    version = _Version(path.resolve(), state.st_mtime_ns, state.st_size)
    return _read_version(version, mapping, timezone, label_delay_days)


@lru_cache(maxsize=FILES_KEPT)
def _read_version(
    version: _Version,
    mapping: ColumnMapping,
    timezone: str,
    label_delay_days: float,
) -> FileTables:
    path = version.path
    table, unsplit_records = _load(path, mapping)
    parsed = _parse(table, mapping, timezone=timezone, source=path.name)
    typed = _typed(parsed, rows=table.num_rows)
    if typed["known_ts"].null_count == table.num_rows:
        column = dict(mapping.pairs)["time"]
        first = table[column].slice(0, 3).to_pylist()
        msg = f"{path.name}: no value of column {column!r} is a readable time, for example {first}"
        raise ContractError(msg)
    reasons = _reasons(parsed, typed)
    rejected = _rejected_rows(table, mapping, typed, reasons, source=path.name)
    rejected = pa.concat_tables(
        [rejected, unsplit(unsplit_records, TRANSACTIONS, source=path.name)]
    )
    rows = table.num_rows + len(unsplit_records)
    check_rejected_share(rejected, total_rows=rows, table=TRANSACTIONS.name, source=path.name)
    order = _known_order(typed, usable=np.asarray(reasons.is_null()))
    id_column = mapping.column_of("id")
    labels = parsed[LABEL_ROLE].values if LABEL_ROLE in parsed else nulls(len(typed), pa.bool_())
    transactions = typed.take(order)
    return FileTables(
        source=path.name,
        rows=rows,
        transactions=transactions,
        outcomes=_outcomes(
            transactions, labels.take(order), delay_us=round(label_delay_days * DAY_US)
        ),
        original_ids=(table[id_column] if id_column else typed["transaction_id"]).take(order),
        rejected=rejected,
        rejected_days=_rejected_days(typed, reasons, unsplit_records=len(unsplit_records)),
    )


def _load(path: Path, mapping: ColumnMapping) -> tuple[pa.Table, list[str]]:
    """The mapped columns as they lie in the file, and CSV lines with too few or many fields."""
    unsplit_records: list[str] = []
    try:
        if path.suffix == ".parquet":
            mapping.check(pq.read_schema(path).names, source=path.name)
            table = pq.read_table(path, columns=list(mapping.file_columns))
        elif ".csv" in path.suffixes:
            table = _load_csv(path, mapping, unsplit_records)
        else:
            msg = f"{path.name}: unknown kind of file; give .csv, .csv.gz or .parquet"
            raise ContractError(msg)
    except pa.ArrowInvalid as error:
        msg = f"{path.name} is not a readable {path.suffix[1:]} file: {error}"
        raise ContractError(msg) from error
    if table.num_rows == 0:
        msg = f"{path.name} has no rows; there is nothing to ingest"
        raise ContractError(msg)
    return table, unsplit_records


def _load_csv(path: Path, mapping: ColumnMapping, unsplit_records: list[str]) -> pa.Table:
    def keep_aside(row: pyarrow.csv.InvalidRow) -> Literal["skip"]:
        unsplit_records.append(row.text)
        return "skip"

    forgiving = pyarrow.csv.ParseOptions(invalid_row_handler=lambda _: "skip")
    with pyarrow.csv.open_csv(path, parse_options=forgiving) as reader:
        mapping.check(reader.schema.names, source=path.name)
    columns = mapping.file_columns
    return pyarrow.csv.read_csv(
        path,
        parse_options=pyarrow.csv.ParseOptions(invalid_row_handler=keep_aside),
        # Everything arrives as text: guessing types would turn "007" into 7 and 57.16 into a float.
        convert_options=pyarrow.csv.ConvertOptions(
            include_columns=list(columns),
            column_types=dict.fromkeys(columns, pa.string()),
            strings_can_be_null=False,
        ),
    )


def _parse(
    table: pa.Table, mapping: ColumnMapping, *, timezone: str, source: str
) -> dict[str, Parsed]:
    """Each mapped role's column, typed."""
    parsed: dict[str, Parsed] = {}
    for role, column in mapping.pairs:
        try:
            parsed[role] = _parser(role, timezone)(plain(table[column]))
        except ContractError as error:
            msg = f"{source}: column {column!r} cannot be the role {role!r}: {error}"
            raise ContractError(msg) from error
    return parsed


def _parser(role: str, timezone: str) -> Callable[[Array], Parsed]:
    column = ROLES[role]
    if column.endswith("_ts"):
        return partial(parse_times, timezone=timezone)
    if column.endswith("_id"):
        return parse_ids
    if column == "amount_cents":
        return parse_cents
    if role == LABEL_ROLE or pa.types.is_boolean(TRANSACTIONS.column(column).type):
        return parse_flags
    return parse_whole if pa.types.is_integer(TRANSACTIONS.column(column).type) else parse_text


def _typed(parsed: Mapping[str, Parsed], *, rows: int) -> pa.Table:
    """TRANSACTIONS' columns in file order; null where the file says nothing."""
    columns = {ROLES[role]: p.values for role, p in parsed.items() if role != LABEL_ROLE}
    columns.setdefault("transaction_id", array(np.arange(rows)))
    columns.setdefault("known_ts", columns["occurred_ts"])
    return pa.table(
        {c.name: columns.get(c.name, nulls(rows, c.type)) for c in TRANSACTIONS.columns}
    )


def _reasons(parsed: Mapping[str, Parsed], typed: pa.Table) -> Array:
    """Why each row cannot be used, null for the others; the first broken rule in role order."""
    nothing = pa.scalar(None, pa.string())
    found: list[Array] = [
        pc.if_else(array(rows), f"{ROLES[role]}:{rule}", nothing)
        for role, column in parsed.items()
        for rule, rows in column.flaws
        if rows.any()
    ]
    timeless = typed["known_ts"].combine_chunks().is_null()
    return pc.coalesce(*found, pc.if_else(timeless, "known_ts:null", nothing))


def _rejected_rows(
    table: pa.Table, mapping: ColumnMapping, typed: pa.Table, reasons: Array, *, source: str
) -> pa.Table:
    """Quarantine rows: typed values where there are any, else the text as it arrived."""
    rows = np.flatnonzero(np.asarray(reasons.is_valid()))
    arrived = {
        ROLES[role]: plain(table[column].take(array(rows))).cast(pa.string())
        for role, column in mapping.pairs
    }
    return quarantined(
        typed.take(array(rows)),
        TRANSACTIONS,
        reasons=reasons.drop_null(),
        source=source,
        source_rows=rows,
        arrived=arrived,
        records=arrived.get(ROLES[LABEL_ROLE]),
    )


def _rejected_days(typed: pa.Table, reasons: Array, *, unsplit_records: int) -> Positions:
    """The partition of each rejected row; without a readable time, the file's first day."""
    first_us = pc.min(typed["known_ts"]).as_py()
    known_us = typed["known_ts"].filter(reasons.is_valid()).fill_null(first_us).to_numpy()
    moments_us = np.append(known_us, np.full(unsplit_records, first_us, np.int64))
    days_us: Positions = moments_us - moments_us % DAY_US
    return days_us


def _known_order(typed: pa.Table, *, usable: Mask) -> Array:
    """Positions of the usable rows by (known_ts, transaction_id)."""
    rows = array(np.flatnonzero(usable))
    keys = typed.select(["known_ts", "transaction_id"]).take(rows)
    order = pc.sort_indices(
        keys, sort_keys=[("known_ts", "ascending"), ("transaction_id", "ascending")]
    )
    return rows.take(order)


def _outcomes(transactions: pa.Table, labels: Array, *, delay_us: int) -> pa.Table:
    """OUTCOMES of the labelled transactions, each known `delay_us` after its transaction."""
    labelled = pc.and_(
        labels.is_valid(), transactions["transaction_id"].combine_chunks().is_valid()
    )
    rows = transactions.filter(labelled)
    columns = {
        "transaction_id": rows["transaction_id"],
        "known_ts": pc.add(rows["known_ts"], delay_us),
        "is_fraud": labels.filter(labelled).cast(pa.int64()),
        "amount_cents": rows["amount_cents"],
    }
    return pa.table({name: columns[name] for name in OUTCOMES.column_names})


def _between(table: pa.Table, start_us: int) -> pa.Table:
    """The rows of `table`, sorted by known_ts, that lie in the day from `start_us`."""
    first, end = np.searchsorted(table["known_ts"].to_numpy(), [start_us, start_us + DAY_US])
    return table.slice(int(first), int(end - first))


def _days(*moments_us: Positions) -> list[date]:
    return [day_of(int(day) * DAY_US) for day in np.unique(np.concatenate(moments_us) // DAY_US)]
