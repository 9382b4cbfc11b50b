"""The drift record of a model's day: the decision, what it rests on, and whether it persists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from ibook_assets.core.ids import NAME_PATTERN
from ibook_assets.core.monitoring.decision import DriftDecision, persists

PERSISTENCE: Final = 2
"""Windows in a row that the calibrated verdict must call drifted before anybody acts on it."""


class DriftRecord(BaseModel):
    """What monitoring stored of one day of one model's features."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    use_case: Annotated[str, Field(pattern=NAME_PATTERN)]
    day: str
    """The current window: one UTC day."""
    champion_version: str | None
    """Model whose training rows are the reference; None before any promotion."""
    training_snapshot: str | None
    reference_first_day: str | None
    reference_last_day: str | None
    new_days: int
    """Days of orders that have matured since the champion's training set was made."""
    decision: DriftDecision
    confirmed: bool
    """Whether the verdict has said drifted `PERSISTENCE` days in a row, this one the last."""
    left_out: dict[str, str] = Field(default_factory=dict)
    """Feature to the reason it is not compared."""


def confirmed(decision: DriftDecision, *, champion: str, earlier: Sequence[DriftRecord]) -> bool:
    """Whether `decision` and those of the days just before it, oldest first, persist.

    Days that were judged against another champion say nothing about this one.
    """
    same = [record.decision for record in earlier if record.champion_version == champion]
    return persists([*same, decision], PERSISTENCE)
