"""Promotion records: the only thing training hands to serving, as a hash-chained log.

Each use case has one log. An entry is written once and names the sha256 of the entry before it,
so a change of any entry but the newest breaks the chain; the newest is covered by the next. What
serves is decided by the entry of the highest sequence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Final, Literal, Self, TypeAlias

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from ibook_assets.core.assignment import CHAMPION, CONTROL, Routing, routing
from ibook_assets.core.canonical import canonical_json
from ibook_assets.core.hash_chain import ChainedEntry, Sealed, unsealed
from ibook_assets.core.ids import NAME_PATTERN
from ibook_assets.core.manifest import Sha256

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Text = Annotated[str, Field(min_length=1, max_length=2_000, pattern=r"\S")]

Action = Literal["promote", "rollback", "challenge"]
"""What an entry does. States of a rollout join here; a reader that does not know one refuses."""

Stage = Literal["shadow", "canary", "treatment"]
"""How a challenger meets orders: a shadow scores them unseen, the others answer their share."""
ROUTED_STAGES: Final[tuple[Stage, ...]] = ("canary", "treatment")

_SINCE_VERSION_2: Final = ("challengers", "salt", "experiment")
_SHARES_SLACK: Final = 1e-9
"""Room for rounding in a sum of shares that is meant to be 1."""

TREES_FILE: Final = "model.ubj"
"""File of an artefact that holds the trained trees; the others say how they are used."""


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
    def identity(self) -> str:
        """Hash over names, sizes and hashes of the files, which their folder is named by."""
        return self.uri.rpartition("/")[2]

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


class Challenger(_Frozen):
    """A model beside the champion: it answers or mirrors a share of the users."""

    variant: Name
    """Its name in answers, traces and metrics: the stage, or the stage, `-` and a suffix."""
    stage: Stage
    share: Annotated[FiniteFloat, Field(ge=0, le=1)]
    """Share of users it answers, or, as a shadow, scores unseen; 0 pauses it."""
    model: PromotedModel

    @model_validator(mode="after")
    def _variant_names_its_stage(self) -> Self:
        if self.variant != self.stage and not self.variant.startswith(f"{self.stage}-"):
            msg = f"variant {self.variant} must be {self.stage} or begin with {self.stage}-"
            raise ValueError(msg)
        return self


def rollout_fault(
    challengers: Sequence[Challenger],
    *,
    salt: str | None,
    experiment: str | None,
    champion: str | None = None,
) -> str | None:
    """What is wrong with these challengers of the `champion` version; None when nothing is."""
    if bool(challengers) != (salt is not None):
        return f"challengers come with a salt and a salt with challengers, not {salt!r}"
    for what, values in (
        ("variant", [c.variant for c in challengers]),
        ("model version", [c.model.model_version for c in challengers]),
    ):
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            return f"{what} {twice[0]} challenges twice; each may once"
    for challenger in challengers:
        # The champion against itself is how an experiment's own machinery is tested.
        if challenger.model.model_version == champion and challenger.stage != "treatment":
            return f"{champion} is the champion; only a treatment (A/A) may be the same model"
    return _routing_fault([c for c in challengers if c.stage in ROUTED_STAGES], experiment)


def _routing_fault(routed: Sequence[Challenger], experiment: str | None) -> str | None:
    stages = {c.stage for c in routed}
    total = math.fsum(c.share for c in routed)
    if len(stages) > 1:
        return f"a canary and a treatment cannot run at once: {[c.variant for c in routed]}"
    if total > 1 + _SHARES_SLACK:
        return f"shares of {[c.variant for c in routed]} add up to {total:g}, more than everybody"
    if ("treatment" in stages) != (experiment is not None):
        return f"a treatment belongs to an experiment and an experiment has one, not {experiment!r}"
    return None


def _require_judged(use_case: str, model: PromotedModel) -> None:
    judged, wanted = (model.gate.use_case, model.gate.version), (use_case, model.model_version)
    if judged != wanted:
        msg = (
            f"the gate judged {judged}, the draft promotes {wanted}; "
            "evaluate the model that is promoted"
        )
        raise ValueError(msg)


class PromotionDraft(_Frozen):
    """A promotion somebody asks for; the log adds its place in the chain and the time."""

    use_case: Name
    model: PromotedModel
    actor: Text
    """Who promotes: a person's address or a run."""
    reason: Text

    @model_validator(mode="after")
    def _gate_judged_this_model(self) -> Self:
        _require_judged(self.use_case, self.model)
        return self


class ChallengeDraft(_Frozen):
    """Challengers somebody asks for instead of those there are; none withdraws them all."""

    use_case: Name
    challengers: tuple[Challenger, ...]
    salt: Name | None
    """What users are hashed with; the same salt keeps them where they are."""
    experiment: Name | None = None
    actor: Text
    reason: Text

    @model_validator(mode="after")
    def _rollout_is_sound(self) -> Self:
        fault = rollout_fault(self.challengers, salt=self.salt, experiment=self.experiment)
        if fault is not None:
            raise ValueError(fault)
        for challenger in self.challengers:
            _require_judged(self.use_case, challenger.model)
        return self


Draft: TypeAlias = PromotionDraft | ChallengeDraft


class PromotionRecord(ChainedEntry):
    """One entry of a use case's log: from its sequence on, `model` and `challengers` serve."""

    schema_version: Literal[1, 2] = 1
    """1 knows promotions and rollbacks; 2 challengers too. An entry has the lowest that holds it,
    so that an older release reads all it can act on."""
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
    challengers: tuple[Challenger, ...] = ()
    """Models beside the champion; a promotion or a rollback clears them."""
    salt: Name | None = None
    """What users are hashed with to find their variant; None without challengers."""
    experiment: Name | None = None
    """Experiment whose treatment is among the challengers."""

    @model_serializer(mode="wrap")
    def _as_written(self, write: SerializerFunctionWrapHandler) -> dict[str, object]:
        document: dict[str, object] = write(self)
        if self.schema_version == 1:
            # Hashes of entries of version 1 were made over documents without these.
            document = {k: v for k, v in document.items() if k not in _SINCE_VERSION_2}
        return document

    @model_validator(mode="after")
    def _rollout_is_sound(self) -> Self:
        fault = rollout_fault(
            self.challengers,
            salt=self.salt,
            experiment=self.experiment,
            champion=self.model_version,
        )
        if self.action != "challenge" and self.challengers:
            fault = f"a {self.action} clears the challengers, only a challenge sets them"
        if self.action == "challenge" and self.schema_version == 1:
            fault = "a challenge needs schema version 2"
        closed = [c.model.model_version for c in self.challengers if not c.model.gate.passed]
        if closed:
            fault = f"the gate of {closed[0]} is closed"
        if fault is not None:
            msg = f"entry {self.sequence}: {fault}"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _place_in_the_chain(self) -> Self:
        if (self.sequence == 1) != (self.previous_version is None):
            msg = f"entry {self.sequence}: only the first entry has no predecessor"
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

    @property
    def models(self) -> tuple[PromotedModel, ...]:
        """Every model that serves from this entry on, the champion first."""
        return (self.model, *(c.model for c in self.challengers))

    @property
    def subject(self) -> str:
        """What the entry does, in words."""
        if self.action != "challenge":
            return f"{self.action} of {self.model_version}"
        if not self.challengers:
            return f"withdrawal of all challengers of {self.model_version}"
        named = [f"{c.variant} {c.model.model_version} ({c.share:g})" for c in self.challengers]
        return f"challenge of {self.model_version} by {', '.join(named)}"

    @property
    def routing(self) -> Routing:
        """Which variant answers whom, and which score along."""
        return routing(
            self.salt or "",
            [(c.variant, c.share) for c in self.challengers if c.stage in ROUTED_STAGES],
            [(c.variant, c.share) for c in self.challengers if c.stage == "shadow"],
            base=CHAMPION if self.experiment is None else CONTROL,
        )

    def challenger(self, version: str) -> Challenger | None:
        """The challenger of that model version, if there is one."""
        return next((c for c in self.challengers if c.model.model_version == version), None)

    def answers(self, draft: Draft, *, parent_sha256: str | None) -> bool:
        """Whether this entry is what appending `draft` after that parent gave."""
        if parent_sha256 != self.parent_sha256:
            return False
        if isinstance(draft, PromotionDraft):
            return self.action == "promote" and draft == PromotionDraft(
                use_case=self.use_case, model=self.model, actor=self.actor, reason=self.reason
            )
        return self.action == "challenge" and draft == ChallengeDraft(
            use_case=self.use_case,
            challengers=self.challengers,
            salt=self.salt,
            experiment=self.experiment,
            actor=self.actor,
            reason=self.reason,
        )


class SealedRecord(Sealed[PromotionRecord]):
    """A record as it is stored, with its hash, so that damage shows on its own."""

    record: PromotionRecord

    @property
    def content(self) -> PromotionRecord:
        """What was sealed."""
        return self.record


def seal(record: PromotionRecord) -> bytes:
    """The stored form of `record`."""
    return canonical_json(SealedRecord(record=record, sha256=record.sha256))


def unseal(data: bytes, *, path: str) -> PromotionRecord:
    """The record stored as `data`; `path` is named in errors.

    Raises:
        IntegrityError: the record does not have the hash stored with it.
        ContractError: it is no record this code can read.
    """
    return unsealed(SealedRecord, data, path=path, what="promotion record of schema version 1 or 2")
