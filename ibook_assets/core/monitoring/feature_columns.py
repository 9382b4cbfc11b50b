"""Which features can be compared between windows, and why the others cannot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ibook_assets.core.features.catalog import resolve
from ibook_assets.core.features.spec import (
    Aggregation,
    Feature,
    FeatureView,
    RowFeature,
    formula,
)
from ibook_assets.core.monitoring.calibration import MIN_WINDOWS
from ibook_assets.core.monitoring.columns import Kind
from ibook_assets.core.times import DAY_US

LONG_MEMORY: Final = f"its window fits into the reference less than {MIN_WINDOWS} times"
FEW_SUBJECTS: Final = "it is about the few ticketed events and promoters that sell in a window"
LATE_OUTCOMES: Final = "it counts outcomes, which become known weeks after the orders"
CALENDAR: Final = "it says which day it is"
REDEFINED: Final = "it has been defined anew since the champion was trained"

_FEW: Final = frozenset({"event", "promoter"})
_CALENDAR: Final = frozenset({"day_of_week", "weekend"})


@dataclass(frozen=True, slots=True)
class FeatureColumns:
    """Features that are compared, and the reason against each other one."""

    kinds: dict[str, Kind]
    left_out: dict[str, str]


def feature_columns(
    names: Sequence[str], *, reference_days: int, redefined: Sequence[str] = ()
) -> FeatureColumns:
    """Sort qualified feature `names` into comparable ones and others.

    Args:
        names: `view:feature` each.
        reference_days: days of the reference window.
        redefined: views whose definition is no longer the reference's.
    """
    kinds: dict[str, Kind] = {}
    left_out: dict[str, str] = {}
    for name in names:
        view, feature = resolve(name)
        reason = REDEFINED if view.name in redefined else _against(view, feature, reference_days)
        if reason is not None:
            left_out[name] = reason
        else:
            kinds[name] = "categorical" if feature.unit == "code" else "numeric"
    return FeatureColumns(kinds, left_out)


def _against(view: FeatureView, feature: Feature, reference_days: int) -> str | None:
    if isinstance(feature, RowFeature) and feature.transform in _CALENDAR:
        return CALENDAR
    aggregations = list(_aggregations(view, feature))
    if any(aggregation.source == "outcomes" for aggregation in aggregations):
        return LATE_OUTCOMES
    if any(aggregation.entity in _FEW for aggregation in aggregations):
        return FEW_SUBJECTS
    memory_us = max((aggregation.window_us for aggregation in aggregations), default=0)
    if memory_us * MIN_WINDOWS > reference_days * DAY_US:
        return LONG_MEMORY
    return None


def _aggregations(view: FeatureView, feature: Feature) -> Iterator[Aggregation]:
    """Window aggregates behind `feature`, itself among them."""
    if isinstance(feature, RowFeature):
        return
    factors, _, minus, divisor, _ = formula(feature)
    read = {*factors, minus, divisor}
    yield from (aggregation for aggregation in view.aggregations if aggregation.name in read)
