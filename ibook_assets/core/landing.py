"""Which days of the event log have to be landed: new rows reopen a day and those after it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from ibook_assets.core.canonical import canonical_sha256
from ibook_assets.core.errors import ContractError

_REVISION_CHARACTERS: Final = 12


class LandedEnds(BaseModel):
    """How far the log has landed: the next offset of each partition, by topic."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    topics: Mapping[str, Mapping[int, int]] = {}

    @property
    def revision(self) -> str:
        """A hash that changes whenever something has landed."""
        return canonical_sha256(self)[:_REVISION_CHARACTERS]

    def of(self, topic: str) -> dict[int, int]:
        """The ends of one topic; empty when nothing of it has landed."""
        return dict(self.topics.get(topic, {}))

    def still_standing(self, topic: str, now: LandedEnds) -> dict[int, int]:
        """The ends of one topic that lie below those of `now`, so that rows after them are new.

        A partition that has since become shorter belongs to a log that began anew.
        """
        ends = now.of(topic)
        return {n: end for n, end in self.of(topic).items() if end <= ends.get(n, 0)}


class LandingCursor(BaseModel):
    """Up to where the log was looked at, and the days that still have to be landed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seen: LandedEnds = LandedEnds()
    waiting: Mapping[str, str] = {}
    """Day to the revision of the ends at which it last got rows."""

    @classmethod
    def parse(cls, text: str | None) -> Self:
        """The cursor that was stored as `text`; a new one without it."""
        try:
            return cls.model_validate_json(text) if text else cls()
        except ValidationError as error:
            msg = (
                f"the landing cursor {text!r:.200} cannot be read ({error.error_count()} errors): "
                "reset the sensor's cursor, every day of the log is then landed again"
            )
            raise ContractError(msg) from error

    def advanced(
        self, ends: LandedEnds, *, new_days: Collection[str], landed_days: Collection[str]
    ) -> Self:
        """The cursor once rows of `new_days` were found below `ends`.

        A day's features look back at earlier days, so the days after the first new one that have
        been landed, or may be right now, are landed again.
        """
        reopened = set(new_days)
        if new_days:
            first = min(new_days)
            reopened |= {day for day in {*landed_days, *self.waiting} if day > first}
        waiting = {**self.waiting, **dict.fromkeys(reopened, ends.revision)}
        return self.model_copy(update={"seen": ends, "waiting": dict(sorted(waiting.items()))})

    def without(self, day: str) -> Self:
        """The cursor once `day` was landed."""
        waiting = {other: at for other, at in self.waiting.items() if other != day}
        return self.model_copy(update={"waiting": waiting})
