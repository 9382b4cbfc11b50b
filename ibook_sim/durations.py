"""Lengths of time as people write them: `90s`, `10m`, `1h30m`, or a bare number."""

from __future__ import annotations

import re
from typing import Final, Literal

from ibook_assets.core.errors import ContractError

Unit = Literal["ms", "s", "m", "h", "d"]

_SECONDS: Final[dict[str, float]] = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_PART: Final = r"(\d+(?:\.\d+)?)(ms|s|m|h|d)"
_WHOLE: Final = re.compile(rf"(?:{_PART})+", re.ASCII)
_BARE: Final = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
MAX_SECONDS: Final = 366 * 86_400.0


def seconds_of(text: str, *, bare: Unit) -> float:
    """Seconds of `text`; a number without a unit counts in `bare`.

    Raises:
        ContractError: `text` is no length of time, is zero, or is longer than a leap year.
    """
    stripped = text.strip().lower()
    if _BARE.fullmatch(stripped):
        seconds = float(stripped) * _SECONDS[bare]
    elif _WHOLE.fullmatch(stripped):
        parts = re.findall(_PART, stripped, re.ASCII)
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    else:
        msg = f"{text!r} is no duration: write 90s, 10m, 1h30m, or a number of {bare}"
        raise ContractError(msg)
    if not 0.0 < seconds <= MAX_SECONDS:
        msg = f"a duration of {text!r} is {seconds:g} s; it must be above 0 and at most 366d"
        raise ContractError(msg)
    return seconds


def spelled(seconds: float) -> str:
    """`seconds` in the largest unit that keeps it short: `90s`, `10m`, `2h`."""
    for unit in ("d", "h", "m"):
        count = seconds / _SECONDS[unit]
        if count >= 1.0 and count == int(count):
            return f"{int(count)}{unit}"
    return f"{round(seconds, 3):.12g}s"
