"""Batch values of a feature view: one row per query, as of its knowledge time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from ibook_assets.core.errors import ContractError
from ibook_assets.core.facts import ENTITY_COLUMNS, FACT_TRANSACTIONS
from ibook_assets.core.features.kernel import (
    MISSING,
    Floats,
    Ints,
    compiled,
    find_keys,
    finish,
    group_starts,
    number_keys,
)
from ibook_assets.core.features.packing import (
    absent_columns,
    column_integers,
    in_known_order,
    pack,
    source_columns,
)
from ibook_assets.core.features.plan import GroupPlan, Plan, layouts_of, plan_view
from ibook_assets.core.features.spec import SOURCES, FeatureView
from ibook_assets.core.features.sweep import sweep
from ibook_assets.core.features.transforms import TRANSFORMS

CHUNK_ROWS: Final = 2_097_152
"""Queries swept at a time: bounds the memory of their aggregates, however many there are."""

_TILE_ROWS: Final = 2_048
"""Rows finished at a time, so that their operands stay in the cache."""


def lookback_us(view: FeatureView) -> int:
    """How far before a query facts can still count; 0 for a view without windows."""
    return max((layout.horizon_us for layout in layouts_of([view])), default=0)


def required_sources(view: FeatureView) -> tuple[str, ...]:
    """Fact tables that `view` reads."""
    return tuple(dict.fromkeys(layout.source for layout in layouts_of([view])))


def required_columns(view: FeatureView, source: str) -> tuple[str, ...]:
    """Columns that `view` reads from `source`, in the source's order."""
    needed = {n for lay in layouts_of([view]) if lay.source == source for n in source_columns(lay)}
    return tuple(n for n in SOURCES[source].column_names if n in needed)


def query_columns(view: FeatureView) -> tuple[str, ...]:
    """Columns that `view` reads from the queries, in the order of facts/transactions."""
    needed = {name for name, _ in plan_view(view).row_operands}
    needed |= {ENTITY_COLUMNS[layout.entity] for layout in layouts_of([view])}
    needed |= {"transaction_id", "known_ts"}
    return tuple(n for n in FACT_TRANSACTIONS.column_names if n in needed)


@compiled
def _group_queries(times: Ints, numbers: Ints, order: Ints, starts: Ints, grouped: Ints) -> None:
    cursors = starts[:-1].copy()
    for i in range(len(times)):
        row = order[i] if len(order) > 0 else i
        if numbers[row] >= 0:
            at = cursors[numbers[row]]
            cursors[numbers[row]] = at + 1
            grouped[at, 0] = times[row]
            grouped[at, 1] = row


@compiled
def _clear(numbers: Ints, out: Ints) -> None:
    """Aggregates of a missing entity are undefined; the buffer holds an earlier chunk's."""
    for row in range(len(numbers)):
        if numbers[row] < 0:
            for k in range(out.shape[1]):
                out[row, k] = MISSING


@dataclass(frozen=True, slots=True)
class _Keys:
    """The different ids of one entity among the queries, numbered."""

    table: Ints
    numbers: Ints
    """(queries,), the number of each query's id; MISSING without one."""
    count: int


@dataclass(frozen=True, slots=True)
class _Packed:
    """A group's plan, less what its source lacks, and its records by the queries' keys."""

    group: GroupPlan
    keys: _Keys
    records: Ints
    starts: Ints


class _Queries:
    """The queries' times, and their keys, numbered once per entity."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._times = column_integers(table, FACT_TRANSACTIONS, "known_ts")
        self._keys: dict[str, _Keys | None] = {}

    def keys(self, entity: str) -> _Keys | None:
        """The keys of `entity`; None when the queries have no such column."""
        if entity not in self._keys:
            self._keys[entity] = self._number(ENTITY_COLUMNS[entity])
        return self._keys[entity]

    def _number(self, column: str) -> _Keys | None:
        if column not in self._table.column_names:
            return None
        numbers = np.empty(self._table.num_rows, np.int64)
        ids = column_integers(self._table, FACT_TRANSACTIONS, column)
        table, count = number_keys(ids, numbers)
        return _Keys(table, numbers, count)

    def grouped(self, keys: _Keys, first: int, end: int) -> tuple[Ints, Ints]:
        """Queries `[first, end)` by key, in time order within it, and where each key's start."""
        times, numbers = self._times[first:end], keys.numbers[first:end]
        ordered = bool(np.all(times[1:] >= times[:-1]))
        order = np.empty(0, np.int64) if ordered else np.argsort(times, kind="stable")
        starts = group_starts(numbers, keys.count, 0)
        grouped = np.empty((starts[-1], 2), np.int64)
        _group_queries(times, numbers, order, starts, grouped)
        return grouped, starts


def _pack_group(group: GroupPlan, source: pa.Table | None, queries: _Queries) -> _Packed | None:
    """The records that can count for the queries; None when nothing can be known."""
    layout = group.layout
    absent = absent_columns(layout, source)
    keys = queries.keys(layout.entity)
    if source is None or absent is None or keys is None:
        return None
    numbers = np.empty(source.num_rows, np.int64)
    ids = column_integers(source, SOURCES[layout.source], ENTITY_COLUMNS[layout.entity])
    find_keys(keys.table, ids, numbers)
    records, starts = pack(source, layout, numbers, keys.count)
    return _Packed(group.without(absent), keys, records, starts)


def _sweep_chunk(packed: _Packed, queries: _Queries, first: int, end: int, out: Ints) -> None:
    grouped, starts = queries.grouped(packed.keys, first, end)
    _clear(packed.keys.numbers[first:end], out)
    sweep(
        packed.records,
        packed.starts,
        grouped,
        starts,
        packed.group.layout.resolution_us,
        packed.group.spans,
        packed.group.aggregates,
        out,
    )


def _tiles(plan: Plan, queries: pa.Table) -> Iterator[list[Ints]]:
    """Request columns that formulas read, a tile at a time; at least one column of the tile."""
    present = [n for n, _ in plan.row_operands if n in queries.column_names]
    names = list(dict.fromkeys(["known_ts", *present]))
    for batch in queries.select(names).to_batches(max_chunksize=_TILE_ROWS):
        nothing = np.full(batch.num_rows, MISSING, np.int64)
        columns = [nothing]
        for name, transform in plan.row_operands:
            if name in names:
                values = column_integers(batch, FACT_TRANSACTIONS, name)
                columns.append(np.where(values < 0, MISSING, TRANSFORMS[transform](values)))
            else:
                columns.append(nothing)
        yield columns


def _finish(
    plan: Plan, aggregates: Sequence[Ints], queries: pa.Table, out: Floats, at: int
) -> None:
    """Write the features of `queries` to the columns of `out` from `at` on."""
    row = 0
    for first, *columns in _tiles(plan, queries):
        to = row + len(first)
        constants = np.ones_like(first), np.zeros_like(first)
        operands = np.vstack([*(a[row:to].T for a in aggregates), *columns, *constants])
        finish(operands, plan.program, out, at + row)
        row = to


def _compute(
    plan: Plan, sources: Mapping[str, pa.Table | None], queries: pa.Table, chunk_rows: int
) -> Floats:
    """The plan's features, (features, queries)."""
    asked = _Queries(queries)
    packed = [_pack_group(g, sources[g.layout.source], asked) for g in plan.groups]
    rows = queries.num_rows
    buffers = [
        np.full((min(rows, chunk_rows), len(g.aggregates)), MISSING, np.int64) for g in plan.groups
    ]
    out = np.empty((len(plan.features), rows), np.float32)
    for first in range(0, rows, chunk_rows):
        end = min(first + chunk_rows, rows)
        for group, buffer in zip(packed, buffers, strict=True):
            if group is not None:
                _sweep_chunk(group, asked, first, end, buffer)
        _finish(plan, buffers, queries.slice(first, end - first), out, first)
    return out


def compute_view(
    view: FeatureView,
    sources: Mapping[str, pa.Table | None],
    queries: pa.Table,
    *,
    chunk_rows: int = CHUNK_ROWS,
) -> pa.Table:
    """The features of `view` for every query, as of the query's `known_ts`.

    Args:
        view: what to compute.
        sources: the fact tables the view reads, by name, in any row order; rows outside the
            look-back may be left out. None declares a table that does not exist.
        queries: columns of facts/transactions, `transaction_id` and `known_ts` among them.
        chunk_rows: queries in memory at a time, >= 1; changes no value.

    Returns:
        transaction_id, known_ts, then one float32 column per feature, in the queries' order;
        NaN where the entity is null, a needed column or table is absent, or a value undefined.

    Raises:
        ContractError: a source the view reads is not in `sources`, or a column has a wrong type.
    """
    for name in ("transaction_id", "known_ts"):
        if name not in queries.column_names:
            msg = f"queries need a column {name!r}, got {queries.column_names}"
            raise ContractError(msg)
    plan = plan_view(view)
    ordered: dict[str, pa.Table | None] = {}
    for name in required_sources(view):
        if name not in sources:
            msg = (
                f"view {view.name!r} reads {name!r}, got {sorted(sources)}; pass None for a table "
                "that does not exist and its features are NaN"
            )
            raise ContractError(msg)
        table = sources[name]
        ordered[name] = None if table is None else in_known_order(table, name)
    values = _compute(plan, ordered, queries, chunk_rows)
    columns = [queries.column("transaction_id"), queries.column("known_ts")]
    columns += [pa.array(column) for column in values]
    return pa.table(columns, names=["transaction_id", "known_ts", *view.feature_names])
