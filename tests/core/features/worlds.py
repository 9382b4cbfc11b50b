"""Small worlds that are all edges: ties, window borders, nulls, duplicates, lateness, bots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from ibook_assets.core.features.spec import (
    SOURCES,
    Aggregation,
    Difference,
    FeatureView,
    Filter,
    Ratio,
    RowFeature,
)
from ibook_assets.core.tables import TableSpec
from ibook_assets.core.times import DAY_US, MINUTE_US, SECOND_US

BASE_US: Final = 20_000 * DAY_US


def _a(name: str, function: Any, window_us: int, **more: Any) -> Aggregation:
    more = {"entity": "user", "source": "transactions"} | more
    return Aggregation(name=name, function=function, window_us=window_us, **more)


EVERYTHING: Final = FeatureView(
    name="everything",
    entity="user",
    description="Every function, with and without filter, cap and resolution.",
    features=(
        _a("count_1m", "count", MINUTE_US),
        _a("count_5m_capped", "count", 5 * MINUTE_US, cap=3),
        _a("count_vip", "count", 5 * MINUTE_US, filter=Filter("tier", "vip")),
        _a("count_avs_capped", "count", 5 * MINUTE_US, filter=Filter("avs_match", True), cap=2),
        _a("sum_1m", "sum", MINUTE_US, column="quantity"),
        _a("sum_vip_capped", "sum", 5 * MINUTE_US, column="amount_cents", cap=2),
        _a("max_1m", "max", MINUTE_US, column="quantity"),
        _a("max_5m", "max", 5 * MINUTE_US, column="amount_cents", cap=4),
        _a("max_vip", "max", 5 * MINUTE_US, column="amount_cents", filter=Filter("tier", "vip")),
        _a("cards_1m", "distinct", MINUTE_US, column="card_id"),
        _a("cards_5m", "distinct", 5 * MINUTE_US, column="card_id", cap=3),
        _a("events_5m", "distinct", 5 * MINUTE_US, column="event_id"),
        _a("last_tier", "last", 5 * MINUTE_US, column="tier"),
        _a("last_card", "last", MINUTE_US, column="card_id", cap=2),
        _a("since_any", "since", 5 * MINUTE_US),
        _a("since_vip", "since", 5 * MINUTE_US, filter=Filter("tier", "vip"), cap=3),
        _a("usual_category", "mode", 5 * MINUTE_US, column="category_code"),
        _a("event_count", "count", 4 * MINUTE_US, entity="event", resolution_us=MINUTE_US),
        _a(
            "event_sum",
            "sum",
            MINUTE_US,
            entity="event",
            column="quantity",
            resolution_us=MINUTE_US,
        ),
        _a(
            "event_max",
            "max",
            2 * MINUTE_US,
            entity="event",
            column="quantity",
            filter=Filter("tier", "vip"),
            resolution_us=MINUTE_US,
        ),
        _a("frauds", "count", 5 * MINUTE_US, source="outcomes", filter=Filter("is_fraud", 1)),
        _a("outcomes", "count", 5 * MINUTE_US, source="outcomes", emit=False),
        _a("viewers", "distinct", MINUTE_US, entity="event", source="views", column="user_id"),
        Ratio(
            name="fraud_share",
            numerator=("frauds",),
            denominator="outcomes",
            prior_numerator=1,
            prior_denominator=10,
        ),
        Ratio(name="of_capacity", numerator=("sum_1m",), denominator="capacity"),
        Ratio(name="mean_quantity", numerator=("sum_1m",), denominator="count_1m"),
        Ratio(name="scaled", numerator=("amount_cents", "count_1m"), denominator="sum_1m"),
        Difference(name="left", minuend="capacity", subtrahend="event_sum", divisor=7),
        Difference(name="ahead", minuend="known_ts", subtrahend="starts_ts"),
        RowFeature(name="tier_code", column="tier"),
        RowFeature(name="avs", column="avs_match"),
        RowFeature(name="hour", column="known_ts", transform="hour_of_day"),
        RowFeature(name="night", column="known_ts", transform="night"),
        RowFeature(name="weekday", column="starts_ts", transform="day_of_week"),
        RowFeature(name="weekend", column="starts_ts", transform="weekend"),
    ),
)


@dataclass(frozen=True)
class World:
    """Facts by name, and queries."""

    sources: dict[str, pa.Table | None]
    queries: pa.Table
    step_us: int = MINUTE_US
    """What times are mostly multiples of, counted from BASE_US."""


def _moments(step_us: int) -> st.SearchStrategy[int]:
    """Few, and mostly whole steps, so that times tie and windows end exactly on rows."""
    jitter = st.sampled_from([0, 0, 0, 0, 0, 0, -1, 1])
    return st.builds(lambda k, j: BASE_US + k * step_us + j, st.integers(0, 15), jitter)


def _optional(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), values, values, values)


_FEW_IDS: Final = st.integers(0, 1)
_VALUES: Final[dict[str, st.SearchStrategy[Any]]] = {
    "user_id": st.sampled_from([0, 0, 0, 0, 1, 1, None]),
    "event_id": _FEW_IDS,
    "promoter_id": _optional(_FEW_IDS),
    "card_id": _optional(st.sampled_from([0, 1, 2, 2**62, 2**63 - 1])),
    "device_id": _optional(_FEW_IDS),
    "ip_id": _optional(_FEW_IDS),
    "session_id": _FEW_IDS,
    "amount_cents": st.sampled_from([0, 1, 99, 10_000, 10**10]),
    "quantity": _optional(st.integers(1, 5)),
    "tier": _optional(st.sampled_from(["standard", "vip", "plus"])),
    "avs_match": _optional(st.booleans()),
    "declines": _optional(st.integers(0, 3)),
    "category_code": _optional(st.integers(0, 3)),
    "capacity": _optional(st.integers(1, 100)),
    "list_price_cents": _optional(st.integers(1, 10_000)),
    "starts_ts": _optional(st.integers(0, 10**16)),
    "is_fraud": st.integers(0, 1),
}


def table_of(spec: TableSpec, rows: list[dict[str, Any]]) -> pa.Table:
    """`rows` as a table with every column of `spec`; what they leave out is null or 0."""
    columns = []
    for column in spec.columns:
        default = None if column.nullable else 0
        columns.append(pa.array([row.get(column.name, default) for row in rows], column.type))
    return pa.table(columns, names=list(spec.column_names))


@st.composite
def tables(draw: st.DrawFn, spec: TableSpec, step_us: int, most: int) -> pa.Table:
    """Rows of `spec` in any order, unless it is known order."""
    names = [n for n in spec.column_names if n in _VALUES]
    row = st.fixed_dictionaries(
        {"known_ts": _moments(step_us)} | {name: _VALUES[name] for name in names}
    )
    rows = draw(st.lists(row, min_size=draw(st.sampled_from([0, most // 2])), max_size=most))
    if draw(st.booleans()):
        # A bot: the same entity over and over, beyond every cap.
        rows += [rows[0] | {"known_ts": BASE_US + k * step_us} for k in range(12) if rows]
    for number, found in enumerate(rows):
        found[spec.key[0]] = number
    order = draw(st.permutations(range(len(rows))))
    return table_of(spec, [rows[i] for i in order])


@st.composite
def worlds(draw: st.DrawFn, most: int = 25) -> World:
    """A world whose clock ticks in seconds or in days."""
    step_us = draw(st.sampled_from([10 * SECOND_US, 20 * SECOND_US, MINUTE_US, DAY_US]))
    sources: dict[str, pa.Table | None] = {
        name: draw(tables(spec, step_us, most)) for name, spec in SOURCES.items()
    }
    own = draw(st.booleans())
    queries = (
        sources["transactions"] if own else draw(tables(SOURCES["transactions"], step_us, most))
    )
    assert queries is not None
    return World(sources, queries, step_us)


def bits(values: Any) -> list[int]:
    """The float32 `values` as their bit patterns, so that NaN equals NaN and -0 is not 0."""
    array = np.ascontiguousarray(values, np.float32)
    return [int(b) for b in array.view(np.uint32)]
