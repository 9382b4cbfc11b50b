"""Drift episodes: when drift begins and ends, so that it is acted on once.

An episode opens when the drift score reaches `DRIFT_SCORE_THRESHOLD` or the calibrated verdict has
persisted. It closes when the score is below `DRIFT_CLEAR_SCORE` and the verdict says stable, so
that a score about the threshold is one episode and not many; or when another model serves, for
then the reference is another, and what it says is judged afresh.
"""

from __future__ import annotations

from typing import Final, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from ibook_assets.core.monitoring.decision import DRIFT_SCORE_THRESHOLD, State

DRIFT_CLEAR_SCORE: Final = 0.20
"""Drift score below which an open episode may close."""


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

    @property
    def judged(self) -> bool:
        """Whether it says anything about drift."""
        return self.state != "insufficient_data" and self.champion_version is not None

    @property
    def opens(self) -> bool:
        """Whether it begins an episode."""
        return self.confirmed or (self.score is not None and self.score >= DRIFT_SCORE_THRESHOLD)

    @property
    def closes(self) -> bool:
        """Whether it ends one."""
        return self.state == "stable" and self.score is not None and self.score < DRIFT_CLEAR_SCORE


class Episode(_Frozen):
    """Drift from the rows that one champion learnt from."""

    storage_id: int
    """Of the observation that opened it: its name."""
    day: str
    champion_version: str | None


class EpisodeCursor(_Frozen):
    """Everything a sensor must remember between two ticks."""

    storage_id: int = 0
    """Newest event that was read."""
    newest: Observation | None = None
    """What was judged last, of the newest day."""
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
        if not seen.judged or (self.newest is not None and seen.day < self.newest.day):
            return self._with(storage_id=seen.storage_id)
        episode = self.episode
        if episode and (episode.champion_version != seen.champion_version or seen.closes):
            episode = None
        if episode is None and seen.opens:
            episode = Episode(
                storage_id=seen.storage_id, day=seen.day, champion_version=seen.champion_version
            )
        return self._with(storage_id=seen.storage_id, newest=seen, episode=episode)

    def _with(self, **changed: object) -> Self:
        return type(self).model_validate(dict(self) | changed)
