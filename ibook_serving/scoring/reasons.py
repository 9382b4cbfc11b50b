"""Why a score is what it is, in words an analyst reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from ibook_assets.core.facts import FACT_TRANSACTIONS
from ibook_assets.core.features.catalog import resolve
from ibook_assets.core.features.spec import SOURCES, Aggregation, Feature, RowFeature, codes_of
from ibook_serving.api import CENTS, Reason

TOP_REASONS: Final = 5
"""Features named in an explanation, the largest contributions first."""


class ReasonWriter:
    """Turns contributions into the reasons of one model's features."""

    def __init__(self, feature_names: Sequence[str]) -> None:
        """Raises UnknownFeatureError for a name that no feature view defines."""
        self._names = tuple(feature_names)
        self._features = tuple(resolve(name)[1] for name in feature_names)

    def write(
        self, values: npt.NDArray[np.float32], contributions: npt.NDArray[np.floating]
    ) -> tuple[Reason, ...]:
        """The strongest reasons of one row, strongest first.

        Args:
            values: shape (f,), the features scored; NaN where unknown.
            contributions: shape (f,), log-odds each feature moved the score by.
        """
        # A stable sort of the magnitudes keeps ties in the model's own feature order.
        strongest = np.argsort(-np.abs(contributions), kind="stable")[:TOP_REASONS]
        return tuple(
            self._reason(int(i), float(values[i]), float(contributions[i]))
            for i in strongest
            if contributions[i] != 0
        )

    def _reason(self, index: int, value: float, contribution: float) -> Reason:
        feature = self._features[index]
        effect = "raises" if contribution > 0 else "lowers"
        return Reason(
            feature=self._names[index],
            value=None if math.isnan(value) else value,
            contribution=contribution,
            phrase=f"{feature.description}: {_shown(feature, value)} ({effect} the risk)",
        )


def _shown(feature: Feature, value: float) -> str:
    if math.isnan(value):
        return "not known"
    if feature.unit == "code":
        return _code_text(feature, int(value))
    if feature.unit == "cents":
        return f"{value / CENTS:,.2f}"
    if feature.unit == "share":
        return f"{value:.1%}"
    number = f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"
    return f"{number} {feature.unit}".rstrip()


def _code_text(feature: Feature, code: int) -> str:
    codes: Sequence[str] | None = None
    if isinstance(feature, RowFeature):
        codes = codes_of(FACT_TRANSACTIONS, feature.column)
    elif isinstance(feature, Aggregation) and feature.column is not None:
        codes = codes_of(SOURCES[feature.source], feature.column)
    return codes[code] if codes and 0 <= code < len(codes) else str(code)
