"""Batch values of a feature view: one row per query, as of its knowledge time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


class _Queries:
    """The queries' times and keys, grouped once per entity."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.times = self._integers("known_ts")
        ordered = bool(np.all(self.times[1:] >= self.times[:-1]))
        self._order = np.empty(0, np.int64) if ordered else np.argsort(self.times, kind="stable")
        self._grouped: dict[str, tuple[Ints, Ints, Ints] | None] = {}

    def _integers(self, name: str) -> Ints:
        return column_integers(self.table, FACT_TRANSACTIONS, name)

    def grouped(self, entity: str) -> tuple[Ints, Ints, Ints] | None:
        """Hash table of the entity's ids, queries by key and their starts; None without ids."""
        if entity not in self._grouped:
            self._grouped[entity] = self._group(ENTITY_COLUMNS[entity])
        return self._grouped[entity]

    def _group(self, column: str) -> tuple[Ints, Ints, Ints] | None:
        if column not in self.table.column_names:
            return None
        numbers = np.empty(len(self.times), np.int64)
        keys, count = number_keys(self._integers(column), numbers)
        starts = group_starts(numbers, count, 0)
        grouped = np.empty((starts[-1], 2), np.int64)
        _group_queries(self.times, numbers, self._order, starts, grouped)
        return keys, grouped, starts


def _aggregates(group: GroupPlan, source: pa.Table | None, queries: _Queries) -> Ints:
    """Aggregates of `group` per query, (rows, aggregates); MISSING where undefined."""
    layout = group.layout
    out = np.full((len(queries.times), len(group.aggregates)), MISSING, np.int64)
    absent = absent_columns(layout, source)
    asked = queries.grouped(layout.entity)
    if source is None or absent is None or asked is None:
        return out
    keys, grouped, starts = asked
    numbers = np.empty(source.num_rows, np.int64)
    ids = column_integers(source, SOURCES[layout.source], ENTITY_COLUMNS[layout.entity])
    find_keys(keys, ids, numbers)
    records, record_starts = pack(source, layout, numbers, len(starts) - 1)
    available = group.without(absent)
    sweep(
        records,
        record_starts,
        grouped,
        starts,
        layout.resolution_us,
        available.spans,
        available.aggregates,
        out,
    )
    return out


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


def _finish(plan: Plan, aggregates: list[Ints], queries: pa.Table) -> Floats:
    out = np.empty((len(plan.features), queries.num_rows), np.float32)
    at = 0
    for first, *columns in _tiles(plan, queries):
        to = at + len(first)
        constants = np.ones_like(first), np.zeros_like(first)
        operands = np.vstack([*(a[at:to].T for a in aggregates), *columns, *constants])
        finish(operands, plan.program, out, at)
        at = to
    return out


def compute_view(
    view: FeatureView, sources: Mapping[str, pa.Table | None], queries: pa.Table
) -> pa.Table:
    """The features of `view` for every query, as of the query's `known_ts`.

    Args:
        view: what to compute.
        sources: the fact tables the view reads, by name, in any row order; rows outside the
            look-back may be left out. None declares a table that does not exist.
        queries: columns of facts/transactions, `transaction_id` and `known_ts` among them.

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
    asked = _Queries(queries)
    aggregates = [_aggregates(g, ordered[g.layout.source], asked) for g in plan.groups]
    values = _finish(plan, aggregates, queries)
    columns = [queries.column("transaction_id"), queries.column("known_ts")]
    columns += [pa.array(column) for column in values]
    return pa.table(columns, names=["transaction_id", "known_ts", *view.feature_names])
