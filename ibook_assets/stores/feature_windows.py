"""A day's features beside those of the last days the champion learnt from, as matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ibook_assets.core.arrow import integers
from ibook_assets.core.features.catalog import view
from ibook_assets.core.monitoring import Windows, drift_of
from ibook_assets.core.monitoring.columns import Ints
from ibook_assets.core.monitoring.feature_columns import FeatureColumns, feature_columns
from ibook_assets.core.monitoring.quality import data_quality
from ibook_assets.core.monitoring.signals import Signal, of_scores
from ibook_assets.core.promotion import PromotionRecord
from ibook_assets.core.times import DAY_US
from ibook_assets.core.use_cases import UseCase
from ibook_assets.models.bundle import ModelBundle
from ibook_assets.stores.drift_days import REFERENCE_DAYS
from ibook_assets.stores.feature_days import feature_table
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.promoted_models import load_promoted
from ibook_assets.stores.skew_days import batch_vectors
from ibook_assets.stores.training_data import read_training_set

Matrix = npt.NDArray[np.float32]

SCORE: Final = "score"


@dataclass(frozen=True, slots=True)
class FeatureWindows:
    """Rows of the reference and of the day in the same columns."""

    names: tuple[str, ...]
    reference: Matrix
    days: Ints
    """Day number of each reference row."""
    known_ts: Ints
    """Of each reference row."""
    current: Matrix
    day: Ints
    """Day number of each current row."""

    def unseen_by(self, bundle: ModelBundle) -> FeatureWindows:
        """With the reference rows only that `bundle` did not learn from."""
        kept = self.known_ts >= bundle.info.trained_until_us
        return FeatureWindows(
            self.names,
            self.reference[kept],
            self.days[kept],
            self.known_ts[kept],
            self.current,
            self.day,
        )


def feature_windows(
    lake: Lake, use_case: UseCase, champion: PromotionRecord, names: Sequence[str], day: str
) -> FeatureWindows:
    """`names` of the champion's last `REFERENCE_DAYS` training days and of `day`."""
    snapshot = champion.model.training_snapshot
    known_ts = integers(
        read_training_set(lake, use_case.name, snapshot, columns=["known_ts"])["known_ts"], null=0
    )
    days = known_ts // DAY_US
    kept = np.flatnonzero(days > days.max() - REFERENCE_DAYS)
    rows = read_training_set(lake, use_case.name, snapshot, columns=list(names)).take(kept)
    reference = np.empty((kept.size, len(names)), dtype=np.float32)
    for position, name in enumerate(names):
        reference[:, position] = rows[name].to_numpy()
    batch = batch_vectors(lake, names, day)
    return FeatureWindows(
        tuple(names),
        reference,
        days[kept],
        known_ts[kept],
        batch.values,
        batch.known_ts // DAY_US,
    )


def compared_features(use_case: UseCase, champion: PromotionRecord) -> FeatureColumns:
    """Which of the use case's features can be held against what the champion learnt from."""
    learnt = champion.model.spec_hashes
    return feature_columns(
        use_case.features,
        reference_days=REFERENCE_DAYS,
        redefined=[name for name, spec in use_case.spec_hashes.items() if learnt.get(name) != spec],
    )


def score_drift_of(lake: Lake, use_case: UseCase, champion: PromotionRecord, day: str) -> Signal:
    """The champion's scores of `day` against those of orders it had not learnt from."""
    bundle = load_promoted(lake.blobs, champion)
    found = feature_windows(lake, use_case, champion, bundle.feature_names, day).unseen_by(bundle)
    decision = drift_of(
        # Margins are float32 and hold the order of the probabilities without their crowding.
        {SCORE: bundle.margins(found.reference)},
        {SCORE: bundle.margins(found.current)},
        {SCORE: "numeric"},
        windows=Windows(found.days, found.day),
    )
    return of_scores(decision)


def data_quality_of(lake: Lake, use_case: UseCase, champion: PromotionRecord, day: str) -> Signal:
    """What the features of `day` lost that the champion's last training days had."""
    missing = _missing(lake, use_case, day)
    names = [name for name in _readable(use_case, champion) if name not in missing]
    if not names:
        return data_quality({}, {}, {}, np.zeros(0, np.int64), missing=missing)
    columns = compared_features(use_case, champion)
    found = feature_windows(lake, use_case, champion, names, day)
    return data_quality(
        {name: found.reference[:, i] for i, name in enumerate(names)},
        {name: found.current[:, i] for i, name in enumerate(names)},
        {name: columns.kinds.get(name, "numeric") for name in names},
        found.days,
        uncalibrated=[name for name in names if name in columns.left_out],
        missing=missing,
    )


def _readable(use_case: UseCase, champion: PromotionRecord) -> list[str]:
    """Features whose definition is the one that the champion learnt from."""
    learnt, present = champion.model.spec_hashes, use_case.spec_hashes
    return [
        name
        for name in use_case.features
        if learnt.get(name.partition(":")[0]) == present[name.partition(":")[0]]
    ]


def _missing(lake: Lake, use_case: UseCase, day: str) -> list[str]:
    """Features that the day's stored tables do not have."""
    missing = []
    for name in use_case.views:
        there = set(lake.read(feature_table(name), [day]).column_names)
        missing += [q for q in view(name).qualified_names if q.partition(":")[2] not in there]
    return missing
