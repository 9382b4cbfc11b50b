"""From the promotion record to a model that is verified, warm and ready to swap in."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from ibook_assets.core.errors import ContractError
from ibook_assets.core.features.catalog import view
from ibook_assets.core.promotion import PromotionRecord
from ibook_assets.core.use_cases import UseCase
from ibook_assets.models.bundle import ModelBundle
from ibook_assets.stores.artefacts import load_artefact
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.promotions import PromotionLog
from ibook_serving.following import Publication
from ibook_serving.ports import Champion
from ibook_serving.reasons import ReasonWriter

_SAME: Final = ("feature_names", "spec_hashes", "threshold", "training_snapshot")


class PublishedModels:
    """The promoted models of one use case."""

    def __init__(self, blobs: Blobs, use_case: UseCase) -> None:
        self._blobs = blobs
        self._log = PromotionLog(blobs)
        self._use_case = use_case
        self._newest: PromotionRecord | None = None

    def newest(self) -> Publication[PromotionRecord] | None:
        """The newest promotion or rollback, None before the first. Cheap enough to poll."""
        self._newest = self._log.current(self._use_case.name, known=self._newest)
        if self._newest is None:
            return None
        return Publication(self._newest.sha256, self._newest.model_version, self._newest)

    def load(self, record: PromotionRecord) -> Champion:
        """The model that `record` promotes, after scoring and explaining a row with it.

        Raises:
            IntegrityError: a file is not the one that was promoted; it has not been parsed then.
            ContractError: the model and its record, or its features and ours, do not agree.
        """
        promoted = record.model
        files = load_artefact(self._blobs, promoted.artefact)
        bundle = ModelBundle.load(files, sha256=promoted.artefact.sha256)
        if (bundle.info.use_case, bundle.version) != (record.use_case, record.model_version):
            msg = (
                f"the artefact is {bundle.info.use_case} {bundle.version}, its record says "
                f"{record.use_case} {record.model_version}; promote the right files"
            )
            raise ContractError(msg)
        for name in _SAME:
            if getattr(bundle.info, name) != getattr(promoted, name):
                msg = f"{name} of {bundle.version} differs from its record; promote it again"
                raise ContractError(msg)
        _check_features(bundle)
        champion = Champion(
            sequence=record.sequence,
            version=bundle.version,
            model=bundle,
            reasons=ReasonWriter(bundle.feature_names),
        )
        _warm(champion)
        return champion


def _check_features(bundle: ModelBundle) -> None:
    # A model fed with features of another definition answers, and answers wrongly.
    for name, trained_with in bundle.info.spec_hashes.items():
        ours = view(name).spec_hash
        if ours != trained_with:
            msg = (
                f"{bundle.version} was trained with {name} at {trained_with[:12]}, this server "
                f"computes {ours[:12]}; retrain the model or deploy the code it was trained with"
            )
            raise ContractError(msg)


def _warm(champion: Champion) -> None:
    nothing_known = np.full((1, len(champion.model.feature_names)), np.nan, np.float32)
    score = float(champion.model.score(nothing_known)[0])
    if not (math.isfinite(score) and 0 <= score <= 1):
        msg = f"{champion.version} scores a row of unknowns {score}, not a probability; retrain it"
        raise ContractError(msg)
    contributions = champion.model.explain(nothing_known)
    champion.reasons.write(nothing_known[0], contributions[0, :-1])
