"""The daily records of the signals beside column drift, and their history."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from typing import Final

from pydantic import ValidationError

from ibook_assets.core.canonical import canonical_json
from ibook_assets.core.errors import ContractError, NotFoundError
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

RECORD: Final = "decision.json"


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
        earlier = _just_before(blobs, signal.name, use_case, day)
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
    key = f"{_folder(record.signal.name, record.use_case)}/dt={record.day}/{RECORD}"
    precommit()
    blobs.put(key, canonical_json(record))
    return key


def signal_records(
    blobs: Blobs, name: SignalName, use_case: str, *, until: str, days: int
) -> list[SignalRecord]:
    """The newest `days` records of a signal up to the day `until`, oldest first."""
    start = f"{_folder(name, use_case)}/dt="
    keys = sorted(key for key in blobs.list(start[:-3]) if key.endswith(f"/{RECORD}"))
    known = [key for key in keys if key[len(start) :].partition("/")[0] <= until]
    return [_read(blobs, key) for key in known[-days:]]


def _folder(name: SignalName, use_case: str) -> str:
    return f"monitoring/{name}/{use_case}"


def _read(blobs: Blobs, key: str) -> SignalRecord:
    try:
        return SignalRecord.model_validate_json(blobs.get(key))
    except ValidationError as error:
        msg = (
            f"{blobs.location(key)} is not a signal record of schema version 1 "
            f"({error.error_count()} errors); materialise that day of the signal again"
        )
        raise ContractError(msg) from error


def _just_before(blobs: Blobs, name: SignalName, use_case: str, day: str) -> list[SignalRecord]:
    """Records of the days before `day` that persistence asks for, as far as there are any."""
    found = []
    for back in range(SIGNALS[name].persistence - 1, 0, -1):
        before = (date.fromisoformat(day) - timedelta(days=back)).isoformat()
        try:
            found.append(_read(blobs, f"{_folder(name, use_case)}/dt={before}/{RECORD}"))
        except NotFoundError:
            found.clear()  # a gap: what is further back does not stand in a row with today
    return found
