"""A rollout as entries of a hash-chained log, and what it is by them and the promotion log.

An entry is a decision; the promotion log holds what came of it, under the decision's `tag`. So a
process that is killed between the two leaves a decision without effect, which the next one makes
good, and nothing is ever done twice. Who serves is the promotion log's to say, always.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self, TypeAlias

from pydantic import AwareDatetime, Field, model_validator

from ibook_assets.core.canonical import canonical_json
from ibook_assets.core.errors import ContractError
from ibook_assets.core.hash_chain import ChainedEntry, Sealed, unsealed, verify_place
from ibook_assets.core.promotion import Name, PromotedModel, PromotionRecord, Stage, Text
from ibook_assets.core.rollout_plan import RolloutPlan

RolloutState = Literal[
    "candidate", "gated", "shadow", "canary", "champion", "archived", "rolled_back", "rejected"
]

Place: TypeAlias = tuple[Stage, float] | Literal["champion"] | None
"""Where a model stands in the promotion record: beside the champion with a share, as it, not."""

SHADOW_SHARE: Final = 1.0

ACTIVE: Final[tuple[RolloutState, ...]] = ("candidate", "gated", "shadow", "canary")
"""States of a rollout on its way."""
ENDS: Final[tuple[RolloutState, ...]] = ("rolled_back", "rejected")
"""States that take a model out of the promotion record. `archived` is never decided: it is what
becomes of a model when somebody else's promotion takes its place."""
HELD_STATES: Final[tuple[RolloutState, ...]] = ("shadow", "canary", "champion")
"""States that are a place in the promotion record."""


class RolloutEntry(ChainedEntry):
    """One decision of a rollout, with all that is needed to go on from it."""

    schema_version: Literal[1] = 1
    use_case: Name
    version: Name
    """The model that is rolled out."""
    state: RolloutState
    step: Annotated[int, Field(ge=0)] = 0
    """Which of the plan's shares a canary has."""
    paused: bool = False
    """Whether it stays where it is until somebody resumes it."""
    decided: Annotated[int, Field(ge=1)]
    """Sequence of the entry that made the state; this one unless it only pauses or resumes."""
    since: AwareDatetime
    """When that was."""
    champion: Name
    """Version that it is compared with."""
    plan: RolloutPlan
    model: PromotedModel | None
    """The gated model; None while it is a candidate, and when the gate rejected it."""
    evidence: str | None = None
    """Key of the analysis that led here, in the lake."""
    actor: Text
    reason: Text
    at: AwareDatetime

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if self.state == "archived":
            msg = f"entry {self.sequence}: archived is not decided, it follows from promotions"
            raise ValueError(msg)
        if self.model is None and self.state in ("gated", *HELD_STATES):
            msg = f"entry {self.sequence}: a {self.state} model has passed the gate and is named"
            raise ValueError(msg)
        if self.step >= len(self.plan.shares):
            msg = f"entry {self.sequence}: the plan has {len(self.plan.shares)} canary steps"
            raise ValueError(msg)
        return self

    @property
    def tag(self) -> str:
        """Actor of the promotion entry that carries this decision out."""
        return f"rollout of {self.version}, entry {self.decided}"

    @property
    def watch_seconds(self) -> float:
        """How long the plan has it watched at least: 0 unless it is a shadow or a canary."""
        planned = {"shadow": self.plan.shadow_seconds, "canary": self.plan.watch_seconds}
        return planned.get(self.state, 0.0)

    @property
    def place(self) -> Place:
        """Where the model is to stand."""
        if self.state == "champion":
            return "champion"
        if self.state == "shadow":
            return ("shadow", SHADOW_SHARE)
        return ("canary", self.plan.shares[self.step]) if self.state == "canary" else None

    @property
    def place_before(self) -> Place:
        """Where the model stood when this was decided."""
        shares = self.plan.shares
        if self.state == "champion":
            return ("canary", shares[self.step])
        if self.state != "canary" or (self.step == 0 and self.plan.shadow_seconds == 0):
            return None
        return ("canary", shares[self.step - 1]) if self.step else ("shadow", SHADOW_SHARE)

    @property
    def title(self) -> str:
        """The state in words: `canary at 5 %, paused`."""
        told = self.state.replace("_", " ")
        if self.state == "canary":
            told = f"{told} at {self.plan.shares[self.step]:.0%}"
        return f"{told}, paused" if self.paused else told


class _SealedEntry(Sealed[RolloutEntry]):
    entry: RolloutEntry

    @property
    def content(self) -> RolloutEntry:
        return self.entry


def seal_entry(entry: RolloutEntry) -> bytes:
    """The stored form of `entry`."""
    return canonical_json(_SealedEntry(entry=entry, sha256=entry.sha256))


def unseal_entry(data: bytes, *, path: str) -> RolloutEntry:
    """The entry stored as `data`; `path` is named in errors.

    Raises:
        IntegrityError: the entry does not have the hash stored with it.
        ContractError: it is no entry this code can read.
    """
    return unsealed(_SealedEntry, data, path=path, what="rollout entry of schema version 1")


def verify_entry(previous: RolloutEntry | None, entry: RolloutEntry) -> None:
    """ContractError unless `entry` may follow `previous` in the log of its use case."""
    verify_place(previous, entry, log="rollouts")
    if entry.state == "candidate" and entry.decided == entry.sequence:
        return
    if previous is None or previous.version != entry.version:
        msg = f"entry {entry.sequence}: a rollout begins with a candidate, not as {entry.state}"
        raise ContractError(msg)
    same = (entry.state, entry.step, entry.decided)
    if same == (previous.state, previous.step, previous.decided):
        return
    allowed = following(previous)
    if (entry.state, entry.step) not in allowed:
        msg = (
            f"{entry.use_case}: {entry.version} is {previous.title}, after which comes one of "
            f"{[state for state, _ in allowed]}, not {entry.title}"
        )
        raise ContractError(msg)


def following(entry: RolloutEntry) -> tuple[tuple[RolloutState, int], ...]:
    """What may be decided after `entry`, each with its canary step: forward first, then the end."""
    if entry.state == "candidate":
        return ("gated", 0), ("rejected", 0)
    if entry.state == "gated" and entry.plan.shadow_seconds > 0:
        return ("shadow", 0), ("rejected", 0)
    if entry.state in ("gated", "shadow"):
        return ("canary", 0), ("rejected", 0)
    if entry.state == "canary":
        last = entry.step + 1 == len(entry.plan.shares)
        forward: tuple[RolloutState, int] = (
            ("champion", entry.step) if last else ("canary", entry.step + 1)
        )
        return forward, ("rolled_back", entry.step)
    return ()


@dataclass(frozen=True, slots=True)
class Standing:
    """What a rollout is, by its newest entry and the promotion log."""

    entry: RolloutEntry
    state: RolloutState
    effect: PromotionRecord | None
    """Promotion entry since which the model stands as decided; None where none does."""
    pending: bool = False
    """Whether the promotion log does not say yet what was decided."""
    overtaken_by: PromotionRecord | None = None
    """Promotion entry, not the rollout's, that ended it."""

    @property
    def active(self) -> bool:
        """Whether something is yet to be decided."""
        return self.state in ACTIVE

    @property
    def on_its_way(self) -> bool:
        """Whether something is yet to be decided, or to be carried out."""
        return self.active or self.pending


def place_in(record: PromotionRecord, version: str) -> Place:
    """Where `version` stands in `record`."""
    if record.model_version == version:
        return "champion"
    found = record.challenger(version)
    return None if found is None else (found.stage, found.share)


def standing_of(entry: RolloutEntry, log: Sequence[PromotionRecord]) -> Standing:
    """What the rollout of `entry`, its newest, is; `log` is the promotion log, oldest first.

    Raises:
        ContractError: the promotion log is empty, though a rollout begins with a champion.
    """
    if not log:
        msg = (
            f"{entry.use_case}: rollout entry {entry.sequence} stands beside an empty promotion "
            f"log: restore promotions/{entry.use_case}/ from the copy that rollouts/ is of"
        )
        raise ContractError(msg)
    effect = next((record for record in log if record.actor == entry.tag), None)
    head = log[-1]
    place = place_in(head, entry.version)
    if entry.state in ENDS:
        # A treatment, or a champion, is somebody else's decision and stays.
        withdrawn = place in (None, "champion") or place[0] == "treatment"
        return Standing(entry, entry.state, effect, pending=effect is None and not withdrawn)
    if effect is None:
        return _without_effect(entry, log)
    later = log[effect.sequence - 1 :]
    moved = next((r for r in later if place_in(r, entry.version) != entry.place), None)
    if moved is None:
        return Standing(entry, entry.state, effect)
    return _overtaken(entry, effect, moved, head)


def _without_effect(entry: RolloutEntry, log: Sequence[PromotionRecord]) -> Standing:
    """What a rollout is whose last decision no entry of the promotion log carries out."""
    head = log[-1]
    place = place_in(head, entry.version)
    if place == entry.place and place is not None:
        return Standing(entry, entry.state, head)
    if head.model_version != entry.champion:
        return _overtaken(entry, None, head, head)
    if entry.place_before is not None and place != entry.place_before:
        # Somebody moved it between the look and its decision: theirs came first, and holds.
        return _overtaken(entry, None, _mover(entry, log), head)
    return Standing(entry, entry.state, None, pending=entry.place is not None)


def _mover(entry: RolloutEntry, log: Sequence[PromotionRecord]) -> PromotionRecord:
    """The record since which the model stands elsewhere than before the decision."""
    found = log[-1]
    for record in reversed(log):
        if place_in(record, entry.version) == entry.place_before:
            break
        found = record
    return found


def _overtaken(
    entry: RolloutEntry,
    effect: PromotionRecord | None,
    by: PromotionRecord,
    head: PromotionRecord,
) -> Standing:
    state: RolloutState = "archived"
    if head.model_version == entry.version:
        state = "champion"
    elif by.action == "rollback" and by.previous_version == entry.version:
        state = "rolled_back"
    return Standing(entry, state, effect, overtaken_by=by)
