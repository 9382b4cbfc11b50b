"""The definition of a feature in plain Python: slow, obvious, blind to how kernels work."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from ibook_assets.core.facts import ENTITY_COLUMNS, FACT_TRANSACTIONS
from ibook_assets.core.features.kernel import Floats
from ibook_assets.core.features.spec import (
    SOURCES,
    Aggregation,
    Difference,
    Feature,
    FeatureView,
    RowFeature,
)
from ibook_assets.core.tables import TableSpec

Row = dict[str, int | None]


def as_rows(table: pa.Table | None, spec: TableSpec) -> list[Row]:
    """Rows with integers only; texts by their position, absent columns None."""
    if table is None:
        return []
    rows = []
    for raw in table.to_pylist():
        row: Row = dict.fromkeys(spec.column_names)
        for name, value in raw.items():
            allowed = spec.column(name).allowed if name in spec.column_names else None
            row[name] = allowed.index(value) if allowed and value is not None else value
        rows.append(row)
    return rows


def _window(a: Aggregation, source: Sequence[Row], query: Row, t: int) -> list[Row]:
    entity, row_id, spec = ENTITY_COLUMNS[a.entity], SOURCES[a.source].key[0], SOURCES[a.source]
    mine = [r for r in source if r[entity] == query[entity] and _int(r["known_ts"]) < t]
    mine.sort(key=lambda r: (_int(r["known_ts"]), _int(r[row_id])))
    if a.row_cap:
        mine = mine[-a.row_cap :]
    return [
        r
        for r in mine
        if _int(r["known_ts"]) >= t - a.window_us
        and (a.filter is None or r[a.filter.column] == a.filter.code(spec))
    ]


def _int(value: int | None) -> int:
    assert value is not None
    return value


def _most_frequent(values: list[int]) -> int | None:
    counts = Counter(values)
    return min(counts, key=lambda v: (-counts[v], v), default=None)


def naive_aggregate(a: Aggregation, source: Sequence[Row], query: Row) -> int | None:
    """The integer behind an aggregation; None when undefined."""
    if query[ENTITY_COLUMNS[a.entity]] is None:
        return None
    t = _int(query["known_ts"])
    t -= t % a.resolution_us if a.resolution_us else 0
    window = _window(a, source, query, t)
    values = [v for r in window if a.column and (v := r[a.column]) is not None]
    return {
        "count": len(window),
        "sum": sum(values),
        "max": max(values, default=None),
        "distinct": len(set(values)),
        "last": values[-1] if values else None,
        "since": t - _int(window[-1]["known_ts"]) if window else None,
        "mode": _most_frequent(values),
    }[a.function]


def _divide(numerator: int, denominator: int) -> np.float32:
    if denominator == 0:
        return np.float32(np.nan)
    return np.float32(np.float64(numerator) / np.float64(denominator))


def _clock(transform: str, value: int) -> int:
    hour, weekday = value // 3_600_000_000 % 24, (value // 86_400_000_000 + 3) % 7
    return {
        "value": value,
        "hour_of_day": hour,
        "day_of_week": weekday,
        "weekend": int(weekday >= 5),
        "night": int(hour <= 6),
    }[transform]


def _value(feature: Feature, operands: Mapping[str, int | None]) -> np.float32:
    nan = np.float32(np.nan)
    if isinstance(feature, RowFeature):
        read = operands[feature.column]
        return nan if read is None else np.float32(_clock(feature.transform, read))
    if isinstance(feature, Aggregation):
        number = operands[feature.name]
        divisor = 1_000_000 if feature.function == "since" else 1
        return nan if number is None else _divide(number, divisor)
    parts = [operands[name] for name in feature.operands]
    if None in parts:
        return nan
    numbers = [_int(part) for part in parts]
    if isinstance(feature, Difference):
        return _divide(numbers[0] - numbers[1], feature.divisor)
    return _divide(
        math.prod(numbers[:-1]) + feature.prior_numerator,
        numbers[-1] + feature.prior_denominator,
    )


def naive_view(
    view: FeatureView, sources: Mapping[str, pa.Table | None], queries: pa.Table
) -> dict[str, Floats]:
    """Every feature of `view` for every query; only complete tables are understood."""
    known = {name: as_rows(table, SOURCES[name]) for name, table in sources.items()}
    out: dict[str, list[np.float32]] = {name: [] for name in view.feature_names}
    for query in as_rows(queries, FACT_TRANSACTIONS):
        operands = dict(query)
        for a in view.aggregations:
            operands[a.name] = naive_aggregate(a, known[a.source], query)
        for feature in view.emitted:
            out[feature.name].append(_value(feature, operands))
    return {name: np.array(values, np.float32) for name, values in out.items()}
