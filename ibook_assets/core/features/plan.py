"""From specs to integers: the tables of numbers that the compiled kernels interpret.

Specs become data rather than generated code, so the kernels compile once whatever is defined.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from ibook_assets.core.errors import ContractError
from ibook_assets.core.features.spec import (
    Aggregation,
    Feature,
    FeatureView,
    Filter,
    Function,
    RowFeature,
    Transform,
    formula,
)

Ints = npt.NDArray[np.int64]

ABSENT: Final = 0
COUNT: Final = 1
SUM: Final = 2
MAX: Final = 3
DISTINCT: Final = 4
LAST: Final = 5
SINCE: Final = 6
MODE: Final = 7

_CODES: Final[dict[Function, int]] = {
    "count": COUNT,
    "sum": SUM,
    "max": MAX,
    "distinct": DISTINCT,
    "last": LAST,
    "since": SINCE,
    "mode": MODE,
}

NO_CAP: Final = 2**62
"""Span cap of state that a resolution bounds."""


@dataclass(frozen=True, slots=True)
class RecordColumn:
    """One column of a packed record, filter applied.

    A total is the running sum of `column` (of 1 when None) over the rows that pass; a value is
    `column` itself, -1 where the row does not pass or holds none.
    """

    total: bool
    column: str | None
    filter: Filter | None


@dataclass(frozen=True, slots=True)
class Layout:
    """What is packed for every entity id of one (source, entity, resolution).

    A record row is `[known_ts, *columns]`, int64, in order of (known_ts, row id).
    """

    source: str
    entity: str
    resolution_us: int
    columns: tuple[RecordColumn, ...]
    horizon_us: int
    """Rows older than this before the as-of time never count."""
    cap: int
    """Rows that can count at most; 0 when the resolution bounds them."""

    @property
    def key(self) -> tuple[str, str, int]:
        """What identifies the layout among those of a plan."""
        return self.source, self.entity, self.resolution_us

    @property
    def width(self) -> int:
        """Integers in a record row."""
        return 1 + len(self.columns)

    def position(self, column: RecordColumn) -> int:
        """Index of `column` in a record row."""
        return 1 + self.columns.index(column)

    def flags(self, *, total: bool) -> npt.NDArray[np.bool_]:
        """Per position of a record row, whether it is a total (or a value)."""
        return np.array([False, *(c.total is total for c in self.columns)])


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """Aggregates that one pass over one layout's records answers."""

    layout: Layout
    spans: Ints
    """(n, 2): window (us) and cap (rows) of every different window start."""
    aggregates: Ints
    """(n, 3): function code, span, record column."""
    reads: tuple[RecordColumn | None, ...]
    """Per aggregate, the record column it needs; None when the row's time is enough."""

    def reordered(self, order: npt.NDArray[np.intp]) -> GroupPlan:
        """The same aggregates in another order."""
        reads = tuple(self.reads[k] for k in order)
        return GroupPlan(self.layout, self.spans, self.aggregates[order], reads)

    def without(self, absent: Iterable[RecordColumn] | None) -> GroupPlan:
        """The plan when `absent` columns do not exist; None means that nothing exists."""
        missing = None if absent is None else set(absent)
        aggregates = self.aggregates.copy()
        for k, column in enumerate(self.reads):
            if missing is None or (column is not None and column in missing):
                aggregates[k, 0] = ABSENT
        return GroupPlan(self.layout, self.spans, aggregates, self.reads)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything needed to compute some features, in their order."""

    features: tuple[Feature, ...]
    groups: tuple[GroupPlan, ...]
    row_operands: tuple[tuple[str, Transform], ...]
    """Request columns that formulas read; they follow the aggregates among the operands."""
    program: Ints
    """(features, 6): operands a, b, c, d and integers p, q of `(a * b - c + p) / (d + q)`. After
    the request columns come two constant operands, 1 and 0, for what a formula does not have."""

    def without(self, absent: Sequence[Iterable[RecordColumn] | None]) -> Plan:
        """The plan when, per group, these record columns do not exist; see GroupPlan.without."""
        groups = (g.without(a) for g, a in zip(self.groups, absent, strict=True))
        return replace(self, groups=tuple(groups))


def _record_column(aggregation: Aggregation) -> RecordColumn | None:
    function, filtered = aggregation.function, aggregation.filter
    if function == "count":
        # Buckets forget how many rows they hold, so a resolution needs the count as a total.
        needed = filtered is not None or aggregation.resolution_us > 0
        return RecordColumn(True, None, filtered) if needed else None
    if function == "since":
        return None if filtered is None else RecordColumn(False, "known_ts", filtered)
    return RecordColumn(function == "sum", aggregation.column, filtered)


def layouts_of(views: Iterable[FeatureView]) -> tuple[Layout, ...]:
    """One layout per (source, entity, resolution) of `views`, wide enough for all of them."""
    grouped: dict[tuple[str, str, int], list[Aggregation]] = {}
    for view in views:
        for a in view.aggregations:
            grouped.setdefault((a.source, a.entity, a.resolution_us), []).append(a)
    layouts = []
    for (source, entity, resolution), members in grouped.items():
        columns = dict.fromkeys(c for a in members if (c := _record_column(a)) is not None)
        layouts.append(
            Layout(
                source,
                entity,
                resolution,
                tuple(columns),
                horizon_us=max(a.window_us for a in members) + resolution,
                cap=max(a.row_cap for a in members),
            )
        )
    return tuple(layouts)


def _group_plan(layout: Layout, members: Sequence[Aggregation]) -> GroupPlan:
    spans = list(dict.fromkeys((a.window_us, a.row_cap or NO_CAP) for a in members))
    reads = tuple(_record_column(a) for a in members)
    rows = [
        (
            # A count that has a column is a sum of ones.
            SUM if a.function == "count" and column is not None else _CODES[a.function],
            spans.index((a.window_us, a.row_cap or NO_CAP)),
            0 if column is None else layout.position(column),
        )
        for a, column in zip(members, reads, strict=True)
    ]
    return GroupPlan(
        layout,
        np.array(spans, np.int64).reshape(-1, 2),
        np.array(rows, np.int64).reshape(-1, 3),
        reads,
    )


_ONE: Final = ("one",)
_ZERO: Final = ("zero",)


class _Operands:
    """Collects what formulas read; equal aggregates of different views are computed once."""

    def __init__(self) -> None:
        self.groups: dict[tuple[str, str, int], dict[tuple[object, ...], Aggregation]] = {}
        self.rows: dict[tuple[str, Transform], None] = {}

    def add(self, view: FeatureView, feature: Feature, name: str) -> tuple[object, ...]:
        if isinstance(feature, RowFeature):
            self.rows[feature.column, feature.transform] = None
            return ("row", feature.column, feature.transform)
        by_name = {a.name: a for a in view.aggregations}
        if name not in by_name:
            self.rows[name, "value"] = None
            return ("row", name, "value")
        a = by_name[name]
        group = a.source, a.entity, a.resolution_us
        identity = (a.function, a.column, a.filter, a.window_us, a.row_cap)
        self.groups.setdefault(group, {})[identity] = a
        return ("aggregate", group, identity)


def plan_features(
    features: Sequence[tuple[FeatureView, Feature]], layouts: Sequence[Layout] | None = None
) -> Plan:
    """The plan that computes `features` in their order, on `layouts` or on their own ones."""
    operands = _Operands()
    formulas = []
    for view, feature in features:
        factors, plus, minus, divisor, divisor_plus = formula(feature)
        second = factors[1] if len(factors) > 1 else None
        keys = [
            constant if name is None else operands.add(view, feature, name)
            for name, constant in zip(
                (factors[0], second, minus, divisor), (_ONE, _ONE, _ZERO, _ZERO), strict=True
            )
        ]
        formulas.append((keys, plus, divisor_plus))
    if layouts is None:
        layouts = layouts_of(dict.fromkeys(view for view, _ in features))
    known = {layout.key: layout for layout in layouts}
    absent = operands.groups.keys() - known.keys()
    if absent:
        msg = f"no layout for {sorted(absent)}; plan with the layouts of every view involved"
        raise ContractError(msg)
    position: dict[tuple[object, ...], int] = {}
    groups = []
    for key, members in operands.groups.items():
        group = _group_plan(known[key], list(members.values()))
        # The sweep links a column's values once for all distinct counts of it.
        order = np.lexsort((group.aggregates[:, 2], group.aggregates[:, 0]))
        identities = list(members)
        for k in order:
            position["aggregate", key, identities[k]] = len(position)
        groups.append(group.reordered(order))
    for column, transform in operands.rows:
        position["row", column, transform] = len(position)
    position[_ONE] = len(position)
    position[_ZERO] = len(position)
    program = [[*(position[k] for k in keys), p, q] for keys, p, q in formulas]
    return Plan(
        tuple(feature for _, feature in features),
        tuple(groups),
        tuple(operands.rows),
        np.array(program, np.int64).reshape(-1, 6),
    )


def plan_view(view: FeatureView) -> Plan:
    """The plan of every emitted feature of `view`."""
    return plan_features([(view, feature) for feature in view.emitted])
