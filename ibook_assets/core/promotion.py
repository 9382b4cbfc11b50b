"""Promotion records: the only thing training hands to serving, as a hash-chained log.

Each use case has one log. An entry is written once and names the sha256 of the entry before it,
so a change of any entry but the newest breaks the chain; the newest is covered by the next. What
serves is decided by the entry of the highest sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from ibook_assets.core.canonical import canonical_json, canonical_sha256
from ibook_assets.core.errors import ContractError, IntegrityError
from ibook_assets.core.ids import NAME_PATTERN
from ibook_assets.core.manifest import Sha256

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Text = Annotated[str, Field(min_length=1, max_length=2_000, pattern=r"\S")]

Action = Literal["promote", "rollback"]
"""What an entry does. States of a rollout join here; a reader that does not know one refuses."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ArtefactFile(_Frozen):
    """One file of a model artefact."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$")]
    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]


class Artefact(_Frozen):
    """The promoted copy of a model's files."""

    uri: str
    """Folder inside the lake, `promoted/<use case>/<sha256>`; it moves with the lake."""
    files: Annotated[tuple[ArtefactFile, ...], Field(min_length=1)]

    @property
    def sha256(self) -> dict[str, str]:
        """Hash of each file by name."""
        return {file.name: file.sha256 for file in self.files}


class GateRuleRecord(_Frozen):
    """One rule of the gate as it was judged."""

    name: str
    value: FiniteFloat | None
    """None when it could not be computed, which counts as not met."""
    comparison: Literal[">=", "<="]
    bound: FiniteFloat | None
    passed: bool
    evidence: str


class GateRecord(_Frozen):
    """The gate's verdict, as `core.gate.GateReport.as_dict` gives it."""

    use_case: Name
    version: Name
    champion_version: Name | None
    """Version it was compared with; None for the first model of a use case."""
    passed: bool
    rules: tuple[GateRuleRecord, ...]

    @model_validator(mode="after")
    def _verdict_follows_from_rules(self) -> Self:
        if self.passed != all(rule.passed for rule in self.rules):
            msg = f"gate of {self.version}: passed is {self.passed}, its rules say otherwise"
            raise ValueError(msg)
        return self


class PromotedModel(_Frozen):
    """Which model serves, and everything needed to load it and to explain where it comes from."""

    model_version: Name
    artefact: Artefact
    feature_names: Annotated[tuple[str, ...], Field(min_length=1)]
    """Qualified names, `view:feature`, in the order of the model's columns."""
    spec_hashes: dict[str, str]
    """Feature view to the hash of its definition when the model was trained."""
    threshold: FiniteFloat
    """Probability at or above which an order is held; above 1 holds nothing."""
    training_snapshot: str
    """Id of the manifest of the data the model was fitted on."""
    git_sha: str
    """Commit of the code that trained it."""
    mlflow_run_id: str | None = None
    gate: GateRecord


class PromotionDraft(_Frozen):
    """A promotion somebody asks for; the log adds its place in the chain and the time."""

    use_case: Name
    model: PromotedModel
    actor: Text
    """Who promotes: a person's address or a run."""
    reason: Text

    @model_validator(mode="after")
    def _gate_judged_this_model(self) -> Self:
        judged = (self.model.gate.use_case, self.model.gate.version)
        if judged != (self.use_case, self.model.model_version):
            msg = (
                f"the gate judged {judged}, the draft promotes "
                f"{(self.use_case, self.model.model_version)}; evaluate the model that is promoted"
            )
            raise ValueError(msg)
        return self


class PromotionRecord(_Frozen):
    """One entry of a use case's log: from its sequence on, `model` serves."""

    schema_version: Literal[1] = 1
    sequence: Annotated[int, Field(ge=1)]
    parent_sha256: Sha256 | None
    """Hash of the entry before this one; None for the first."""
    use_case: Name
    action: Action
    model: PromotedModel
    previous_version: Name | None
    """Model version that served until now; None for the first."""
    restores: Annotated[int, Field(ge=1)] | None = None
    """Sequence of the promotion that a rollback brings back; None for a promotion."""
    actor: Text
    reason: Text
    promoted_at: AwareDatetime

    @model_validator(mode="after")
    def _place_in_the_chain(self) -> Self:
        first = self.sequence == 1
        if first != (self.parent_sha256 is None) or first != (self.previous_version is None):
            msg = f"entry {self.sequence}: only the first entry has no parent and no predecessor"
            raise ValueError(msg)
        if (self.action == "rollback") != (self.restores is not None):
            msg = f"entry {self.sequence}: a rollback names what it restores, nothing else does"
            raise ValueError(msg)
        if self.restores is not None and self.restores >= self.sequence:
            msg = f"entry {self.sequence} cannot restore entry {self.restores}, which is later"
            raise ValueError(msg)
        return self

    @property
    def model_version(self) -> str:
        """Version that serves from this entry on."""
        return self.model.model_version

    def answers(self, draft: PromotionDraft, *, parent_sha256: str | None) -> bool:
        """Whether this entry is what appending `draft` after that parent gave."""
        asked = (draft.use_case, draft.model, draft.actor, draft.reason, parent_sha256, "promote")
        return asked == (
            self.use_case,
            self.model,
            self.actor,
            self.reason,
            self.parent_sha256,
            self.action,
        )

    @property
    def origin(self) -> int:
        """Sequence of the promotion this entry's model comes from."""
        return self.restores or self.sequence

    @property
    def sha256(self) -> str:
        """Hash of this entry, which the next one names as its parent."""
        return canonical_sha256(self)


class SealedRecord(_Frozen):
    """An entry as it is stored: the record and its hash, so that damage shows on its own."""

    record: PromotionRecord
    sha256: Sha256


def seal(record: PromotionRecord) -> bytes:
    """The stored form of `record`."""
    return canonical_json(SealedRecord(record=record, sha256=record.sha256))


def unseal(data: bytes, *, path: str) -> PromotionRecord:
    """The record stored as `data`; `path` is named in errors.

    Raises:
        IntegrityError: the record does not have the hash stored with it.
        ContractError: it is no record this code can read.
    """
    try:
        sealed = SealedRecord.model_validate_json(data)
    except ValueError as error:
        msg = (
            f"{path} is not a promotion record of schema version 1: restore the file from a copy, "
            f"or upgrade if a newer release wrote it ({error})"
        )
        raise ContractError(msg) from error
    if sealed.record.sha256 != sealed.sha256:
        raise IntegrityError(path=path, expected=sealed.sha256, found=sealed.record.sha256)
    return sealed.record


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
    expected: tuple[int, str | None, str | None, str] = (1, None, None, record.use_case)
    if previous is not None:
        expected = (
            previous.sequence + 1,
            previous.sha256,
            previous.model_version,
            previous.use_case,
        )
    found = (record.sequence, record.parent_sha256, record.previous_version, record.use_case)
    if found != expected:
        msg = (
            f"entry {record.sequence} of the {record.use_case} promotions breaks the chain: "
            f"(sequence, parent, previous version, use case) is {found}, must be {expected}. "
            "An entry was changed after it was written: restore the log from a copy."
        )
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
        if current.origin == 1:
            msg = (
                f"{current.use_case}: {current.model_version} is the first model ever promoted, "
                "there is none before it; promote another one"
            )
            raise ContractError(msg)
        return log[log[current.origin - 2].origin - 1]
    promotions = [record for record in log if record.action == "promote"]
    matching = [record for record in promotions if record.model_version == to]
    if not matching or to == current.model_version:
        others = sorted({r.model_version for r in promotions} - {current.model_version})
        why = "serves already" if matching else "has never been promoted"
        msg = f"{current.use_case}: {to} {why}; roll back to one of {others}"
        raise ContractError(msg)
    return matching[-1]
