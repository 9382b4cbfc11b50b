"""Drift of a current window of rows against a reference window: evidence, score, decision."""

from ibook_assets.core.monitoring.columns import Kind, Values
from ibook_assets.core.monitoring.decision import (
    DRIFT_SCORE_THRESHOLD,
    ColumnDrift,
    DriftDecision,
    Reference,
    Windows,
    drift_of,
)

__all__ = [
    "DRIFT_SCORE_THRESHOLD",
    "ColumnDrift",
    "DriftDecision",
    "Kind",
    "Reference",
    "Values",
    "Windows",
    "drift_of",
]
