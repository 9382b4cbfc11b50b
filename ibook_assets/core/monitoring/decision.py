"""The drift decision: evidence for each column, the compatibility score, the calibrated verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, FiniteFloat

from ibook_assets.core.errors import ContractError
from ibook_assets.core.monitoring.calibration import (
    MIN_WINDOWS,
    Calibration,
    from_days,
    from_rows,
)
from ibook_assets.core.monitoring.columns import ColumnBins, Ints, Kind, Values, shifts
from ibook_assets.core.monitoring.distances import Method, Tally, tally_distance

DRIFT_SCORE_THRESHOLD: Final = 0.30
"""Share of drifted columns from which the compatibility score fires (`>=`)."""
FALSE_ALARM_RATE: Final = 0.01
"""Share of undrifted windows that the calibrated verdict may call drifted."""
USUAL_DEVIATION: Final = 3.0
"""Standard deviations within which a column moves by itself; it then does not count in the score,
however far apart the windows are: some columns are never still."""
MIN_REFERENCE_ROWS: Final = 1_001
"""Rows the reference needs: the distance rule holds for more than 1,000."""
MIN_CURRENT_ROWS: Final = 200
"""Rows the current window needs; a smaller one says `insufficient_data`."""

State = Literal["stable", "drifted", "insufficient_data"]


@dataclass(frozen=True, slots=True)
class Windows:
    """Which day each row is of, where windows span days."""

    reference: Ints
    """Day number of each reference row."""
    current: Ints
    """Day number of each current row."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ColumnDrift(_Frozen):
    """What is known of one column."""

    name: str
    kind: Kind
    method: Method
    distance: FiniteFloat | None
    """By the distance rule; None when one window has no finite value, the other has."""
    distant: bool
    """Whether the rule calls the distance drifted."""
    shift: FiniteFloat
    """Largest difference of cumulative shares (numeric), total variation (categorical), 0..1."""
    reference_nulls: FiniteFloat
    """Share of reference rows without a value."""
    current_nulls: FiniteFloat
    unseen: FiniteFloat
    """Share of current rows with a value the reference never had: a category, an infinity."""
    deviation: FiniteFloat
    """Larger of the shift's and the nulls' excess over what is usual, in standard deviations."""
    drifted: bool
    """Whether `deviation` exceeds the decision's threshold."""

    @property
    def counts(self) -> bool:
        """Whether it is one of the score's drifted columns."""
        return self.distant and self.deviation > USUAL_DEVIATION


class DriftDecision(_Frozen):
    """Whether the current window has drifted from the reference, and why.

    Signals that look at something else than columns join as decisions of their own.
    """

    state: State
    """The calibrated verdict. `insufficient_data` is neither drift nor its absence."""
    score: FiniteFloat | None
    """Share of columns that the distance rule calls drifted and that moved more than they do by
    themselves, 0..1; None without enough data."""
    distance_share: FiniteFloat | None
    """Share of columns that the distance rule alone calls drifted: what Evidently's report says."""
    score_threshold: FiniteFloat = DRIFT_SCORE_THRESHOLD
    statistic: FiniteFloat | None
    """Largest deviation of any column; None without enough data."""
    threshold: FiniteFloat | None
    """What `statistic` exceeds in the stated share of undrifted windows."""
    false_alarm_rate: FiniteFloat
    """Stated share of undrifted windows that are called drifted."""
    reference_rows: int
    current_rows: int
    null_windows: int
    """Undrifted windows the threshold was found with."""
    reason: str | None = None
    """What is missing, of `insufficient_data`."""
    columns: tuple[ColumnDrift, ...] = ()
    """By descending deviation."""

    @classmethod
    def insufficient(
        cls,
        reason: str,
        *,
        rows: tuple[int, int] = (0, 0),
        false_alarm_rate: float = FALSE_ALARM_RATE,
    ) -> Self:
        """No verdict for want of data; `rows` are those of reference and current window."""
        return cls(
            state="insufficient_data",
            score=None,
            distance_share=None,
            statistic=None,
            threshold=None,
            false_alarm_rate=false_alarm_rate,
            reference_rows=rows[0],
            current_rows=rows[1],
            null_windows=0,
            reason=reason,
        )

    @property
    def score_fires(self) -> bool:
        """Whether the compatibility score reaches its threshold."""
        return self.score is not None and self.score >= self.score_threshold

    @property
    def drifted(self) -> bool:
        """The calibrated verdict as yes or no."""
        return self.state == "drifted"


class Reference:
    """A reference window, counted once for all the windows that are held against it."""

    def __init__(
        self, columns: Mapping[str, Values], kinds: Mapping[str, Kind], *, days: Ints | None = None
    ) -> None:
        """Count `columns`.

        Args:
            columns: column to its rows; numbers (any dtype, NaN is null, infinities allowed) or,
                for a categorical column, anything that has a text (None is null).
            kinds: column to its kind; these columns are compared, in any order.
            days: day number of each row. With it verdicts are calibrated on runs of reference
                days, because rows of a day depend on each other; without, on rows drawn with
                replacement.

        Raises:
            ContractError: a column is missing, its lengths differ, or a numeric one holds text.
        """
        self._kinds = kinds
        self._rows = _rows(columns, kinds, "reference")
        _require_days(days, self._rows, "reference")
        names, number = np.unique(
            np.zeros(self._rows, np.int64) if days is None else days, return_inverse=True
        )
        self._spans_days = days is not None
        self._days = names.size
        self._columns = {
            name: _Counted.of(columns[name], kind, number.astype(np.int64), names.size)
            for name, kind in kinds.items()
        }

    def judged(
        self,
        current: Mapping[str, Values],
        *,
        days: Ints | None = None,
        false_alarm_rate: float = FALSE_ALARM_RATE,
        seed: int = 0,
    ) -> DriftDecision:
        """Hold a current window of the same columns against the reference, see `drift_of`."""
        rows = self._rows, _rows(current, self._kinds, "current")
        _require_days(days, rows[1], "current")
        length = 1 if days is None else np.unique(days).size
        lacking = self._lacking(rows, length)
        if lacking is not None:
            return DriftDecision.insufficient(lacking, rows=rows, false_alarm_rate=false_alarm_rate)
        usual = self._usual(rows[1], length, false_alarm_rate, seed)
        columns = [
            _evidence(name, counted, current[name], usual=usual, at=position)
            for position, (name, counted) in enumerate(self._columns.items())
        ]
        statistic = max(column.deviation for column in columns)
        return DriftDecision(
            state="drifted" if statistic > usual.threshold else "stable",
            score=sum(column.counts for column in columns) / len(columns),
            distance_share=sum(column.distant for column in columns) / len(columns),
            statistic=statistic,
            threshold=usual.threshold,
            false_alarm_rate=false_alarm_rate,
            reference_rows=rows[0],
            current_rows=rows[1],
            null_windows=usual.windows,
            columns=tuple(sorted(columns, key=lambda column: (-column.deviation, column.name))),
        )

    def _lacking(self, rows: tuple[int, int], length: int) -> str | None:
        if rows[0] < MIN_REFERENCE_ROWS:
            return f"{rows[0]:,} reference rows of the {MIN_REFERENCE_ROWS:,} needed"
        if rows[1] < MIN_CURRENT_ROWS:
            return f"{rows[1]:,} current rows of the {MIN_CURRENT_ROWS:,} needed"
        needed = MIN_WINDOWS * length
        if self._spans_days and self._days < needed:
            return f"{self._days} reference days of the {needed} needed for {length} current ones"
        return None

    def _usual(self, rows: int, length: int, rate: float, seed: int) -> Calibration:
        counts = {name: (column.bins, column.by_day) for name, column in self._columns.items()}
        rng = np.random.default_rng(seed)
        if not self._spans_days:
            return from_rows(counts, rows=rows, rate=rate, rng=rng)
        return from_days(counts, length=length, rate=rate, rows=rows, rng=rng)


def drift_of(
    reference: Mapping[str, Values],
    current: Mapping[str, Values],
    kinds: Mapping[str, Kind],
    *,
    windows: Windows | None = None,
    false_alarm_rate: float = FALSE_ALARM_RATE,
    seed: int = 0,
) -> DriftDecision:
    """Hold the columns of a current window against a reference window.

    Args:
        reference: see `Reference`.
        current: the same columns.
        kinds: column to its kind; these columns are compared, in any order.
        windows: days of the rows, see `Reference`.
        false_alarm_rate: 0 to 1, of the calibrated verdict.
        seed: of the rows drawn.

    Raises:
        ContractError: a column is missing, its lengths differ, or a numeric one holds text.
    """
    before, after = (None, None) if windows is None else (windows.reference, windows.current)
    return Reference(reference, kinds, days=before).judged(
        current, days=after, false_alarm_rate=false_alarm_rate, seed=seed
    )


def persists(decisions: Sequence[DriftDecision], windows: int) -> bool:
    """Whether the newest `windows` decisions, oldest first, all say drifted."""
    newest = decisions[-windows:]
    return len(newest) == windows and all(decision.drifted for decision in newest)


@dataclass(frozen=True, slots=True)
class _Counted:
    """A column of the reference."""

    bins: ColumnBins
    by_day: Ints
    """Shape (days, bins); all rows are of one day where days are unknown."""
    tally: Tally

    @classmethod
    def of(cls, values: Values, kind: Kind, day: Ints, days: int) -> Self:
        bins = ColumnBins.of(values, kind)
        return cls(bins, bins.counts(values, day, days), Tally.of(values, kind))


def _require_days(days: Ints | None, rows: int, what: str) -> None:
    if days is not None and days.size != rows:
        msg = f"the {what} window names the days of {days.size} rows, its columns have {rows}"
        raise ContractError(msg)


def _rows(window: Mapping[str, Values], kinds: Mapping[str, Kind], what: str) -> int:
    if not kinds:
        msg = "no column to compare; name at least one in kinds"
        raise ContractError(msg)
    missing = sorted(set(kinds) - set(window))
    if missing:
        msg = (
            f"the {what} window lacks {missing[:5]} ({len(missing)} columns); it has {len(window)}"
        )
        raise ContractError(msg)
    sizes = {window[name].size for name in kinds}
    if len(sizes) > 1:
        msg = f"columns of the {what} window have {sorted(sizes)} rows; they must have the same"
        raise ContractError(msg)
    return sizes.pop()


def _evidence(
    name: str, counted: _Counted, current: Values, *, usual: Calibration, at: int
) -> ColumnDrift:
    bins = counted.bins
    before, after = counted.by_day.sum(axis=0, keepdims=True), bins.counts(current)
    moved, nulls = shifts(bins.kind, before, after)
    deviation = usual.deviation(at, (float(moved[0]), float(nulls[0])))
    apart = tally_distance(counted.tally, Tally.of(current, bins.kind))
    return ColumnDrift(
        name=name,
        kind=bins.kind,
        method=apart.method,
        distance=apart.value,
        distant=apart.drifted,
        shift=float(moved[0]),
        reference_nulls=float(before[0, -1] / before.sum()),
        current_nulls=float(after[0, -1] / after.sum()),
        unseen=_unseen(bins, before[0], after[0]),
        deviation=deviation,
        drifted=deviation > usual.threshold,
    )


def _unseen(bins: ColumnBins, before: Ints, after: Ints) -> float:
    ends = [-2] if bins.kind == "categorical" else [0, -2]
    return float(sum(after[end] for end in ends if before[end] == 0) / after.sum())
