"""A day's features held against what the champion learnt from, and the history of that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from ibook_assets.core.arrow import integers
from ibook_assets.core.errors import ContractError
from ibook_assets.core.monitoring import DriftDecision, Kind, Values, Windows, drift_of
from ibook_assets.core.monitoring.columns import Ints
from ibook_assets.core.monitoring.feature_columns import FeatureColumns, feature_columns
from ibook_assets.core.monitoring.record import PERSISTENCE, DriftRecord, confirmed
from ibook_assets.core.promotion import PromotedModel, PromotionRecord
from ibook_assets.core.times import DAY_US, day_of
from ibook_assets.core.use_cases import UseCase
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.daily_records import DailyRecords
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.signal_records import new_days
from ibook_assets.stores.skew_days import batch_vectors
from ibook_assets.stores.training_data import read_training_set

REFERENCE_DAYS: Final = 28
"""Last days of the champion's training set that a day is held against: four of each weekday."""

_FOLDER: Final = "monitoring/feature_drift"


@dataclass(frozen=True, slots=True)
class Compared:
    """A day's record, and the rows it was made from."""

    record: DriftRecord
    kinds: Mapping[str, Kind]
    reference: Mapping[str, Values]
    current: Mapping[str, Values]


@dataclass(frozen=True, slots=True)
class _Reference:
    columns: Mapping[str, Values]
    days: Ints


def compare_day(
    lake: Lake, use_case: UseCase, day: str, champion: PromotionRecord | None
) -> Compared:
    """Hold the features of `day` against the last days that `champion` learnt from.

    Raises:
        NotFoundError: the day's features, or the champion's training set, are not in the lake.
    """
    if champion is None:
        return Compared(_no_champion(use_case, day), {}, {}, {})
    model = champion.model
    columns, reference = _reference(lake, use_case, model)
    names = list(columns.kinds)
    batch = batch_vectors(lake, names, day)
    current = {name: np.ascontiguousarray(batch.values[:, i]) for i, name in enumerate(names)}
    decision = drift_of(
        reference.columns,
        current,
        columns.kinds,
        windows=Windows(reference.days, batch.known_ts // DAY_US),
    )
    first, last = (day_of(int(end) * DAY_US) for end in (reference.days[0], reference.days[-1]))
    record = DriftRecord(
        use_case=use_case.name,
        day=day,
        champion_version=model.model_version,
        training_snapshot=model.training_snapshot,
        reference_first_day=first.isoformat(),
        reference_last_day=last.isoformat(),
        new_days=new_days(lake.blobs, champion, day),
        decision=decision,
        confirmed=confirmed(
            decision,
            champion=model.model_version,
            earlier=_records(lake.blobs, use_case.name).right_before(day, days=PERSISTENCE - 1),
        ),
        left_out=columns.left_out,
    )
    return Compared(record, columns.kinds, reference.columns, current)


def report_folder(use_case: str, day: str) -> str:
    """Where everything about a day's drift lies."""
    return f"{_FOLDER}/{use_case}/dt={day}"


def store_record(blobs: Blobs, record: DriftRecord, *, precommit: Callable[[], None]) -> str:
    """Keep `record` as its day's newest; the key it lies under."""
    return _records(blobs, record.use_case).store(record.day, record, precommit=precommit)


def drift_records(blobs: Blobs, use_case: str, *, until: str, days: int) -> list[DriftRecord]:
    """The newest `days` records up to the day `until`, oldest first."""
    return _records(blobs, use_case).newest(until=until, days=days)


def _records(blobs: Blobs, use_case: str) -> DailyRecords[DriftRecord]:
    return DailyRecords(blobs, f"{_FOLDER}/{use_case}", DriftRecord, "feature_drift")


def _reference(
    lake: Lake, use_case: UseCase, model: PromotedModel
) -> tuple[FeatureColumns, _Reference]:
    """The last days of the model's training set, and what of them can be compared."""
    times = read_training_set(lake, use_case.name, model.training_snapshot, columns=["known_ts"])
    days = integers(times["known_ts"], null=0) // DAY_US
    kept = days > days.max() - REFERENCE_DAYS
    columns = feature_columns(
        use_case.features,
        reference_days=np.unique(days[kept]).size,
        redefined=[
            view
            for view, spec in use_case.spec_hashes.items()
            if model.spec_hashes.get(view) != spec
        ],
    )
    if not columns.kinds:
        msg = (
            f"no feature can be compared with what {model.model_version} learnt from: "
            f"{'; '.join(sorted(set(columns.left_out.values())))}. Train {use_case.name} again"
        )
        raise ContractError(msg)
    rows = read_training_set(
        lake, use_case.name, model.training_snapshot, columns=list(columns.kinds)
    )
    values = {name: np.asarray(rows[name].to_numpy())[kept] for name in columns.kinds}
    return columns, _Reference(values, days[kept])


def _no_champion(use_case: UseCase, day: str) -> DriftRecord:
    return DriftRecord(
        use_case=use_case.name,
        day=day,
        champion_version=None,
        training_snapshot=None,
        reference_first_day=None,
        reference_last_day=None,
        new_days=0,
        decision=DriftDecision.insufficient(
            f"no {use_case.name} model has been promoted: there is nothing to compare with"
        ),
        confirmed=False,
    )
