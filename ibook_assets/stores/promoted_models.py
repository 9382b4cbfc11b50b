"""From a promotion record to the model it promotes, as every process that scores loads it."""

from __future__ import annotations

from typing import Final

from ibook_assets.core.errors import ContractError
from ibook_assets.core.features.catalog import view
from ibook_assets.core.promotion import PromotedModel, PromotionRecord
from ibook_assets.models.bundle import ModelBundle
from ibook_assets.stores.artefacts import load_artefact
from ibook_assets.stores.blobs import Blobs

_SAME: Final = ("feature_names", "spec_hashes", "threshold", "training_snapshot")


def load_promoted(blobs: Blobs, record: PromotionRecord) -> ModelBundle:
    """The model that `record` promotes, its files verified before any is parsed.

    Raises:
        IntegrityError: a file is not the one that was promoted; it has not been parsed then.
        ContractError: the model and its record, or its features and ours, do not agree.
    """
    return load_model(blobs, record.use_case, record.model)


def load_model(blobs: Blobs, use_case: str, promoted: PromotedModel) -> ModelBundle:
    """One model of a promotion record; raises as `load_promoted` does."""
    files = load_artefact(blobs, promoted.artefact)
    bundle = ModelBundle.load(files, sha256=promoted.artefact.sha256)
    if (bundle.info.use_case, bundle.version) != (use_case, promoted.model_version):
        msg = (
            f"the artefact is {bundle.info.use_case} {bundle.version}, its record says "
            f"{use_case} {promoted.model_version}; promote the right files"
        )
        raise ContractError(msg)
    for name in _SAME:
        if getattr(bundle.info, name) != getattr(promoted, name):
            msg = f"{name} of {bundle.version} differs from its record; promote it again"
            raise ContractError(msg)
    check_features(bundle)
    return bundle


def check_features(bundle: ModelBundle) -> None:
    """ContractError when a view of `bundle` is not defined as it was when the model was trained.

    A model fed with features of another definition answers, and answers wrongly.
    """
    for name, trained_with in bundle.info.spec_hashes.items():
        ours = view(name).spec_hash
        if ours != trained_with:
            msg = (
                f"{bundle.version} was trained with {name} at {trained_with[:12]}, this code "
                f"computes {ours[:12]}; retrain the model or deploy the code it was trained with"
            )
            raise ContractError(msg)
