"""Rollouts: a log of decisions, each carried out in the promotion log exactly once.

```
rollouts/fraud/log/000000000001.json     sealed RolloutEntry, created exclusively, never changed
rollouts/fraud/evidence/<sha256>.json    what a decision was taken on
```
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from ibook_assets.core.canonical import sha256_hex
from ibook_assets.core.errors import ConflictError, NotFoundError
from ibook_assets.core.ids import check_name
from ibook_assets.core.promotion import PromotedModel, PromotionDraft, PromotionRecord
from ibook_assets.core.rollout import Entrant, entering, withdrawing
from ibook_assets.core.rollout_log import (
    RolloutEntry,
    RolloutState,
    Standing,
    following,
    seal_entry,
    standing_of,
    unseal_entry,
    verify_entry,
)
from ibook_assets.core.rollout_plan import RolloutPlan
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.chained_log import ChainedLog
from ibook_assets.stores.promotions import PromotionLog, utc_now

_RACES: Final = 5
"""Times that carrying out a decision is tried anew because somebody else wrote the log."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a rollout."""

    version: str
    """The model."""
    state: RolloutState
    reason: str
    """Of what was decided last, or of what somebody else did."""
    at: datetime
    """When that was."""


class Rollouts:
    """The rollouts of all use cases in `blobs`."""

    def __init__(self, blobs: Blobs, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._blobs = blobs
        self._log = ChainedLog(blobs, "rollouts/{}/log/", seal=seal_entry, unseal=unseal_entry)
        self._promotions = PromotionLog(blobs, clock=clock)
        self._clock = clock

    def newest(self, use_case: str) -> RolloutEntry | None:
        """The newest entry; None when nothing was ever rolled out."""
        return self._log.newest(use_case)

    def history(self, use_case: str) -> list[RolloutEntry]:
        """All entries, oldest first, their chain verified.

        Raises:
            ContractError: the chain is broken; names the first entry that does not follow.
        """
        entries: list[RolloutEntry] = []
        for entry in self._log.entries(use_case):
            verify_entry(entries[-1] if entries else None, entry)
            entries.append(entry)
        return entries

    def standing(self, use_case: str) -> Standing | None:
        """What the newest rollout is, by its log and the promotion log; None without any."""
        entry = self.newest(use_case)
        return None if entry is None else standing_of(entry, self._promotions.history(use_case))

    def start(
        self, use_case: str, version: str, plan: RolloutPlan, *, actor: str, reason: str
    ) -> RolloutEntry:
        """Begin to roll out a trained model; nothing serves it yet.

        What was decided last is carried out first: an ended rollout leaves nothing in the way.

        Raises:
            NoPromotedModelError: there is no champion to compare it with; promote the first model.
            ConflictError: another rollout is on its way, somebody else was first, the model
                serves already, or a challenger stands where it would.
        """
        self._promotions.require_current(use_case)
        standing = self.carry_out(use_case)
        head = self._promotions.require_current(use_case)
        if head.model_version == version:
            msg = f"{use_case}: {version} is the champion already; name another trained version"
            raise ConflictError(msg)
        obstacle = _obstacle(head, standing, version=version)
        if obstacle is not None:
            msg = f"{use_case}: {obstacle}"
            raise ConflictError(msg)
        previous = None if standing is None else standing.entry
        sequence = 1 if previous is None else previous.sequence + 1
        now = self._clock()
        return self._append(
            previous,
            RolloutEntry(
                sequence=sequence,
                parent_sha256=None if previous is None else previous.sha256,
                use_case=use_case,
                version=version,
                state="candidate",
                decided=sequence,
                since=now,
                champion=head.model_version,
                plan=plan,
                model=None,
                actor=actor,
                reason=reason,
                at=now,
            ),
        )

    def obstacle(self, use_case: str) -> str | None:
        """Why a model that is trained now could not be rolled out; None when it could.

        Without a champion nothing is in its way: it becomes the first.
        """
        head = self._promotions.current(use_case)
        return None if head is None else _obstacle(head, self.standing(use_case), version=None)

    def outcome(self, use_case: str, *, begun_by: Collection[str]) -> Outcome | None:
        """What became of the newest rollout that one of those actors began; None without one."""
        history = self.history(use_case)
        began = next((e for e in reversed(history) if _begins(e) and e.actor in begun_by), None)
        if began is None:
            return None
        later = history[began.sequence :]
        end = next((i for i, entry in enumerate(later) if _begins(entry)), len(later))
        last = [began, *later[:end]][-1]
        if last is not history[-1]:
            return Outcome(last.version, last.state, last.reason, last.at)
        standing = standing_of(last, self._promotions.history(use_case))
        by = standing.overtaken_by
        reason, at = (last.reason, last.at) if by is None else (by.reason, by.promoted_at)
        return Outcome(last.version, standing.state, reason, at)

    def decide(
        self,
        previous: RolloutEntry,
        state: RolloutState,
        *,
        actor: str,
        reason: str,
        model: PromotedModel | None = None,
        evidence: str | None = None,
    ) -> RolloutEntry:
        """Append what comes after `previous`, the newest entry; `carry_out` makes it happen.

        Raises:
            ConflictError: somebody else decided first; the message names the winner.
            ContractError: that state does not follow.
        """
        now = self._clock()
        step = next((step for found, step in following(previous) if found == state), previous.step)
        entry = _after(
            previous,
            state=state,
            step=step,
            decided=previous.sequence + 1,
            since=now,
            model=model or previous.model,
            evidence=evidence,
            paused=False,
            actor=actor,
            reason=reason,
            at=now,
        )
        return self._append(previous, entry)

    def hold(
        self, previous: RolloutEntry, *, paused: bool, actor: str, reason: str
    ) -> RolloutEntry:
        """Append that the rollout stays where it is, or goes on; safe to repeat.

        Raises:
            ConflictError: somebody else decided first.
        """
        if previous.paused == paused:
            return previous
        now = self._clock()
        entry = _after(previous, paused=paused, evidence=None, actor=actor, reason=reason, at=now)
        return self._append(previous, entry)

    def carry_out(self, use_case: str) -> Standing | None:
        """Make the promotion log say what was decided last; safe to repeat, from anywhere.

        Raises:
            ConflictError: somebody else has the model's place, or keeps writing the log.
            IntegrityError: the model's promoted files were changed.
        """
        entry = self.newest(use_case)
        for races in range(_RACES + 1):
            if entry is None:
                return None
            log = self._promotions.history(use_case)
            standing = standing_of(entry, log)
            if not standing.pending:
                return standing
            try:
                # On the record just read, or not at all: who was faster has carried it out.
                self._act(entry, log[-1])
            except ConflictError:
                if races == _RACES:
                    raise
            entry = self.newest(use_case)
        return self.standing(use_case)

    def keep_evidence(self, use_case: str, document: dict[str, Any]) -> str:
        """Store what a decision is taken on; its key, which is its hash."""
        data = json.dumps(document, allow_nan=False, indent=1).encode()
        name = check_name(use_case, what="use case")
        key = f"rollouts/{name}/evidence/{sha256_hex(data)}.json"
        with suppress(ConflictError):
            self._blobs.create(key, data)
        return key

    def location(self, key: str) -> str:
        """Where people find the object under `key`."""
        return self._blobs.location(key)

    def _act(self, entry: RolloutEntry, head: PromotionRecord) -> None:
        """Write the promotion entry that is due after `head`."""
        told = {"actor": entry.tag, "reason": entry.reason}
        place = entry.place
        if place is None:
            challenger = head.challenger(entry.version)
            if challenger is not None:
                draft = withdrawing(head, challenger.variant, **told)
                self._promotions.challenge(draft, expected_parent=head.sha256)
            return
        assert entry.model is not None
        if place == "champion":
            promotion = PromotionDraft(use_case=entry.use_case, model=entry.model, **told)
            self._promotions.promote(promotion, expected_parent=head.sha256)
            return
        stage, share = place
        draft = entering(head, entry.model, Entrant(stage, share), **told)
        self._promotions.challenge(draft, expected_parent=head.sha256)

    def _append(self, previous: RolloutEntry | None, entry: RolloutEntry) -> RolloutEntry:
        verify_entry(previous, entry)
        return self._log.append(entry, lost=_lost)


def active_rollout(rollouts: Rollouts, use_case: str) -> Standing:
    """The rollout on its way; NotFoundError when there is none."""
    standing = rollouts.standing(use_case)
    if standing is None or not standing.active:
        last = "" if standing is None else f"; {standing.entry.version} is {standing.state}"
        msg = f"{use_case}: no rollout is on its way{last}. Begin one with `ibook rollout start`"
        raise NotFoundError(msg)
    return standing


def _after(previous: RolloutEntry, **changes: object) -> RolloutEntry:
    """The entry after `previous`, which says the same but for the `changes`."""
    place = {"sequence": previous.sequence + 1, "parent_sha256": previous.sha256}
    return RolloutEntry.model_validate({**dict(previous), **place, **changes})


def _obstacle(
    head: PromotionRecord, standing: Standing | None, *, version: str | None
) -> str | None:
    """What stands in the way of a rollout of `version`, which may challenge already."""
    name = head.use_case
    if standing is not None and standing.on_its_way:
        entry = standing.entry
        return (
            f"the rollout of {entry.version} is on its way ({entry.title}, entry "
            f"{entry.sequence}); wait for its end or `ibook rollout abort {name}` first"
        )
    for challenger in head.challengers:
        if challenger.model.model_version != version:
            return (
                f"{challenger.variant} {challenger.model.model_version} stands beside the "
                f"champion; end it before a rollout begins: `ibook withdraw {name} --variant "
                f"{challenger.variant}`, or roll out that model"
            )
    return None


def _begins(entry: RolloutEntry) -> bool:
    return entry.state == "candidate" and entry.decided == entry.sequence


def _lost(winner: RolloutEntry) -> ConflictError:
    return ConflictError(
        f"{winner.use_case}: {winner.actor} decided first: rollout entry {winner.sequence} "
        f"({winner.version} is {winner.title}, {winner.reason!r}). Look at "
        f"`ibook rollout status {winner.use_case}` and decide again"
    )
