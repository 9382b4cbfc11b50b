"""The domain classifier: can trees tell a day's rows from the reference's?

It sees what no single column shows: columns that each lie as ever and no longer go together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import xgboost as xgb

from ibook_assets.core.metrics import roc_auc
from ibook_assets.core.monitoring.calibration import days_apart
from ibook_assets.core.monitoring.columns import Floats, Ints
from ibook_assets.core.monitoring.signals import MIN_NULL_DAYS, Signal, against_days
from ibook_assets.core.promotion import PromotionRecord
from ibook_assets.core.use_cases import UseCase
from ibook_assets.stores.feature_windows import (
    FeatureWindows,
    Matrix,
    compared_features,
    feature_windows,
)
from ibook_assets.stores.lake import Lake

SAMPLED_ROWS: Final = 600
"""Rows of the day, and as many of the reference, that the classifier is tried on."""
MIN_ROWS: Final = 200
DAY_TELLING_GAIN: Final = 0.20
"""Share of the gain above which a feature tells undrifted days apart, and is not read."""
FEATURES_SHOWN: Final = 10

_FEWEST: Final = 10
"""Features below which none is left out any more."""
_ROUNDS: Final = 25
_TREES: Final = {
    "max_depth": 3,
    "eta": 0.2,
    "objective": "binary:logistic",
    "tree_method": "hist",
    "max_bin": 32,
    "colsample_bytree": 0.5,
    "nthread": 1,
}


def domain_drift_of(lake: Lake, use_case: UseCase, champion: PromotionRecord, day: str) -> Signal:
    """Whether a classifier tells the features of `day` from the champion's last training days."""
    names = list(compared_features(use_case, champion).kinds)
    return domain_drift(feature_windows(lake, use_case, champion, names, day))


@dataclass(frozen=True, slots=True)
class Undrifted:
    """How well reference days are told from one another."""

    columns: Ints
    """Positions of the features that the classifier reads."""
    log_odds: Floats
    """Of the AUC of each reference day."""


def domain_drift(
    windows: FeatureWindows, *, undrifted: Undrifted | None = None, seed: int = 0
) -> Signal:
    """Judge a cross-validated AUC by those of undrifted days, on the scale of its log-odds.

    Args:
        windows: the features that are compared.
        undrifted: what `undrifted_days` found, when the same reference judges many days.
        seed: of the rows sampled.
    """
    if min(windows.current.shape[0], windows.reference.shape[0]) < MIN_ROWS:
        reason = f"{windows.current.shape[0]} rows of the {MIN_ROWS} needed"
        return Signal.insufficient("domain_drift", reason)
    usual = undrifted_days(windows, seed=seed) if undrifted is None else undrifted
    read = usual.columns
    rng = np.random.default_rng(seed)
    auc, gain = _auc(windows.current[:, read], windows.reference[:, read], rng)
    strongest = np.argsort(-gain, kind="stable")[:FEATURES_SHOWN]
    return against_days(
        "domain_drift",
        _log_odds(auc),
        usual.log_odds,
        evidence={
            "auc": auc,
            "rows": min(SAMPLED_ROWS, windows.current.shape[0]),
            "features": int(read.size),
            "tells_by": {windows.names[read[i]]: float(gain[i]) for i in strongest},
        },
    )


def undrifted_days(windows: FeatureWindows, *, seed: int = 0) -> Undrifted:
    """Tell each reference day from those apart from it, by features that hardly say which it is.

    Rows of one day share its events and buyers, so that a classifier knows any day a little: the
    labels are permuted by whole days, not by rows. Features by which it knows undrifted days, such
    as the hours to the few events on sale, would hide what has changed and are left out.
    """
    rng = np.random.default_rng(seed)
    days, rows = np.unique(windows.days, return_counts=True)
    told = days[rows >= MIN_ROWS]
    every = np.arange(len(windows.names))
    if told.size < MIN_NULL_DAYS:
        return Undrifted(every, np.empty(0))
    read = every
    while True:
        found = [_told(windows, day, read, rng) for day in told]
        gains = np.mean([gain for _, gain in found], axis=0)
        if gains.max() <= DAY_TELLING_GAIN or read.size <= _FEWEST:
            return Undrifted(read, np.array([_log_odds(auc) for auc, _ in found]))
        read = read[gains <= DAY_TELLING_GAIN]


def _told(
    windows: FeatureWindows, day: int, columns: Ints, rng: np.random.Generator
) -> tuple[float, Floats]:
    off = np.abs(windows.days - day)
    rows = windows.reference[:, columns]
    return _auc(rows[off == 0], rows[off >= days_apart(int(np.ptp(windows.days)) + 1)], rng)


def _log_odds(auc: float) -> float:
    inside = min(max(auc, 1e-4), 1 - 1e-4)
    return float(np.log(inside / (1 - inside)))


def _auc(day: Matrix, others: Matrix, rng: np.random.Generator) -> tuple[float, Floats]:
    """Two-fold cross-validated AUC of telling `day` from `others`, and each gain share."""
    rows = min(SAMPLED_ROWS, day.shape[0], others.shape[0])
    x = np.concatenate(
        [
            day[rng.choice(day.shape[0], rows, replace=False)],
            others[rng.choice(others.shape[0], rows, replace=False)],
        ]
    )
    # Trees take no infinities; those are the data quality's business.
    x = np.where(np.isinf(x), np.nan, x)
    y = np.repeat([1, 0], rows)
    fold = rng.integers(0, 2, y.size)
    told: Floats = np.empty(y.size)
    gain = np.zeros(x.shape[1])
    for out in (0, 1):
        kept = fold != out
        trees = xgb.train(_TREES, xgb.DMatrix(x[kept], y[kept], nthread=1), _ROUNDS)
        told[~kept] = trees.predict(xgb.DMatrix(x[~kept], nthread=1))
        for name, value in trees.get_score(importance_type="total_gain").items():
            gain[int(name[1:])] += float(np.max(value))
    return roc_auc(y, told), gain / max(float(gain.sum()), 1e-12)
