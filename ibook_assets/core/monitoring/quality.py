"""Data quality of a day's features: lost values, infinities, unseen codes, missing columns.

What is broken is not drift: no model should learn from it. So this signal blocks training and asks
people, and never trains.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, FiniteFloat

from ibook_assets.core.monitoring.calibration import largest_allowed
from ibook_assets.core.monitoring.columns import (
    Floats,
    Ints,
    Kind,
    Values,
    categories,
    is_null,
)
from ibook_assets.core.monitoring.signals import MIN_NULL_DAYS, SIGNALS, Signal

FALSE_ALARM_RATE: Final = SIGNALS["data_quality"].false_alarm_rate
CAUTION: Final = 20
"""Calibrated columns are held to a rate this many times smaller than the stated one: the
plain rule for the others has alarms of its own."""
LEAST_HARM: Final = 0.01
"""Share of the day's rows that must be spoilt beyond the usual before anybody is told."""
PLAIN_HARM: Final = 0.15
"""The same for a column that cannot be calibrated, beyond the worst of the undrifted days."""
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


class SoundDays:
    """Days on which nothing was broken, counted once for all the days held against them."""

    def __init__(
        self,
        columns: Mapping[str, Values],
        kinds: Mapping[str, Kind],
        days: Ints,
        *,
        uncalibrated: Collection[str] = (),
    ) -> None:
        """Count `columns`, see `data_quality`."""
        self._plain = frozenset(uncalibrated)
        self._days = np.unique(days).size
        position = np.unique(days, return_inverse=True)[1]
        self._columns = {
            name: _Usual.of(columns[name], kind, position) for name, kind in kinds.items()
        }

    def judged(
        self,
        current: Mapping[str, Values],
        *,
        missing: Sequence[str] = (),
        false_alarm_rate: float = FALSE_ALARM_RATE,
    ) -> Signal:
        """Whether the day's columns lost what sound days had, see `data_quality`."""
        rows = next((values.size for values in current.values()), 0)
        absent = [_missing(name) for name in missing]
        if not absent and (self._days < MIN_NULL_DAYS or rows < MIN_ROWS):
            reason = (
                f"{self._days} reference days of the {MIN_NULL_DAYS} and {rows} rows of the "
                f"{MIN_ROWS} needed"
            )
            return Signal.insufficient("data_quality", reason, false_alarm_rate=false_alarm_rate)
        shares = [s for name, usual in self._columns.items() for s in usual.shares(name, current)]
        known = [share for share in shares if share.column not in self._plain]
        deviation, threshold = _calibrated(known, rows, rate=false_alarm_rate / CAUTION)
        harmful = [
            (share, by)
            for share, by in zip(known, deviation, strict=True)
            if _harm(share) > LEAST_HARM
        ]
        faults = absent + [_fault(share, by) for share, by in harmful if by > threshold]
        faults += [_fault(s, None) for s in shares if s.column in self._plain and _plainly(s)]
        worst = sorted(faults, key=lambda fault: (fault.usual - fault.share, fault.column))
        return Signal(
            name="data_quality",
            state="drifted" if faults else "stable",
            statistic=max((by for _, by in harmful), default=0.0),
            threshold=threshold,
            false_alarm_rate=false_alarm_rate,
            null_windows=self._days,
            acts=bool(faults),
            evidence={
                "columns": len(self._columns) + len(missing),
                "rows": rows,
                "least_harm": LEAST_HARM,
                "faults": [fault.model_dump() for fault in worst[:FAULTS_SHOWN]],
            },
        )


def data_quality(
    reference: Mapping[str, Values],
    current: Mapping[str, Values],
    kinds: Mapping[str, Kind],
    days: Ints,
    *,
    uncalibrated: Collection[str] = (),
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
    sound = SoundDays(reference, kinds, days, uncalibrated=uncalibrated)
    return sound.judged(current, missing=missing, false_alarm_rate=false_alarm_rate)


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


def _plainly(share: _Share) -> bool:
    """Whether a share that cannot be calibrated is beyond all doubt."""
    return share.now - float(share.by_day.max()) > PLAIN_HARM


@dataclass(frozen=True, slots=True)
class _Usual:
    """Shares of a column's spoilt rows on each sound day."""

    kind: Kind
    nulls: Floats
    strange: Floats
    """Infinities of a numeric column; of any other, codes that no other day has."""
    codes: Values
    """Every code of a categorical column, ascending."""

    @classmethod
    def of(cls, values: Values, kind: Kind, position: Ints) -> Self:
        """Of the rows `values`, whose days are numbered by `position`."""
        null = is_null(values)
        nulls = _by_day(null, position)
        if kind == "numeric":
            return cls(kind, nulls, _by_day(_infinite(values), position), values[:0])
        codes, code = np.unique(categories(values[~null]), return_inverse=True)
        rows = np.zeros((nulls.size, codes.size))
        np.add.at(rows, (position[~null], code), 1.0)
        lone = (rows > 0).sum(axis=0) == 1
        strange = rows[:, lone].sum(axis=1) / np.maximum(np.bincount(position), 1)
        return cls(kind, nulls, strange, codes)

    def shares(self, name: str, current: Mapping[str, Values]) -> tuple[_Share, _Share]:
        """The day's shares beside the usual ones."""
        now = current[name]
        null = is_null(now)
        if self.kind == "numeric":
            second: FaultKind = "infinities"
            strange = float(_infinite(now).mean())
        else:
            second, strange = "unseen codes", self._unseen(categories(now[~null])) / now.size
        return (
            _Share(name, "nulls", float(null.mean()), self.nulls),
            _Share(name, second, strange, self.strange),
        )

    def _unseen(self, found: Values) -> float:
        if found.dtype.kind != self.codes.dtype.kind:
            return float(found.size)
        return float((~np.isin(found, self.codes)).sum())


def _by_day(spoilt: Values, position: Ints) -> Floats:
    """Share of spoilt rows on each day."""
    return np.bincount(position, weights=spoilt) / np.maximum(np.bincount(position), 1)


def _infinite(values: Values) -> Values:
    if values.dtype.kind not in "fiu":
        return np.zeros(values.size, np.bool_)
    # No float32 becomes infinite in float64, and integers are none.
    return np.isinf(values)


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
