"""Changes of what serves, asked for over HTTP: entries of the promotion log like any other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from ibook_assets.core.errors import ConflictError, NoPromotedModelError, NotFoundError
from ibook_assets.core.promotion import PromotedModel, PromotionDraft, PromotionRecord, Stage
from ibook_assets.core.releases import Release, named_version, releases
from ibook_assets.core.rollout import Entrant, KnownModel, entering, known_models, withdrawing
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.promotions import PromotionLog
from ibook_serving.scoring.ports import LoadedModel
from ibook_serving.scoring.published import PublishedModels

SwitchTarget = Literal["all", "treatment"]
"""Who gets the version: everybody, or the share of a treatment or canary."""

_SHOWN_VERSIONS: Final = 20


@dataclass(frozen=True, slots=True)
class Switch:
    """A version to switch to."""

    version: str
    """The version, or its release number."""
    target: SwitchTarget
    share: float | None
    """Share of users for a treatment; None keeps the one it has, or takes the default."""
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Known:
    """What the log knows."""

    sequence: int | None
    """Its newest entry; None when it has none."""
    models: list[KnownModel]
    """Every model, with what became of it."""
    releases: Mapping[str, Release]
    """Release by version, of those that are or were the champion."""


@dataclass(frozen=True, slots=True)
class Switched:
    """What a switch came to."""

    record: PromotionRecord
    """The entry after which it holds."""
    changed: bool
    """Whether that entry was written now; False when it held already."""
    loaded: LoadedModel
    """The version, kept until the server has swapped, so that it is not loaded twice."""


class Switcher:
    """Writes the log's next entry for a switch; every method blocks."""

    def __init__(self, blobs: Blobs, models: PublishedModels) -> None:
        self._log = PromotionLog(blobs)
        self._models = models
        self._use_case = models.use_case

    def known(self) -> Known:
        """Every model of the log."""
        log = self._log.history(self._use_case)
        return Known(log[-1].sequence if log else None, known_models(log), releases(log))

    def switch(self, wanted: Switch) -> Switched:
        """Make `wanted` hold; nothing is written when it does already.

        The model is loaded before the entry is written: one that this server would refuse is
        refused here, while nothing has happened yet.

        Raises:
            NoPromotedModelError: nothing was ever promoted.
            NotFoundError: the log does not know the version or release; names those it knows.
            ConflictError: somebody else was first, or has the place.
            ContractError: the model cannot have the place, or cannot be loaded.
        """
        log = self._log.history(self._use_case)
        if not log:
            raise NoPromotedModelError(self._use_case)
        wanted = replace(wanted, version=named_version(self._use_case, log, wanted.version))
        known = {known.model.model_version: known.model for known in known_models(log)}
        model = known.get(wanted.version)
        if model is None:
            shown = list(known)[:_SHOWN_VERSIONS]
            msg = (
                f"{self._use_case}: {wanted.version} is not in the promotion log; known are "
                f"{shown}. A new model enters through `ibook promote`."
            )
            raise NotFoundError(msg)
        loaded = self._models.model(model)
        if wanted.target == "all":
            record = self._to_all(log, wanted)
        else:
            record = self._to_treatment(log[-1], model, wanted)
        return Switched(record, record != log[-1], loaded)

    def _to_all(self, log: list[PromotionRecord], wanted: Switch) -> PromotionRecord:
        head, version = log[-1], wanted.version
        who = {"actor": wanted.actor, "reason": wanted.reason}
        challenger = head.challenger(version)
        if version == head.model_version:
            if not head.challengers:
                return head
            draft = withdrawing(head, None, **who)
            return self._log.challenge(draft, expected_parent=head.sha256)
        if challenger is not None:
            promotion = PromotionDraft(use_case=self._use_case, model=challenger.model, **who)
            return self._log.promote(promotion, expected_parent=head.sha256)
        if not any(r.action == "promote" and r.model_version == version for r in log):
            msg = (
                f"{self._use_case}: {version} was a challenger, never the champion, and is neither "
                f"now; switch to it as a treatment first, or `ibook promote --version {version}`"
            )
            raise ConflictError(msg)
        parent = head.sha256
        return self._log.rollback(self._use_case, to=version, expected_parent=parent, **who)

    def _to_treatment(
        self, head: PromotionRecord, model: PromotedModel, wanted: Switch
    ) -> PromotionRecord:
        stage: Stage = "canary" if head.experiment is None else "treatment"
        present = head.challenger(model.model_version)
        share, variant = wanted.share, None
        if present is not None and present.stage == stage:
            share, variant = present.share if share is None else share, present.variant
        entrant = Entrant(stage, share, head.experiment, variant)
        draft = entering(head, model, entrant, actor=wanted.actor, reason=wanted.reason)
        if draft.challengers == head.challengers:
            return head
        return self._log.challenge(draft, expected_parent=head.sha256)
