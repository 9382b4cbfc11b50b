"""Feature specs as DuckDB SQL: an independent second opinion on what the kernels compute.

Text only; nothing here runs a query. `join_sql` follows the definition to the letter and is slow;
`window_sql` is how one would write it in a warehouse, which knows no cap. Both keep to integers
until one division, because engines differ in float sums.

Tables are expected by name: the sources, and `queries` with an extra BIGINT column `query_row`.
"""

# SQL is put together from specs that were validated against a closed set of names.
# ruff: noqa: S608

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from ibook_assets.core.facts import ENTITY_COLUMNS, FACT_TRANSACTIONS
from ibook_assets.core.features.spec import (
    MODE_CODES,
    SOURCES,
    Aggregation,
    FeatureView,
    RowFeature,
    Transform,
    formula,
)
from ibook_assets.core.tables import TableSpec
from ibook_assets.core.times import DAY_US, HOUR_US

Columns = Mapping[str, Collection[str]]
"""Columns that exist, by table; a table left out does not exist."""

_Group = tuple[str, str, int]

_TRANSFORMS: Final[dict[Transform, str]] = {
    "value": "{0}",
    "hour_of_day": f"{{0}} // {HOUR_US} % 24",
    "day_of_week": f"({{0}} // {DAY_US} + 3) % 7",
    "weekend": f"CASE WHEN ({{0}} // {DAY_US} + 3) % 7 >= 5 THEN 1 ELSE 0 END",
    "night": f"CASE WHEN {{0}} // {HOUR_US} % 24 < 7 THEN 1 ELSE 0 END",
}


def _integer(spec: TableSpec, column: str, columns: Columns, table: str) -> str:
    """`column` as BIGINT: texts by code, NULL where it is missing or absent."""
    if column not in columns.get(table, ()):
        return "NULL::BIGINT"
    codes = spec.column(column).allowed
    if codes:
        listed = ", ".join(f"'{code}'" for code in codes)
        return f"CAST(list_position([{listed}], {column}) - 1 AS BIGINT)"
    return f"CAST({column} AS BIGINT)"


def _groups(view: FeatureView) -> dict[_Group, list[Aggregation]]:
    groups: dict[_Group, list[Aggregation]] = {}
    for a in view.aggregations:
        groups.setdefault((a.source, a.entity, a.resolution_us), []).append(a)
    return groups


def _floor(time: str, resolution: int) -> str:
    return f"({time} - {time} % {resolution})" if resolution else time


def _facts(group: _Group, members: list[Aggregation], columns: Columns) -> str:
    """SELECT list of the source's rows: id, time, and every column an aggregate reads."""
    source, entity, _ = group
    spec = SOURCES[source]
    names = {n for a in members for n in (a.column, a.filter and a.filter.column) if n}
    fields = [f"{_integer(spec, n, columns, source)} AS {n}" for n in sorted(names)]
    id_column = _integer(spec, ENTITY_COLUMNS[entity], columns, source)
    return ", ".join([f"{id_column} AS id", "CAST(known_ts AS BIGINT) AS ts", *fields])


def _passes(a: Aggregation) -> str:
    if a.filter is None:
        return "f.is_fact"
    return f"f.is_fact AND f.{a.filter.column} = {a.filter.code(SOURCES[a.source])}"


def _mode(a: Aggregation, condition: str, over: str) -> str:
    counts = ", ".join(
        f"count(*) FILTER (WHERE {condition} AND f.{a.column} = {code}){over}"
        for code in range(MODE_CODES)
    )
    # list_position finds the first, hence the smallest code.
    best = f"list_position([{counts}], list_max([{counts}]))"
    return f"CASE WHEN list_max([{counts}]) > 0 THEN {best} - 1 END"


def _aggregate(a: Aggregation, time: str, condition: str, over: str) -> str:
    """The integer value of `a`; `condition` picks its rows, `over` is its window if any."""
    where = f"FILTER (WHERE {condition}){over}"
    some = f"FILTER (WHERE {condition} AND f.{a.column} IS NOT NULL){over}"
    return {
        "count": f"count(*) {where}",
        "sum": f"coalesce(CAST(sum(f.{a.column}) {where} AS BIGINT), 0)",
        "max": f"max(f.{a.column}) {where}",
        "distinct": f"count(DISTINCT f.{a.column}) {where}",
        "since": f"{time} - max(f.ts) {where}",
        "last": f"arg_max(f.{a.column}, f.position) {some}",
        "mode": _mode(a, condition, over),
    }[a.function]


def _exists(a: Aggregation, columns: Columns) -> bool:
    known = columns.get(a.source, ())
    needed = {ENTITY_COLUMNS[a.entity], a.column, a.filter and a.filter.column} - {None}
    return needed <= set(known) and ENTITY_COLUMNS[a.entity] in columns["queries"]


def _selected(
    members: list[Aggregation], columns: Columns, values: Mapping[str, str], row: str = "q"
) -> str:
    return ", ".join(
        f"CASE WHEN {row}.id IS NULL THEN NULL ELSE {values[a.name]} END AS {a.name}"
        if _exists(a, columns)
        else f"NULL::BIGINT AS {a.name}"
        for a in members
    )


def _queries(group: _Group, columns: Columns) -> str:
    _, entity, resolution = group
    id_column = _integer(FACT_TRANSACTIONS, ENTITY_COLUMNS[entity], columns, "queries")
    time = _floor("CAST(known_ts AS BIGINT)", resolution)
    return f"SELECT query_row, {id_column} AS id, {time} AS t FROM queries"


def _join_group(n: int, group: _Group, members: list[Aggregation], columns: Columns) -> list[str]:
    source, _, _ = group
    queries = _queries(group, columns)
    if source not in columns:
        return [f"g{n} AS (SELECT query_row, {_selected(members, columns, {})} FROM ({queries}))"]
    row_id = SOURCES[source].key[0]
    facts = _facts(group, members, columns)
    picks = {}
    for a in members:
        condition = f"{_passes(a)} AND f.ts >= q.t - {a.window_us}"
        if a.row_cap:
            condition += f" AND f.position > q.earlier - {a.row_cap}"
        picks[a.name] = f"({_aggregate(a, 'q.t', condition, '')})"
    rows = (
        f"SELECT *, row_number() OVER (PARTITION BY id ORDER BY ts, {row_id}) AS position, "
        f"true AS is_fact FROM (SELECT {facts}, {row_id} FROM {source}) WHERE id IS NOT NULL"
    )
    counted = (
        f"SELECT q.query_row, q.id, q.t, count(f.ts) AS earlier FROM ({queries}) q "
        f"LEFT JOIN f{n} f ON f.id = q.id AND f.ts < q.t GROUP BY ALL"
    )
    horizon = max(a.window_us for a in members)
    joined = (
        f"SELECT q.query_row, {_selected(members, columns, picks)} FROM q{n} q "
        f"LEFT JOIN f{n} f ON f.id = q.id AND f.ts < q.t AND f.ts >= q.t - {horizon} "
        "GROUP BY q.query_row, q.id, q.t, q.earlier"
    )
    return [f"f{n} AS ({rows})", f"q{n} AS ({counted})", f"g{n} AS ({joined})"]


def _window_group(n: int, group: _Group, members: list[Aggregation], columns: Columns) -> list[str]:
    source, entity, resolution = group
    spans = sorted({a.window_us for a in members})
    windows = ", ".join(
        f"w{k} AS (PARTITION BY f.id ORDER BY f.t RANGE BETWEEN {w} PRECEDING AND 1 PRECEDING)"
        for k, w in enumerate(spans)
    )
    picks = {
        a.name: _aggregate(a, "f.t", _passes(a), f" OVER w{spans.index(a.window_us)}")
        for a in members
    }
    row_id = SOURCES[source].key[0]
    order = f"row_number() OVER (PARTITION BY id ORDER BY ts, {row_id}) AS position"
    facts = f"{_facts(group, members, columns)}, {row_id}, true AS is_fact"
    if source == "transactions":
        # Queries are the very rows of the source, so no union is needed.
        rows = f"SELECT *, {order} FROM (SELECT query_row, {facts} FROM queries)"
    else:
        asked = _integer(FACT_TRANSACTIONS, ENTITY_COLUMNS[entity], columns, "queries")
        rows = (
            f"SELECT NULL::BIGINT AS query_row, *, {order} FROM (SELECT {facts} FROM {source}) "
            f"UNION ALL BY NAME SELECT query_row, {asked} AS id, "
            "CAST(known_ts AS BIGINT) AS ts, false AS is_fact FROM queries"
        )
    values = _selected(members, columns, picks, "f")
    return [
        f"f{n} AS (SELECT *, {_floor('ts', resolution)} AS t FROM ({rows}))",
        f"g{n} AS (SELECT query_row, {values} FROM f{n} f WINDOW {windows})",
    ]


def _operand(view: FeatureView, name: str, columns: Columns) -> str:
    if name in {a.name for a in view.aggregations}:
        return name
    return _integer(FACT_TRANSACTIONS, name, columns, "queries").replace(name, f"q.{name}", 1)


def _feature(view: FeatureView, name: str, columns: Columns) -> str:
    feature = view.feature(name)
    if isinstance(feature, RowFeature):
        operand = _operand(view, feature.column, columns)
        value = _TRANSFORMS[feature.transform].format(operand)
        if feature.transform in {"weekend", "night"}:
            value = f"CASE WHEN {operand} IS NOT NULL THEN {value} END"
        return f"CAST(CAST({value} AS DOUBLE) AS FLOAT) AS {name}"
    factors, plus, minus, divisor, divisor_plus = formula(feature)
    numerator = " * ".join(_operand(view, f, columns) for f in factors)
    if minus is not None:
        numerator += f" - {_operand(view, minus, columns)}"
    denominator = str(divisor_plus)
    if divisor is not None:
        denominator = f"{_operand(view, divisor, columns)} + {divisor_plus}"
    top = f"CAST({numerator} + {plus} AS DOUBLE)"
    bottom = f"CAST(nullif({denominator}, 0) AS DOUBLE)"
    return f"CAST({top} / {bottom} AS FLOAT) AS {name}"


def _select(view: FeatureView, parts: list[str], joined: int, columns: Columns) -> str:
    features = ", ".join(_feature(view, name, columns) for name in view.feature_names)
    joins = "".join(f" JOIN g{n} USING (query_row)" for n in range(joined))
    ctes = f"WITH {', '.join(parts)} " if parts else ""
    return (
        f"{ctes}SELECT q.transaction_id, q.known_ts, {features} "
        f"FROM queries q{joins} ORDER BY query_row"
    )


def join_sql(view: FeatureView, columns: Columns) -> str:
    """SQL for `view` exactly as defined, cap and all: every query joined with its rows.

    Args:
        view: what to compute.
        columns: columns that exist in `queries` and in each source; a source left out is absent.
    """
    parts: list[str] = []
    groups = _groups(view)
    for n, (group, members) in enumerate(groups.items()):
        parts += _join_group(n, group, members, columns)
    return _select(view, parts, len(groups), columns)


def window_sql(view: FeatureView, columns: Columns) -> str:
    """SQL for `view` as RANGE windows; equal to it while no entity exceeds a cap in a window.

    `queries` must be the rows of facts/transactions themselves, with all their columns, and every
    source the view reads must exist.
    """
    parts: list[str] = []
    groups = _groups(view)
    for n, (group, members) in enumerate(groups.items()):
        parts += _window_group(n, group, members, {**columns, "transactions": columns["queries"]})
    return _select(view, parts, len(groups), columns)
