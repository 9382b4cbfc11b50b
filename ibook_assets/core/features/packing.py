"""Facts as packed integers: filtered, grouped by entity, in time order; buckets where declared."""

# Compiled functions take their arrays by position.
# ruff: noqa: PLR0917

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from ibook_assets.core.arrow import Column, Mask, pc
from ibook_assets.core.errors import ContractError
from ibook_assets.core.facts import ENTITY_COLUMNS
from ibook_assets.core.features.kernel import MISSING, Ints, compiled, group_starts, inner
from ibook_assets.core.features.plan import Layout, RecordColumn
from ibook_assets.core.features.spec import SOURCES, codes_of
from ibook_assets.core.tables import TableSpec

CHUNK_ROWS = 65_536
"""Rows converted at a time, so that converted columns stay in the cache."""


def integers(column: Column, codes: tuple[str, ...] | None, name: str) -> Ints:
    """`column` as int64, null and unknown texts as MISSING.

    Raises:
        ContractError: a text column without codes, or a type that is no integer.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        if codes is None:
            msg = f"column {name!r} is text, features need integers; map it with core.ids.entity_id"
            raise ContractError(msg)
        column = pc.index_in(column, value_set=pa.array(codes, kind))
    elif not (pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
        msg = f"column {name!r} is {kind}, features need integers; cast it where it is ingested"
        raise ContractError(msg)
    if column.type != pa.int64():
        column = column.cast(pa.int64())
    if column.null_count:
        column = pc.fill_null(column, MISSING)
    values = np.ascontiguousarray(column, np.int64)
    # Arrow's own memory is read-only; when every array is, each kernel compiles once, not twice.
    values.flags.writeable = False
    return values


def column_integers(table: pa.Table | pa.RecordBatch, spec: TableSpec, name: str) -> Ints:
    """Column `name` of `table` as int64, by the codes that `spec` declares."""
    return integers(table.column(name), codes_of(spec, name), name)


@compiled
def _is_ordered(times: Ints, ids: Ints) -> bool:
    for i in range(1, len(times)):
        if times[i] < times[i - 1] or (times[i] == times[i - 1] and ids[i] < ids[i - 1]):
            return False
    return True


def in_known_order(table: pa.Table, source: str) -> pa.Table:
    """`table` sorted by (known_ts, row id); itself when it already is."""
    spec = SOURCES[source]
    row_id = spec.key[0]
    if "known_ts" not in table.column_names or row_id not in table.column_names:
        msg = f"{source} needs columns known_ts and {row_id}, got {table.column_names}"
        raise ContractError(msg)
    times = column_integers(table, spec, "known_ts")
    ids = column_integers(table, spec, row_id)
    if _is_ordered(times, ids):
        return table
    return table.take(np.lexsort((ids, times)))


def absent_columns(layout: Layout, table: pa.Table | None) -> tuple[RecordColumn, ...] | None:
    """The layout's columns that `table` cannot fill; None when it can fill nothing at all."""
    if table is None or ENTITY_COLUMNS[layout.entity] not in table.column_names:
        return None
    names = {None, *table.column_names}
    return tuple(
        c
        for c in layout.columns
        if c.column not in names or (c.filter is not None and c.filter.column not in names)
    )


def source_columns(layout: Layout) -> tuple[str, ...]:
    """Columns that packing `layout` reads from its source."""
    names = {"known_ts", SOURCES[layout.source].key[0], ENTITY_COLUMNS[layout.entity]}
    for c in layout.columns:
        names |= {n for n in (c.column, c.filter and c.filter.column) if n}
    return tuple(n for n in SOURCES[layout.source].column_names if n in names)


def _record_values(batch: pa.RecordBatch, column: RecordColumn, source: str) -> Ints:
    spec = SOURCES[source]
    if column.column is None:
        values = np.ones(batch.num_rows, np.int64)
    else:
        values = column_integers(batch, spec, column.column)
    if column.total:
        values = np.maximum(values, 0)
    if column.filter is not None:
        passes = column_integers(batch, spec, column.filter.column) == column.filter.code(spec)
        values = np.where(passes, values, 0 if column.total else MISSING)
    return values


def _record_batches(table: pa.Table, layout: Layout) -> Iterator[Ints]:
    """The layout's columns, known_ts first, as (width, rows) blocks in table order."""
    absent = absent_columns(layout, table) or ()
    names = [n for n in source_columns(layout) if n in table.column_names]
    for batch in table.select(names).to_batches(max_chunksize=CHUNK_ROWS):
        block = np.empty((layout.width, batch.num_rows), np.int64)
        block[0] = column_integers(batch, SOURCES[layout.source], "known_ts")
        for k, column in enumerate(layout.columns):
            block[1 + k] = 0 if column in absent else _record_values(batch, column, layout.source)
        yield block


@compiled
def _place(block: Ints, numbers: Ints, cursors: Ints, records: Ints) -> None:
    for i in range(block.shape[1]):
        number = numbers[i]
        if number >= 0:
            row = cursors[number]
            cursors[number] = row + 1
            for c in range(block.shape[0]):
                records[row, c] = block[c, i]


@compiled
def _accumulate(records: Ints, totals: Mask) -> None:
    for row in range(1, len(records)):
        for c in range(records.shape[1]):
            if totals[c]:
                records[row, c] += records[row - 1, c]


def pack(table: pa.Table, layout: Layout, numbers: Ints, count: int) -> tuple[Ints, Ints]:
    """Records of `table` grouped by key number, for `sweep`.

    Args:
        table: facts in known order.
        layout: what a record holds.
        numbers: (rows,), the key number of each row; MISSING leaves the row out.
        count: how many keys there are.

    Returns:
        records (rows + 1, width) with an all-zero row 0, and starts (count + 1,).
    """
    records, starts = _group(table, layout, numbers, count)
    _accumulate(records, layout.flags(total=True))
    return records, starts


def _group(table: pa.Table, layout: Layout, numbers: Ints, count: int) -> tuple[Ints, Ints]:
    """What `pack` returns, its totals not yet summed up."""
    starts = group_starts(numbers, count, 1)
    records = np.empty((starts[-1], layout.width), np.int64)
    records[0] = 0
    cursors = starts[:-1].copy()
    at = 0
    for block in _record_batches(table, layout):
        _place(block, numbers[at : at + block.shape[1]], cursors, records)
        at += block.shape[1]
    return records, starts


@inner
def _alive(
    records: Ints, first: int, end: int, as_of: int, horizon: int, cap: int
) -> tuple[int, int]:
    """The rows among `[first, end)` that can still count at `as_of` or later."""
    while end > first and records[end - 1, 0] >= as_of:
        end -= 1
    start = end
    while start > first and records[start - 1, 0] >= as_of - horizon:
        start -= 1
    if cap > 0:
        start = max(start, end - cap)
    return start, end


@inner
def _copy_alive(
    records: Ints, rows: tuple[int, int], resolution: int, totals: Mask, kept: Ints, at: int
) -> int:
    """Write an anchor of zeros and the rows, folded into buckets; returns where they end."""
    anchor = at
    for c in range(records.shape[1]):
        kept[anchor, c] = 0
    for i in range(rows[0], rows[1]):
        time = records[i, 0]
        if resolution > 0:
            time -= time % resolution
        fold = resolution > 0 and at > anchor and kept[at, 0] == time
        if not fold:
            at += 1
            kept[at, 0] = time
        for c in range(1, records.shape[1]):
            value = records[i, c]
            if totals[c]:
                kept[at, c] = value - records[rows[0] - 1, c]
            else:
                kept[at, c] = max(value, kept[at, c]) if fold else value
    return at + 1


@compiled
def _keep_alive(
    records: Ints,
    starts: Ints,
    as_of: int,
    bounds: tuple[int, int, int],
    totals: Mask,
    kept: Ints,
    kept_starts: Ints,
) -> None:
    horizon, cap, resolution = bounds
    at = 0
    for key in range(len(starts) - 1):
        kept_starts[key] = at
        rows = _alive(records, starts[key], starts[key + 1], as_of, horizon, cap)
        if rows[0] < rows[1]:
            at = _copy_alive(records, rows, resolution, totals, kept, at)
    kept_starts[len(starts) - 1] = at


def keep_alive(records: Ints, starts: Ints, layout: Layout, as_of_us: int) -> tuple[Ints, Ints]:
    """What a store keeps of every key as of `as_of_us`: packed rows and where each key's start.

    A key's rows follow an anchor row of zeros that its totals start from. Rows known at or after
    `as_of_us`, beyond the horizon or beyond the cap are dropped, and a resolution folds the rest
    into buckets; a key without rows keeps nothing, not even an anchor.
    """
    kept = np.empty((len(records) + len(starts), layout.width), np.int64)
    kept_starts = np.empty(len(starts), np.int64)
    bounds = (layout.horizon_us, layout.cap, layout.resolution_us)
    _keep_alive(records, starts, as_of_us, bounds, layout.flags(total=True), kept, kept_starts)
    return kept[: kept_starts[-1]], kept_starts


def pack_keys(table: pa.Table, layout: Layout, as_of_us: int) -> tuple[Ints, Ints, Ints]:
    """The records of every entity in `table` as of `as_of_us`, in order of their ids.

    Returns:
        ids (keys,) ascending, kept (rows, width) and starts (keys + 1,) as `keep_alive` has them.
    """
    different, numbers = _numbered(table, layout)
    records, starts = pack(table, layout, numbers, len(different))
    return different, *keep_alive(records, starts, layout, as_of_us)


def pack_rows(table: pa.Table, layout: Layout) -> tuple[Ints, Ints, Ints]:
    """The rows of `table` (facts in known order) as records hold them, but neither summed nor cut.

    Returns:
        ids (keys,) ascending, rows (rows, width) grouped by id, totals not cumulated and times not
        floored, and starts (keys + 1,).
    """
    different, numbers = _numbered(table, layout)
    records, starts = _group(table, layout, numbers, len(different))
    return different, records[1:], starts - 1


def _numbered(table: pa.Table, layout: Layout) -> tuple[Ints, Ints]:
    """The entities in `table`, ascending, and the number of each row's among them."""
    ids = column_integers(table, SOURCES[layout.source], ENTITY_COLUMNS[layout.entity])
    different = np.unique(ids[ids >= 0])
    return different, np.where(ids >= 0, np.searchsorted(different, ids), MISSING)
