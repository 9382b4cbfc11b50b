"""From the promotion record to models that are verified, warm and ready to swap in."""

from __future__ import annotations

import math
from weakref import WeakValueDictionary

import numpy as np

from ibook_assets.core.errors import ContractError
from ibook_assets.core.promotion import PromotedModel, PromotionRecord
from ibook_assets.core.times import to_us
from ibook_assets.core.use_cases import UseCase
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.promoted_models import load_model
from ibook_assets.stores.promotions import PromotionLog
from ibook_serving.scoring.following import Publication
from ibook_serving.scoring.ports import Deployment, Lane, LoadedModel
from ibook_serving.scoring.reasons import ReasonWriter


class PublishedModels:
    """The promoted models of one use case."""

    def __init__(self, blobs: Blobs, use_case: UseCase) -> None:
        self._blobs = blobs
        self._log = PromotionLog(blobs)
        self._use_case = use_case
        self._newest: PromotionRecord | None = None
        # Weak: models live as long as a deployment or a request in flight has them.
        self._loaded: WeakValueDictionary[str, LoadedModel] = WeakValueDictionary()

    @property
    def use_case(self) -> str:
        """Name of the use case."""
        return self._use_case.name

    def newest(self) -> Publication[PromotionRecord] | None:
        """The newest entry of the promotion log, None before the first. Cheap enough to poll."""
        self._newest = self._log.current(self._use_case.name, known=self._newest)
        if self._newest is None:
            return None
        name = " beside ".join(model.model_version for model in self._newest.models)
        return Publication(self._newest.sha256, name, self._newest)

    def load(self, record: PromotionRecord) -> Deployment:
        """What `record` says, each model after scoring and explaining a row with it.

        One model that cannot be had refuses the whole record: a rollout that only some servers
        take part in would compare nothing. A model that is loaded already is not loaded again.

        Raises:
            IntegrityError: a file is not the one that was promoted; it has not been parsed then.
            ContractError: a model and its record, or its features and ours, do not agree.
        """
        route = record.routing
        champion = Lane(route.base, "champion", route.base_share, self.model(record.model))
        beside = tuple(
            Lane(c.variant, c.stage, c.share, self.model(c.model)) for c in record.challengers
        )
        lanes = {lane.variant: lane for lane in (champion, *beside)}
        return Deployment(
            record.sequence,
            to_us(self._log.champion_since(record).promoted_at),
            champion,
            beside,
            record.experiment,
            assign=(lambda user_id: lanes[route.assign(user_id)]) if route.edges else None,
            mirror=(lambda user_id: [lanes[name] for name in route.shadows(user_id)])
            if route.mirrored
            else None,
        )

    def model(self, promoted: PromotedModel) -> LoadedModel:
        """One model of the log, loaded, verified and warm; raises as `load` does."""
        # Who judged it and how does not change what is loaded.
        key = promoted.model_dump_json(exclude={"gate", "git_sha", "mlflow_run_id"})
        found = self._loaded.get(key)
        if found is None:
            found = self._loaded[key] = self._load_model(promoted)
        return found

    def _load_model(self, promoted: PromotedModel) -> LoadedModel:
        bundle = load_model(self._blobs, self._use_case.name, promoted)
        loaded = LoadedModel(
            version=bundle.version,
            artefact=promoted.artefact.identity,
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
