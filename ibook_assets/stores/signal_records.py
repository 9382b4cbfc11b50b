"""The daily records of the signals beside column drift, and their history."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

from ibook_assets.core.manifest import SnapshotManifest
from ibook_assets.core.monitoring.signals import (
    SIGNALS,
    Signal,
    SignalName,
    SignalRecord,
    confirmed,
)
from ibook_assets.core.promotion import PromotionRecord
from ibook_assets.core.times import DAY_US, day_start_us
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.daily_records import DailyRecords


def signal_record(
    blobs: Blobs,
    signal: Signal,
    *,
    use_case: str,
    day: str,
    champion: PromotionRecord | None,
    new_days: int,
) -> SignalRecord:
    """The record of `signal` on `day`; the days before it say whether it is confirmed."""
    if champion is None:
        persists = False
    else:
        back = SIGNALS[signal.name].persistence - 1
        earlier = _records(blobs, signal.name, use_case).right_before(day, days=back)
        persists = confirmed(signal, champion=champion.model.model_version, earlier=earlier)
    return SignalRecord(
        use_case=use_case,
        day=day,
        champion_version=None if champion is None else champion.model.model_version,
        training_snapshot=None if champion is None else champion.model.training_snapshot,
        new_days=new_days,
        signal=signal,
        confirmed=persists,
    )


def new_days(blobs: Blobs, champion: PromotionRecord | None, day: str) -> int:
    """Days between the champion's training set and the end of `day`: so many have matured."""
    if champion is None:
        return 0
    key = f"manifests/{champion.model.training_snapshot}.json"
    manifest = SnapshotManifest.model_validate_json(blobs.get(key))
    end_us = day_start_us(date.fromisoformat(day)) + DAY_US
    return max(0, (end_us - int(manifest.parameters["as_of_us"])) // DAY_US)


def store_signal(blobs: Blobs, record: SignalRecord, *, precommit: Callable[[], None]) -> str:
    """Keep `record` as its day's newest; the key it lies under."""
    records = _records(blobs, record.signal.name, record.use_case)
    return records.store(record.day, record, precommit=precommit)


def signal_records(
    blobs: Blobs, name: SignalName, use_case: str, *, until: str, days: int
) -> list[SignalRecord]:
    """The newest `days` records of a signal up to the day `until`, oldest first."""
    return _records(blobs, name, use_case).newest(until=until, days=days)


def _records(blobs: Blobs, name: SignalName, use_case: str) -> DailyRecords[SignalRecord]:
    return DailyRecords(blobs, f"monitoring/{name}/{use_case}", SignalRecord, name)
