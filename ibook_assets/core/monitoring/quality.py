"""Data quality of a day's features: lost values, infinities, unseen codes, missing columns.

What is broken is not drift: no model should learn from it. So this signal blocks training and asks
people, and never trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, FiniteFloat

from ibook_assets.core.monitoring.calibration import CAUTION, largest_allowed
from ibook_assets.core.monitoring.columns import (
    Floats,
    Ints,
    Kind,
    Values,
    categories,
    is_null,
)
from ibook_assets.core.monitoring.decision import FALSE_ALARM_RATE
from ibook_assets.core.monitoring.signals import MIN_NULL_DAYS, Signal

LEAST_HARM: Final = 0.01
"""Share of the day's rows that must be spoilt beyond the usual before anybody is told."""
PLAIN_HARM: Final = 0.25
"""The same for a column that cannot be calibrated: nothing undrifted spoils a quarter."""
MIN_ROWS: Final = 200
FAULTS_SHOWN: Final = 20

FaultKind = Literal["nulls", "infinities", "unseen codes", "missing column"]


class Fault(BaseModel):
    """One thing wrong with one column."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str
    kind: FaultKind
    share: FiniteFloat
    """Of the day's rows."""
    usual: FiniteFloat
    """Of the reference's rows."""
    deviation: FiniteFloat | None
    """Standard deviations beyond the usual; None where it is not calibrated."""


@dataclass(frozen=True, slots=True)
class _Share:
    column: str
    kind: FaultKind
    now: float
    by_day: Floats


def data_quality(
    reference: Mapping[str, Values],
    current: Mapping[str, Values],
    kinds: Mapping[str, Kind],
    days: Ints,
    *,
    uncalibrated: Sequence[str] = (),
    missing: Sequence[str] = (),
    false_alarm_rate: float = FALSE_ALARM_RATE,
) -> Signal:
    """Whether the day's columns lost what undrifted days had.

    Args:
        reference: column to the rows of undrifted days.
        current: the same columns of the day.
        kinds: column to its kind.
        days: day number of each reference row.
        uncalibrated: columns whose days say too little of one another, held to `PLAIN_HARM`.
        missing: columns that the day does not have at all.
        false_alarm_rate: share of undrifted days that may be called broken.
    """
    number = np.unique(days).size
    rows = next((values.size for values in current.values()), 0)
    absent = [_missing(name) for name in missing]
    if not absent and (number < MIN_NULL_DAYS or rows < MIN_ROWS):
        reason = (
            f"{number} reference days of the {MIN_NULL_DAYS} and {rows} rows of the {MIN_ROWS} "
            "needed"
        )
        return Signal.insufficient("data_quality", reason, false_alarm_rate=false_alarm_rate)
    plain = set(uncalibrated)
    shares = [
        s for name, kind in kinds.items() for s in _shares(name, kind, reference, current, days)
    ]
    known = [share for share in shares if share.column not in plain]
    deviation, threshold = _calibrated(known, rows, rate=false_alarm_rate / CAUTION)
    faults = absent + [
        _fault(share, by)
        for share, by in zip(known, deviation, strict=True)
        if by > threshold and _harm(share) > LEAST_HARM
    ]
    faults += [_fault(s, None) for s in shares if s.column in plain and _harm(s) > PLAIN_HARM]
    worst = sorted(faults, key=lambda fault: (fault.usual - fault.share, fault.column))
    harmful = [by for share, by in zip(known, deviation, strict=True) if _harm(share) > LEAST_HARM]
    return Signal(
        name="data_quality",
        state="drifted" if faults else "stable",
        statistic=max(harmful, default=0.0),
        threshold=threshold,
        false_alarm_rate=false_alarm_rate,
        null_windows=number,
        acts=bool(faults),
        evidence={
            "columns": len(kinds) + len(missing),
            "rows": rows,
            "least_harm": LEAST_HARM,
            "faults": [fault.model_dump() for fault in worst[:FAULTS_SHOWN]],
        },
    )


def _missing(name: str) -> Fault:
    return Fault(column=name, kind="missing column", share=1.0, usual=0.0, deviation=None)


def _harm(share: _Share) -> float:
    return share.now - float(share.by_day.mean())


def _fault(share: _Share, deviation: float | None) -> Fault:
    return Fault(
        column=share.column,
        kind=share.kind,
        share=share.now,
        usual=float(share.by_day.mean()),
        deviation=deviation,
    )


def _shares(
    name: str,
    kind: Kind,
    reference: Mapping[str, Values],
    current: Mapping[str, Values],
    days: Ints,
) -> list[_Share]:
    """Shares of spoilt rows, on the day and on each reference day."""
    before, now = reference[name], current[name]
    _, position = np.unique(days, return_inverse=True)
    found = [_share(name, "nulls", is_null(now), is_null(before), position)]
    if kind == "numeric":
        found.append(_share(name, "infinities", _infinite(now), _infinite(before), position))
    else:
        found.append(_unseen(name, now, before, position))
    return found


def _share(name: str, kind: FaultKind, now: Values, before: Values, position: Ints) -> _Share:
    rows = np.bincount(position)
    by_day = np.bincount(position, weights=before) / np.maximum(rows, 1)
    return _Share(name, kind, float(now.mean()), by_day)


def _infinite(values: Values) -> Values:
    return (
        np.isinf(values.astype(np.float64))
        if values.dtype.kind in "fiu"
        else np.zeros(values.size, np.bool_)
    )


def _unseen(name: str, now: Values, before: Values, position: Ints) -> _Share:
    """Codes that no other day has: of the day among all others, of each reference day alike."""
    known = ~is_null(before)
    codes, code = np.unique(categories(before[known]), return_inverse=True)
    days = int(position.max()) + 1
    rows = np.zeros((days, codes.size))
    np.add.at(rows, (position[known], code), 1.0)
    lone = (rows > 0).sum(axis=0) == 1
    by_day = rows[:, lone].sum(axis=1) / np.maximum(np.bincount(position), 1)
    present = ~is_null(now)
    found = categories(now[present])
    alike = found.dtype.kind == codes.dtype.kind
    strange = ~np.isin(found, codes) if alike else np.ones(found.size, np.bool_)
    return _Share(name, "unseen codes", float(strange.sum()) / now.size, by_day)


def _calibrated(shares: Sequence[_Share], rows: int, *, rate: float) -> tuple[Floats, float]:
    """How far each share is beyond its usual, and what the furthest one exceeds at `rate`."""
    if not shares:
        return np.zeros(0), 0.0
    by_day = np.stack([share.by_day for share in shares], axis=1)
    now = np.array([share.now for share in shares])
    own = np.array(
        [_beyond(np.delete(by_day, d, axis=0), by_day[d], rows) for d in range(len(by_day))]
    )
    # A few days of a few shares may vary little by chance: never below what a coin's would need.
    coin = NormalDist().inv_cdf(1 - rate / len(shares))
    return _beyond(by_day, now, rows), max(coin, largest_allowed(own.max(axis=1), rate=rate))


def _beyond(usual: Floats, now: Floats, rows: int) -> Floats:
    mean = usual.mean(axis=0)
    # A share that never moved may still be one row's worth of chance away.
    coin = np.sqrt(np.maximum(mean * (1 - mean), 1 / rows) / rows)
    return np.asarray((now - mean) / np.maximum(usual.std(axis=0, ddof=1), coin))
