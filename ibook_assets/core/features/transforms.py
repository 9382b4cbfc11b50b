"""Readings of a request column, the same arithmetic for one integer and for an array of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from ibook_assets.core.features.spec import Transform
from ibook_assets.core.times import DAY_US, HOUR_US

Number: TypeAlias = Any
"""An `int` or an int64 array; both know `//` and `%`."""

_EPOCH_WEEKDAY: Final = 3
"""1970-01-01 was a Thursday; Monday is 0."""

_SATURDAY: Final = 5

_NIGHT_HOURS: Final = 7
"""Night is 00:00 until 06:59, as in the Fraud Detection Handbook, section 3.4."""


def _hour(time_us: Number) -> Number:
    return time_us // HOUR_US % 24


def _weekday(time_us: Number) -> Number:
    return (time_us // DAY_US + _EPOCH_WEEKDAY) % 7


TRANSFORMS: Final[Mapping[Transform, Callable[[Number], Number]]] = {
    "value": lambda value: value,
    "hour_of_day": _hour,
    "day_of_week": _weekday,
    "weekend": lambda time_us: _weekday(time_us) // _SATURDAY,
    # 1 while hour < 7: the quotient of 24 + 6 - hour by 24.
    "night": lambda time_us: (24 + _NIGHT_HOURS - 1 - _hour(time_us)) // 24,
}
"""What each transform makes of a value that is not missing."""
