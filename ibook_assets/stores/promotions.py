"""The promotion log: what serves is its newest entry.

```
promotions/fraud/000000000001.json   sealed PromotionRecord, never changed
promotions/fraud/000000000002.json   names the sha256 of entry 1
```

Serving polls for the entry after the one it knows, which is one failed open of a file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from ibook_assets.core.errors import (
    ConflictError,
    ContractError,
    GateClosedError,
    NoPromotedModelError,
)
from ibook_assets.core.promotion import (
    ChallengeDraft,
    PromotedModel,
    PromotionDraft,
    PromotionRecord,
    seal,
    unseal,
)
from ibook_assets.core.promotion_chain import (
    challenge_record,
    is_rollback,
    next_record,
    rollback_record,
    verify_chain,
    verify_link,
)
from ibook_assets.stores.artefacts import load_artefact
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.chained_log import ChainedLog


def utc_now() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)


class PromotionLog:
    """Promotion logs of all use cases in `blobs`."""

    def __init__(self, blobs: Blobs, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._blobs = blobs
        self._log = ChainedLog(blobs, "promotions/{}/", seal=seal, unseal=unseal)
        self._clock = clock

    def promote(self, draft: PromotionDraft, *, expected_parent: str | None) -> PromotionRecord:
        """Append `draft` if nothing was promoted since its author looked; safe to retry.

        Args:
            draft: what is promoted, by whom, why and with which gate verdict.
            expected_parent: `sha256` of the record the decision was based on, None for "nothing is
                promoted yet"; see `current`.

        Raises:
            ConflictError: somebody else was first; the message names the winner.
            GateClosedError: the draft's gate did not pass.
            IntegrityError: the artefact is not what the draft says.
        """
        _require_open_gates(draft.use_case, [draft.model])
        head = self.current(draft.use_case)
        # A retry after a crash between the commit and its answer finds its own entry.
        if head is not None and head.answers(draft, parent_sha256=expected_parent):
            return head
        _require_parent(draft.use_case, head, expected_parent)
        return self._append(next_record(draft, previous=head, promoted_at=self._clock()))

    def challenge(self, draft: ChallengeDraft, *, expected_parent: str) -> PromotionRecord:
        """Append an entry that sets the challengers beside the champion; safe to retry.

        Args:
            draft: all challengers from now on (none withdraws those there are), by whom, why.
            expected_parent: `sha256` of the record the decision was based on; see `current`.

        Raises:
            ConflictError: somebody else was first; the message names the winner.
            GateClosedError: a challenger's gate did not pass.
            ContractError: the champion is among the challengers.
            IntegrityError: an artefact is not what the draft says.
        """
        _require_open_gates(draft.use_case, [c.model for c in draft.challengers])
        head = self.require_current(draft.use_case)
        if head.answers(draft, parent_sha256=expected_parent):
            return head
        _require_parent(draft.use_case, head, expected_parent)
        return self._append(challenge_record(draft, previous=head, promoted_at=self._clock()))

    def rollback(
        self,
        use_case: str,
        *,
        to: str | None = None,
        actor: str,
        reason: str,
        expected_parent: str | None = None,
    ) -> PromotionRecord:
        """Append an entry that brings back an earlier model and clears the challengers.

        Args:
            use_case: whose champion is replaced.
            to: model version; None is the champion before the current one.
            actor: who rolls back.
            reason: why.
            expected_parent: `sha256` of the record the decision was based on, which makes a retry
                safe; None rolls back whatever serves now.

        Raises:
            NoPromotedModelError: nothing was ever promoted.
            ContractError: there is no such model to go back to.
            ConflictError: somebody promoted in the same moment; the message names the winner.
            IntegrityError: the earlier model's artefact was changed or lost.
        """
        log = self.history(use_case)
        if not log:
            raise NoPromotedModelError(use_case)
        if expected_parent not in (None, log[-1].sha256):
            if expected_parent == log[-1].parent_sha256 and is_rollback(
                log, to=to, actor=actor, reason=reason
            ):
                return log[-1]
            _require_parent(use_case, log[-1], expected_parent)
        return self._append(
            rollback_record(log, to=to, actor=actor, reason=reason, promoted_at=self._clock())
        )

    def current(
        self, use_case: str, *, known: PromotionRecord | None = None
    ) -> PromotionRecord | None:
        """The newest record, None when there is none.

        With `known`, an earlier answer, only what came after it is read: cheap enough to poll.

        Raises:
            ContractError: an entry after `known` does not follow from the one before it.
        """
        record = known if known is not None else self._log.newest(use_case)
        while record is not None:
            following = self._log.find(use_case, record.sequence + 1)
            if following is None:
                return record
            verify_link(record, following)
            record = following
        return None

    def require_current(self, use_case: str) -> PromotionRecord:
        """The newest record; NoPromotedModelError when there is none."""
        record = self.current(use_case)
        if record is None:
            raise NoPromotedModelError(use_case)
        return record

    def history(self, use_case: str) -> list[PromotionRecord]:
        """All records, oldest first, their chain verified.

        Raises:
            ContractError: the chain is broken; names the first entry that does not follow.
        """
        newest = self.current(use_case)
        if newest is None:
            return []
        earlier = (self._require(use_case, n) for n in range(1, newest.sequence))
        records = [*earlier, newest]
        verify_chain(records)
        return records

    def champion_since(self, record: PromotionRecord) -> PromotionRecord:
        """The promotion or rollback since which the champion of `record` serves."""
        while record.action == "challenge":
            record = self._require(record.use_case, record.sequence - 1)
        return record

    def use_cases(self) -> list[str]:
        """Use cases that have a log, sorted."""
        return sorted({key.split("/")[1] for key in self._blobs.list("promotions/")})

    def _append(self, record: PromotionRecord) -> PromotionRecord:
        # Checked here, because an entry that points to a damaged artefact could never serve.
        for model in record.models:
            load_artefact(self._blobs, model.artefact)
        return self._log.append(record, lost=_lost)

    def _require(self, use_case: str, sequence: int) -> PromotionRecord:
        record = self._log.find(use_case, sequence)
        if record is None:
            msg = (
                f"entry {sequence} of the {use_case} promotions is missing: restore "
                f"{self._blobs.location(self._log.key(use_case, sequence))} from a copy"
            )
            raise ContractError(msg)
        return record


def _require_parent(use_case: str, head: PromotionRecord | None, expected: str | None) -> None:
    if (head.sha256 if head else None) == expected:
        return
    if head is not None:
        raise _lost(head)
    msg = (
        f"{use_case}: the promotion was decided against an earlier champion, but the log is "
        "empty; read the current record and decide again"
    )
    raise ConflictError(msg)


def _require_open_gates(use_case: str, models: Sequence[PromotedModel]) -> None:
    for model in models:
        if not model.gate.passed:
            failed = [rule.name for rule in model.gate.rules if not rule.passed]
            raise GateClosedError(use_case=use_case, failures=failed)


def _lost(winner: PromotionRecord) -> ConflictError:
    return ConflictError(
        f"{winner.use_case}: {winner.actor} was first: entry {winner.sequence} ({winner.subject}, "
        f"{winner.promoted_at.isoformat()}, {winner.reason!r}). "
        "Compare with that champion and decide again."
    )
