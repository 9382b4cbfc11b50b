"""Signals beside column drift: what each says of a day, how sure it is, and what follows from it.

Each signal is judged by itself, with a threshold found on days in which nothing had happened and a
stated rate of false alarms. What may follow is the signal's own: `retrain` trains a model that may
become the champion, `shadow` one that may stand beside it unseen, `block` keeps anybody from
learning from the day, `alert` and `report` tell people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, JsonValue

from ibook_assets.core.ids import NAME_PATTERN
from ibook_assets.core.monitoring.calibration import largest_allowed
from ibook_assets.core.monitoring.columns import Floats
from ibook_assets.core.monitoring.decision import FALSE_ALARM_RATE, DriftDecision, State

SignalName = Literal[
    "performance", "fraud_rate", "data_quality", "score_drift", "domain_drift", "attribution_drift"
]
Consequence = Literal["retrain", "shadow", "block", "alert", "report"]

CAUTION: Final = 20
"""As `calibration.CAUTION`, for one number a day: it is no maximum of many, and its law has a
heavier tail than the one fitted. Calibrated for 1 % itself, about 3 % of days were above."""
MIN_NULL_DAYS: Final = 8
"""Undrifted days a number of a day must be compared with."""


@dataclass(frozen=True, slots=True)
class SignalSpec:
    """What a signal is for."""

    says: str
    """What holds as long as it is stable."""
    consequence: Consequence
    persistence: int = 2
    """Days in a row that it must call drifted before anybody acts on it."""
    false_alarm_rate: float = FALSE_ALARM_RATE
    """Stated share of undrifted days that it calls drifted; `performance`: of champions."""


SIGNALS: Final[Mapping[SignalName, SignalSpec]] = {
    # Its CUSUM adds up days: it persists by itself.
    "performance": SignalSpec(
        "The champion ranks as well as promised.", "retrain", persistence=1, false_alarm_rate=0.02
    ),
    "fraud_rate": SignalSpec("Confirmed fraud is within its control band.", "retrain"),
    "data_quality": SignalSpec(
        "No feature lost its values, its range or its column.",
        "block",
        persistence=1,
        false_alarm_rate=0.02,
    ),
    # Scores read features of all memories; few days of one month say how far they wander.
    "score_drift": SignalSpec(
        "The champion's scores lie as they did.", "alert", false_alarm_rate=0.05
    ),
    "domain_drift": SignalSpec("No classifier tells the day from the reference.", "shadow"),
    "attribution_drift": SignalSpec("The champion decides by the features it did.", "report"),
}
"""Every signal beside column drift."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Signal(_Frozen):
    """One signal's verdict on a day, with its evidence."""

    name: SignalName
    state: State
    statistic: FiniteFloat | None = None
    """None without enough data."""
    threshold: FiniteFloat | None = None
    """What `statistic` exceeds at the stated rate when nothing has happened."""
    false_alarm_rate: FiniteFloat
    alarms_per: str = "undrifted day"
    """What `false_alarm_rate` is a share of."""
    null_windows: int = 0
    """Undrifted days the threshold was found with."""
    acts: bool = False
    """Whether its consequence may follow: it is drifted, and by as much as matters."""
    reason: str | None = None
    """What is missing, of `insufficient_data`."""
    evidence: dict[str, JsonValue] = Field(default_factory=dict)

    @classmethod
    def insufficient(
        cls, name: SignalName, reason: str, *, false_alarm_rate: float | None = None
    ) -> Self:
        """No verdict for want of data; the rate is the stated one unless given."""
        stated = SIGNALS[name].false_alarm_rate if false_alarm_rate is None else false_alarm_rate
        return cls(name=name, state="insufficient_data", false_alarm_rate=stated, reason=reason)

    @property
    def drifted(self) -> bool:
        """The verdict as yes or no."""
        return self.state == "drifted"


class SignalRecord(_Frozen):
    """What monitoring stored of one signal of one model's day."""

    schema_version: Literal[1] = 1
    use_case: Annotated[str, Field(pattern=NAME_PATTERN)]
    day: str
    """The day it was judged for; labels are of the day that matured then."""
    champion_version: str | None
    training_snapshot: str | None
    new_days: int
    """Days of orders that have matured since the champion's training set was made."""
    signal: Signal
    confirmed: bool
    """Whether its consequence is due: it acts, and has for as many days as it must persist."""


def confirmed(signal: Signal, *, champion: str, earlier: Sequence[SignalRecord]) -> bool:
    """Whether `signal` and those of the days just before it, oldest first, persist.

    Days that were judged against another champion say nothing about this one.
    """
    wanted = SIGNALS[signal.name].persistence
    same = [record.signal for record in earlier if record.champion_version == champion]
    newest = [*same, signal][-wanted:]
    return len(newest) == wanted and all(found.acts for found in newest)


def against_days(
    name: SignalName,
    statistic: float,
    null: Floats,
    *,
    evidence: Mapping[str, JsonValue],
    false_alarm_rate: float = FALSE_ALARM_RATE,
) -> Signal:
    """Judge a number of the day by what it was on undrifted days, each held against the others.

    Args:
        name: the signal.
        statistic: of the day, larger means further from the reference.
        null: shape (days,), the same number of undrifted days.
        evidence: kept beside the verdict.
        false_alarm_rate: 0 to 1.
    """
    if null.size < MIN_NULL_DAYS:
        reason = f"{null.size} undrifted days of the {MIN_NULL_DAYS} needed"
        return Signal.insufficient(name, reason, false_alarm_rate=false_alarm_rate)
    threshold = largest_allowed(null, rate=false_alarm_rate / CAUTION)
    drifted = statistic > threshold
    return Signal(
        name=name,
        state="drifted" if drifted else "stable",
        statistic=statistic,
        threshold=threshold,
        false_alarm_rate=false_alarm_rate,
        null_windows=null.size,
        acts=drifted,
        evidence={**evidence, "usual": float(null.mean())},
    )


def of_scores(decision: DriftDecision) -> Signal:
    """The drift of the one column that the champion's scores are.

    `decision` is calibrated as any column's is, for `FALSE_ALARM_RATE` with its caution: a fiftieth
    of the rate that the signal states.
    """
    column = decision.columns[0] if decision.columns else None
    return Signal(
        name="score_drift",
        state=decision.state,
        statistic=decision.statistic,
        threshold=decision.threshold,
        false_alarm_rate=SIGNALS["score_drift"].false_alarm_rate,
        null_windows=decision.null_windows,
        acts=decision.drifted,
        reason=decision.reason,
        evidence={}
        if column is None
        else {"shift": column.shift, "distance": column.distance, "rows": decision.current_rows},
    )
