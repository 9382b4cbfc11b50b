"""Time as the platform counts it: int64 microseconds since the Unix epoch, UTC."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Final

SECOND_US: Final = 1_000_000
MINUTE_US: Final = 60 * SECOND_US
HOUR_US: Final = 60 * MINUTE_US
DAY_US: Final = 24 * HOUR_US

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def to_us(moment: datetime) -> int:
    """Microseconds since the epoch of an aware `moment`; ValueError when it is naive."""
    if moment.tzinfo is None:
        msg = f"{moment.isoformat()} has no time zone; add one, e.g. {moment.isoformat()}Z for UTC"
        raise ValueError(msg)
    return (moment - _EPOCH) // timedelta(microseconds=1)


def from_us(timestamp_us: int) -> datetime:
    """The UTC datetime of `timestamp_us`."""
    return _EPOCH + timedelta(microseconds=timestamp_us)


def day_start_us(day: date) -> int:
    """First microsecond of the UTC `day`."""
    return (day - _EPOCH.date()).days * DAY_US


def day_of(timestamp_us: int) -> date:
    """UTC day that `timestamp_us` falls in."""
    return _EPOCH.date() + timedelta(days=timestamp_us // DAY_US)
