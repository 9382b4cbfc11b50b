"""The log of promotions as a chain: which entry may follow which, and how the next one is made."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import AwareDatetime

from ibook_assets.core.errors import ContractError
from ibook_assets.core.hash_chain import verify_place
from ibook_assets.core.promotion import (
    ChallengeDraft,
    PromotionDraft,
    PromotionRecord,
    rollout_fault,
)


def verify_chain(records: Sequence[PromotionRecord]) -> None:
    """ContractError naming the first entry that does not follow from the one before it.

    `records` is the whole log of one use case, oldest first.
    """
    previous: PromotionRecord | None = None
    for expected, record in enumerate(records, start=1):
        if record.sequence != expected:
            msg = f"entry {expected} is missing: the log goes on with entry {record.sequence}"
            raise ContractError(msg)
        verify_link(previous, record)
        if record.restores is not None:
            restored = records[record.restores - 1]
            if restored.action != "promote" or restored.model != record.model:
                msg = f"entry {expected} does not restore the model of entry {record.restores}"
                raise ContractError(msg)
        previous = record


def verify_link(previous: PromotionRecord | None, record: PromotionRecord) -> None:
    """ContractError unless `record` is the entry that follows `previous`."""
    verify_place(previous, record, log="promotions")
    before = None if previous is None else previous.model_version
    if record.previous_version != before:
        msg = (
            f"entry {record.sequence} of the {record.use_case} promotions says that "
            f"{record.previous_version} served before it, which was {before}: restore the log from "
            "a copy"
        )
        raise ContractError(msg)
    if record.action == "challenge" and previous is not None and record.model != previous.model:
        msg = f"entry {record.sequence} challenges the champion and names another one than before"
        raise ContractError(msg)


def next_record(
    draft: PromotionDraft, *, previous: PromotionRecord | None, promoted_at: AwareDatetime
) -> PromotionRecord:
    """The entry that promotes `draft` after `previous` (None when the log is empty)."""
    return PromotionRecord(
        sequence=previous.sequence + 1 if previous else 1,
        parent_sha256=previous.sha256 if previous else None,
        use_case=draft.use_case,
        action="promote",
        model=draft.model,
        previous_version=previous.model_version if previous else None,
        actor=draft.actor,
        reason=draft.reason,
        promoted_at=promoted_at,
    )


def challenge_record(
    draft: ChallengeDraft, *, previous: PromotionRecord, promoted_at: AwareDatetime
) -> PromotionRecord:
    """The entry that sets the challengers of `draft` beside the champion of `previous`.

    Raises:
        ContractError: the champion is among them, other than as a treatment.
    """
    fault = rollout_fault(
        draft.challengers,
        salt=draft.salt,
        experiment=draft.experiment,
        champion=previous.model_version,
    )
    if fault is not None:
        msg = f"{draft.use_case}: {fault}"
        raise ContractError(msg)
    return PromotionRecord(
        schema_version=2,
        sequence=previous.sequence + 1,
        parent_sha256=previous.sha256,
        use_case=draft.use_case,
        action="challenge",
        model=previous.model,
        previous_version=previous.model_version,
        actor=draft.actor,
        reason=draft.reason,
        promoted_at=promoted_at,
        challengers=draft.challengers,
        salt=draft.salt,
        experiment=draft.experiment,
    )


def origin(log: Sequence[PromotionRecord], record: PromotionRecord) -> int:
    """Sequence of the promotion that brought the champion of `record`, an entry of `log`."""
    while record.action == "challenge":
        record = log[record.sequence - 2]
    return record.restores or record.sequence


def is_rollback(log: Sequence[PromotionRecord], *, to: str | None, actor: str, reason: str) -> bool:
    """Whether the newest entry of `log` is what such a rollback gave before it."""
    newest = log[-1]
    return (newest.action, newest.actor, newest.reason) == ("rollback", actor, reason) and (
        newest.restores == _target(log[:-1], to).sequence
    )


def rollback_record(
    log: Sequence[PromotionRecord],
    *,
    to: str | None,
    actor: str,
    reason: str,
    promoted_at: AwareDatetime,
) -> PromotionRecord:
    """The entry that brings back an earlier model; `log` is the whole log, not empty.

    Args:
        log: all entries, oldest first.
        to: model version to bring back; None is the champion before the current one was first
            promoted, so that rolling back twice goes two steps back, not to and fro.
        actor: who rolls back.
        reason: why.
        promoted_at: now.

    Raises:
        ContractError: there is nothing to go back to, or actor or reason is blank.
    """
    for name, value in (("actor", actor), ("reason", reason)):
        if not value.strip():
            msg = f"a rollback needs its {name}: it is all that later readers have"
            raise ContractError(msg)
    current = log[-1]
    restored = _target(log, to)
    return PromotionRecord(
        sequence=current.sequence + 1,
        parent_sha256=current.sha256,
        use_case=current.use_case,
        action="rollback",
        model=restored.model,
        previous_version=current.model_version,
        restores=restored.sequence,
        actor=actor,
        reason=reason,
        promoted_at=promoted_at,
    )


def _target(log: Sequence[PromotionRecord], to: str | None) -> PromotionRecord:
    current = log[-1]
    if to is None:
        promoted_by = origin(log, current)
        if promoted_by == 1:
            msg = (
                f"{current.use_case}: {current.model_version} is the first model ever promoted, "
                "there is none before it; promote another one"
            )
            raise ContractError(msg)
        return log[origin(log, log[promoted_by - 2]) - 1]
    promotions = [record for record in log if record.action == "promote"]
    matching = [record for record in promotions if record.model_version == to]
    if not matching or to == current.model_version:
        others = sorted({r.model_version for r in promotions} - {current.model_version})
        why = "serves already" if matching else "has never been promoted"
        msg = f"{current.use_case}: {to} {why}; roll back to one of {others}"
        raise ContractError(msg)
    return matching[-1]
