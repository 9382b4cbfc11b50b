"""Steps of a rollout: who challenges after a model enters, moves or leaves; what became of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from ibook_assets.core.errors import ConflictError, ContractError, NotFoundError
from ibook_assets.core.promotion import (
    ROUTED_STAGES,
    ChallengeDraft,
    Challenger,
    PromotedModel,
    PromotionRecord,
    Stage,
    rollout_fault,
)

DEFAULT_SHARES: Final[Mapping[Stage, float]] = {"shadow": 1.0, "canary": 0.05, "treatment": 0.5}
"""Share of users a model gets when nobody says otherwise."""

_BESIDE: Final = tuple(DEFAULT_SHARES)

Target = Literal["champion", "canary", "shadow", "treatment"]
"""What a model can enter the record as."""

State = Literal["champion", "shadow", "canary", "treatment", "archived"]
"""What a model of the record is at the moment; archived: it was something, and is nothing now."""


@dataclass(frozen=True, slots=True)
class Entrant:
    """How a model is to stand beside the champion."""

    stage: Stage
    share: float | None = None
    """Share of users; None is the stage's default."""
    experiment: str | None = None
    """Experiment a treatment belongs to."""
    variant: str | None = None
    """Its name in answers; None is the stage's."""


def entrant(
    target: Target,
    *,
    share: float | None = None,
    experiment: str | None = None,
    variant: str | None = None,
) -> Entrant | None:
    """What somebody asks for, checked; None asks for the champion's place.

    Raises:
        ContractError: the champion's place has no share, experiment or variant of its own, or the
            share is not one.
    """
    given = {"share": share, "experiment": experiment, "variant": variant}
    if target == "champion":
        extra = [name for name, value in given.items() if value is not None]
        if extra:
            msg = f"a champion has no {extra[0]} of its own: name a target of {_BESIDE}"
            raise ContractError(msg)
        return None
    if share is not None and not 0 <= share <= 1:
        msg = f"share {share:g} is outside 0..1: it is a share of users"
        raise ContractError(msg)
    return Entrant(target, share, experiment, variant)


def entering(
    record: PromotionRecord, model: PromotedModel, wanted: Entrant, *, actor: str, reason: str
) -> ChallengeDraft:
    """The challengers of `record` with `model` among them as `wanted` says.

    A model that challenges already moves: it is never two challengers at once.

    Raises:
        ConflictError: another model or experiment has that place.
        ContractError: the challengers do not go together.
    """
    stage, version = wanted.stage, model.model_version
    variant = wanted.variant or stage
    others = [c for c in record.challengers if c.model.model_version != version]
    require_free(record, variant, but_for=version)
    found = Challenger(
        variant=variant,
        stage=stage,
        share=DEFAULT_SHARES[stage] if wanted.share is None else wanted.share,
        model=model,
    )
    present = record.challenger(version)
    if present is not None and present.variant == variant:
        # In its old place: a growing share must not move the users of others.
        challengers = [found if c is present else c for c in record.challengers]
    else:
        challengers = [*others, found]
    experiment = _experiment(record, wanted)
    return _draft(record, challengers, experiment, actor=actor, reason=reason)


def require_free(record: PromotionRecord, variant: str, *, but_for: str | None = None) -> None:
    """ConflictError when a model, other than `but_for`, stands as `variant` already."""
    for challenger in record.challengers:
        taken = challenger.model.model_version
        if challenger.variant == variant and taken != but_for:
            msg = (
                f"{record.use_case}: {variant} is {taken} already; withdraw it first, or give this "
                "one a variant of its own"
            )
            raise ConflictError(msg)


def _experiment(record: PromotionRecord, wanted: Entrant) -> str | None:
    experiment, running = wanted.experiment, record.experiment
    if wanted.stage != "treatment":
        if experiment is not None:
            msg = f"a {wanted.stage} belongs to no experiment; {experiment} needs a treatment"
            raise ContractError(msg)
        return running
    if running not in (None, experiment):
        msg = (
            f"{record.use_case}: experiment {running} is running; withdraw its treatment before "
            f"{experiment} begins"
        )
        raise ConflictError(msg)
    return experiment


def withdrawing(
    record: PromotionRecord, variant: str | None, *, actor: str, reason: str
) -> ChallengeDraft:
    """The challengers of `record` without `variant`; None withdraws them all.

    Raises:
        NotFoundError: there is no such challenger.
    """
    variants = [c.variant for c in record.challengers]
    if not variants or variant not in (None, *variants):
        msg = f"{record.use_case}: {variant or 'nothing'} challenges; challengers are {variants}"
        raise NotFoundError(msg)
    kept = [c for c in record.challengers if variant not in (None, c.variant)]
    return _draft(record, kept, record.experiment, actor=actor, reason=reason)


def _draft(
    record: PromotionRecord,
    challengers: Sequence[Challenger],
    experiment: str | None,
    *,
    actor: str,
    reason: str,
) -> ChallengeDraft:
    routed = [c for c in challengers if c.stage in ROUTED_STAGES]
    if not any(c.stage == "treatment" for c in routed):
        experiment = None
    salt = experiment or next((c.model.model_version for c in [*routed, *challengers]), None)
    fault = rollout_fault(
        challengers, salt=salt, experiment=experiment, champion=record.model_version
    )
    if fault is not None:
        msg = f"{record.use_case}: {fault}"
        raise ContractError(msg)
    return ChallengeDraft(
        use_case=record.use_case,
        challengers=tuple(challengers),
        salt=salt,
        experiment=experiment,
        actor=actor,
        reason=reason,
    )


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model of the log and what it is at the moment."""

    model: PromotedModel
    state: State
    variant: str | None
    """Its name in answers; None when archived."""
    share: float | None
    """Share of users it answers or scores unseen; None when archived."""
    since: PromotionRecord
    """Entry that made it what it is."""


def known_models(log: Sequence[PromotionRecord]) -> list[KnownModel]:
    """What became of every model of `log` (oldest first): who serves, challengers, the archived.

    The champion comes first, then challengers in their order, then the archived, newest first. A
    model that is its own treatment in an A/A experiment is there as both.
    """
    serving: dict[tuple[str, State], KnownModel] = {}
    archived: dict[str, KnownModel] = {}
    for record in log:
        before, serving = serving, _serving(record, serving)
        here = {version for version, _ in serving}
        for known in before.values():
            version = known.model.model_version
            if version not in here:
                archived[version] = KnownModel(known.model, "archived", None, None, record)
        for version in here:
            archived.pop(version, None)
    newest_first = sorted(archived.values(), key=lambda known: -known.since.sequence)
    return [*serving.values(), *newest_first]


def _serving(
    record: PromotionRecord, before: Mapping[tuple[str, State], KnownModel]
) -> dict[tuple[str, State], KnownModel]:
    route = record.routing
    champion = KnownModel(record.model, "champion", route.base, route.base_share, record)
    beside = [KnownModel(c.model, c.stage, c.variant, c.share, record) for c in record.challengers]
    found: dict[tuple[str, State], KnownModel] = {}
    for known in (champion, *beside):
        same = before.get((known.model.model_version, known.state))
        # A promotion or rollback of the model that serves already is a decision of its own.
        if same is None or record.action != "challenge":
            since = record
        else:
            alike = known is champion or (same.variant, same.share) == (known.variant, known.share)
            since = same.since if alike else record
        found[known.model.model_version, known.state] = replace(known, since=since)
    return found
