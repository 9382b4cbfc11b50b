"""Which features stay unknown when a request says only who orders what for how much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ibook_assets.core.facts import ENTITY_COLUMNS
from ibook_assets.core.features.catalog import resolve
from ibook_assets.core.features.spec import Feature, FeatureView, RowFeature, formula
from ibook_assets.core.tables import TRANSACTIONS

SIGNALS: Final = frozenset(c.name for c in TRANSACTIONS.columns if c.nullable) - {"promoter_id"}
"""Columns of an order that a request may leave out and nobody can fill in from the catalogue."""


def need_signals(names: Sequence[str]) -> list[bool]:
    """Per qualified feature name, whether it is NaN for a request without any of the signals."""
    return [_needs_signals(*resolve(name)) for name in names]


def _needs_signals(view: FeatureView, feature: Feature) -> bool:
    entities = {a.name: ENTITY_COLUMNS[a.entity] for a in view.aggregations}
    return any(entities.get(read, read) in SIGNALS for read in _reads(feature))


def _reads(feature: Feature) -> list[str]:
    if isinstance(feature, RowFeature):
        return [feature.column]
    factors, _, minus, divisor, _ = formula(feature)
    return [read for read in (*factors, minus, divisor) if read is not None]
