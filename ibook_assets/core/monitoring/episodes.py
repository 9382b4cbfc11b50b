"""Drift episodes: when drift begins and ends, so that it is acted on once.

An episode opens when the drift score reaches `DRIFT_SCORE_THRESHOLD`, the calibrated verdict has
persisted, or another signal that asks for training is confirmed. Signals that come later join the
open episode. It closes when each of them says stable, the drift score below `DRIFT_CLEAR_SCORE`,
so that a score about the threshold is one episode and not many; or when another model serves, for
then the reference is another, and what it says is judged afresh.
"""

from __future__ import annotations

from typing import Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ibook_assets.core.monitoring.decision import DRIFT_SCORE_THRESHOLD, State
from ibook_assets.core.monitoring.signals import Consequence

DRIFT_CLEAR_SCORE: Final = 0.20
"""Drift score below which an open episode may close."""

FEATURE_DRIFT: Final = "feature_drift"
"""The signal of all columns."""

_TRAINS: Final[frozenset[Consequence]] = frozenset({"retrain", "shadow"})


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Observation(_Frozen):
    """What one materialisation of a drift record says."""

    storage_id: int
    """Its place among all events; grows with time."""
    day: str
    state: State
    score: float | None = None
    champion_version: str | None = None
    confirmed: bool = False
    new_days: int = 0
    signal: str = FEATURE_DRIFT
    consequence: Consequence = "retrain"
    """What may follow when it is confirmed."""

    @property
    def judged(self) -> bool:
        """Whether it says anything about drift."""
        return self.state != "insufficient_data" and self.champion_version is not None

    @property
    def opens(self) -> bool:
        """Whether it begins an episode, or joins one."""
        high = self.score is not None and self.score >= DRIFT_SCORE_THRESHOLD
        return self.consequence in _TRAINS and (self.confirmed or high)

    @property
    def closes(self) -> bool:
        """Whether it ends its part in one."""
        return self.state == "stable" and (self.score is None or self.score < DRIFT_CLEAR_SCORE)

    @property
    def blocks(self) -> bool:
        """Whether nobody should learn from the day."""
        return self.consequence == "block" and self.confirmed


def _column_drift() -> dict[str, Consequence]:
    return {FEATURE_DRIFT: "retrain"}


class Episode(_Frozen):
    """Drift from the rows that one champion learnt from."""

    storage_id: int
    """Of the observation that opened it: its name."""
    day: str
    champion_version: str | None
    signals: dict[str, Consequence] = Field(default_factory=_column_drift)
    """What has opened or joined it and has not ended since, with what each asks for."""

    @property
    def shadow_only(self) -> bool:
        """Whether nothing in it asks for more than a model beside the champion."""
        return set(self.signals.values()) == {"shadow"}


class EpisodeCursor(_Frozen):
    """Everything a sensor must remember between two ticks."""

    storage_id: int = 0
    """Newest event that was read."""
    newest: Observation | None = None
    """What was judged last, of the newest day."""
    days: dict[str, str] = Field(default_factory=dict)
    """Signal to the newest day it was judged for."""
    blocked: Observation | None = None
    """What keeps anybody from learning, until a newer day is sound."""
    episode: Episode | None = None

    @classmethod
    def parse(cls, text: str | None) -> Self:
        """The cursor stored as `text`; the beginning when there is none or it cannot be read.

        Reading all events again reaches the same episode, whose runs are known by its name.
        """
        try:
            return cls.model_validate_json(text) if text else cls()
        except ValidationError:
            return cls()

    def after(self, seen: Observation) -> Self:
        """The cursor once `seen` has been read.

        A day before the newest one is history that somebody computes again, and no news.
        """
        if not seen.judged or seen.day < self.days.get(seen.signal, ""):
            return self._with(storage_id=seen.storage_id)
        blocked = self.blocked
        if seen.consequence == "block":
            blocked = seen if seen.blocks else None
        newest = seen if self.newest is None or seen.day >= self.newest.day else self.newest
        return self._with(
            storage_id=seen.storage_id,
            newest=newest,
            days={**self.days, seen.signal: seen.day},
            blocked=blocked,
            episode=self._episode_after(seen),
        )

    def _episode_after(self, seen: Observation) -> Episode | None:
        episode = self.episode
        if episode and episode.champion_version != seen.champion_version:
            episode = None
        signals = dict(episode.signals) if episode else {}
        if seen.opens:
            signals[seen.signal] = seen.consequence
        elif seen.closes:
            signals.pop(seen.signal, None)
        if not signals:
            return None
        opening = episode or Episode(
            storage_id=seen.storage_id, day=seen.day, champion_version=seen.champion_version
        )
        return opening.model_copy(update={"signals": signals})

    def _with(self, **changed: object) -> Self:
        return type(self).model_validate(dict(self) | changed)
