"""From the promotion record to a model that is verified, warm and ready to swap in."""

from __future__ import annotations

import math

import numpy as np

from ibook_assets.core.errors import ContractError
from ibook_assets.core.promotion import PromotedModel, PromotionRecord
from ibook_assets.core.times import to_us
from ibook_assets.core.use_cases import UseCase
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.promoted_models import load_model
from ibook_assets.stores.promotions import PromotionLog
from ibook_serving.following import Publication
from ibook_serving.ports import CHAMPION, Deployment, Lane, LoadedModel
from ibook_serving.reasons import ReasonWriter


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

    def load(self, record: PromotionRecord) -> Deployment:
        """What `record` says: its model, after scoring and explaining a row with it.

        Raises:
            IntegrityError: a file is not the one that was promoted; it has not been parsed then.
            ContractError: the model and its record, or its features and ours, do not agree.
        """
        loaded = self._load_model(record.model)
        lane = Lane(CHAMPION, "champion", 1.0, loaded)
        return Deployment(record.sequence, to_us(record.promoted_at), lane)

    def _load_model(self, promoted: PromotedModel) -> LoadedModel:
        bundle = load_model(self._blobs, self._use_case.name, promoted)
        loaded = LoadedModel(
            version=bundle.version,
            artefact=promoted.artefact.uri.rpartition("/")[2],
            training_snapshot=promoted.training_snapshot,
            model=bundle,
            reasons=ReasonWriter(bundle.feature_names),
        )
        _warm(loaded)
        return loaded


def _warm(loaded: LoadedModel) -> None:
    nothing_known = np.full((1, len(loaded.model.feature_names)), np.nan, np.float32)
    score = float(loaded.model.score(nothing_known)[0])
    if not (math.isfinite(score) and 0 <= score <= 1):
        msg = f"{loaded.version} scores a row of unknowns {score}, not a probability; retrain it"
        raise ContractError(msg)
    contributions = loaded.model.explain(nothing_known)
    loaded.reasons.write(nothing_known[0], contributions[0, :-1])
