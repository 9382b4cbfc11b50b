"""Attribution drift: does the champion decide by the same features as on its reference?"""

from __future__ import annotations

from typing import Final

import numpy as np

from ibook_assets.core.monitoring.calibration import days_apart
from ibook_assets.core.monitoring.columns import Floats, Ints
from ibook_assets.core.monitoring.distances import jensen_shannon
from ibook_assets.core.monitoring.signals import Signal, against_days
from ibook_assets.core.promotion import PromotionRecord
from ibook_assets.core.use_cases import UseCase
from ibook_assets.models.bundle import ModelBundle
from ibook_assets.stores.feature_windows import FeatureWindows, Matrix, feature_windows
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.promoted_models import load_promoted

SAMPLED_ROWS: Final = 200
"""Rows of each day that are explained: approximate contributions take 0.3 ms a row. A day with
fewer is not judged: its mean is further from the others' by chance."""
FEATURES_SHOWN: Final = 10


def attribution_drift_of(
    lake: Lake, use_case: UseCase, champion: PromotionRecord, day: str
) -> Signal:
    """How differently the champion explains the orders of `day`."""
    bundle = load_promoted(lake.blobs, champion)
    found = feature_windows(lake, use_case, champion, bundle.feature_names, day)
    return attribution_drift(found.unseen_by(bundle), bundle)


def attribution_drift(
    windows: FeatureWindows,
    bundle: ModelBundle,
    *,
    undrifted: Floats | None = None,
    seed: int = 0,
) -> Signal:
    """Judge how far the day's attributions are from the reference's by how far each day's are.

    An attribution is a feature's mean absolute contribution as a share of all features'. Shares
    are compared by their Jensen-Shannon distance, each reference day with the others.

    Args:
        windows: the model's features, the reference without rows it learnt from.
        bundle: the model.
        undrifted: what `attributions_by_day` found, when the same reference judges many days.
        seed: of the rows sampled.
    """
    if not windows.days.size:
        reason = "the champion has learnt from every order of the reference"
        return Signal.insufficient("attribution_drift", reason)
    if windows.current.shape[0] < SAMPLED_ROWS:
        reason = f"{windows.current.shape[0]} rows of the {SAMPLED_ROWS} needed"
        return Signal.insufficient("attribution_drift", reason)
    by_day = attributions_by_day(windows, bundle, seed=seed) if undrifted is None else undrifted
    now = _attributions(windows.current, bundle, np.random.default_rng(seed))
    usual = by_day.mean(axis=0)
    null = _undrifted(by_day)
    places, place = _ranks(usual), _ranks(now)
    moved = np.argsort(-np.abs(now - usual), kind="stable")[:FEATURES_SHOWN]
    return against_days(
        "attribution_drift",
        jensen_shannon(usual, now),
        null,
        evidence={
            "features": [
                {
                    "feature": windows.names[i],
                    "share": float(now[i]),
                    "usual": float(usual[i]),
                    "rank": int(place[i]),
                    "usual_rank": int(places[i]),
                }
                for i in moved
            ]
        },
    )


def attributions_by_day(windows: FeatureWindows, bundle: ModelBundle, *, seed: int = 0) -> Floats:
    """Attributions on each reference day, shape (days, features)."""
    rng = np.random.default_rng(seed)
    return np.stack(
        [
            _attributions(windows.reference[windows.days == day], bundle, rng)
            for day in np.unique(windows.days)
        ]
    )


def _attributions(rows: Matrix, bundle: ModelBundle, rng: np.random.Generator) -> Floats:
    sample = rows[rng.choice(rows.shape[0], min(SAMPLED_ROWS, rows.shape[0]), replace=False)]
    found = np.abs(bundle.explain(sample, approximate=True)[:, :-1]).mean(axis=0)
    return np.asarray(found / max(float(found.sum()), 1e-12), dtype=np.float64)


def _undrifted(by_day: Floats) -> Floats:
    """Distance of each reference day from the mean of the days apart from it."""
    number = np.arange(by_day.shape[0])
    apart = np.abs(number[:, None] - number) >= days_apart(number.size)
    told = apart.any(axis=1)
    means = apart[told] @ by_day / apart[told].sum(axis=1, keepdims=True)
    return np.array(
        [jensen_shannon(mean, own) for mean, own in zip(means, by_day[told], strict=True)]
    )


def _ranks(shares: Floats) -> Ints:
    return np.argsort(np.argsort(-shares, kind="stable"), kind="stable") + 1
