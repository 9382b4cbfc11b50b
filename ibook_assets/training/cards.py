"""Model cards, collected from what training and promotion stored, and kept in the lake.

```
cards/<use case>/<version>.json   the card
cards/<use case>/<version>.md     the same for people
```

A card is written when its model enters the promotion log, and again when it gets another place
there. A rollback takes no card away.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ibook_assets.core.canonical import sha256_hex
from ibook_assets.core.errors import ContractError, NoPromotedModelError, NotFoundError
from ibook_assets.core.facts import FACT_TRANSACTIONS
from ibook_assets.core.manifest import SnapshotManifest
from ibook_assets.core.model_card import (
    CostsCard,
    Entry,
    FeaturesCard,
    Measured,
    ModelCard,
    ProvenanceCard,
    TrainingDataCard,
    card_key,
    found_limits,
)
from ibook_assets.core.model_card_page import card_page
from ibook_assets.core.promotion import GateRecord, PromotedModel, PromotionRecord
from ibook_assets.core.releases import releases
from ibook_assets.core.times import from_us
from ibook_assets.core.use_cases import UseCase
from ibook_assets.models.bundle import BUNDLE_FILE, BundleInfo
from ibook_assets.stores.artefacts import load_artefact
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.promotions import PromotionLog
from ibook_assets.training.verdicts import verdict_key


class _StoredVerdict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    evaluation: Measured
    gate: dict[str, Any]


def write_card(blobs: Blobs, use_case: UseCase, version: str) -> ModelCard:
    """Collect the card of a promoted version as it stands now, and keep it.

    Raises:
        NoPromotedModelError: nothing was ever promoted.
        ContractError: that version never entered the promotion log.
        IntegrityError: a file of the model is not what the log says.
    """
    card = collect_card(blobs, use_case, version)
    blobs.put(card_key(card.use_case, version, suffix="json"), card.as_json())
    blobs.put(card_key(card.use_case, version, suffix="md"), card_page(card))
    return card


def read_card(blobs: Blobs, use_case: UseCase, version: str | None = None) -> ModelCard:
    """The kept card of a promoted version, the champion's without one.

    A model that has been given another place since, or has no card, gets its card now. Raises as
    `write_card`.
    """
    log = PromotionLog(blobs)
    chosen = version or log.require_current(use_case.name).model_version
    model, entered, release = _promoted(log, use_case, chosen)
    key = card_key(use_case.name, model.model_version, suffix="json")
    try:
        card = ModelCard.model_validate_json(blobs.get(key))
    except NotFoundError:
        return write_card(blobs, use_case, chosen)
    except ValidationError as error:
        msg = f"{blobs.location(key)} is no model card of this release ({error}); remove it"
        raise ContractError(msg) from error
    newest = (entered[-1].sha256, release)
    is_newest = (card.provenance.record_sha256, card.release) == newest
    return card if is_newest else write_card(blobs, use_case, chosen)


def collect_card(blobs: Blobs, use_case: UseCase, version: str) -> ModelCard:
    """The card of a promoted version: the same stored facts give the same card."""
    model, entered, release = _promoted(PromotionLog(blobs), use_case, version)
    info = BundleInfo.model_validate_json(load_artefact(blobs, model.artefact)[BUNDLE_FILE])
    key = verdict_key(use_case.name, version)
    stored, verdict = _verdict(blobs, key, version)
    measured = None if verdict is None else verdict.evaluation
    return ModelCard(
        use_case=use_case.name,
        version=version,
        release=release,
        description=use_case.description,
        intended_use=use_case.intended_use,
        threshold=model.threshold,
        entries=tuple(_entry(record) for record in entered),
        training_data=_training_data(blobs, info),
        features=_features(model),
        costs=CostsCard(
            loss_share=use_case.costs.loss_share,
            chargeback_fee_cents=use_case.costs.chargeback_fee_cents,
            review_cents=use_case.costs.review_cents,
            friction_share=use_case.costs.friction_share,
        ),
        gate=model.gate,
        measured=measured,
        evaluation_is_the_gates=(
            None if verdict is None else GateRecord.model_validate(verdict.gate) == model.gate
        ),
        limits=(*use_case.known_limits, *found_limits(measured)),
        provenance=ProvenanceCard(
            git_sha=model.git_sha,
            mlflow_run_id=model.mlflow_run_id,
            artefact=model.artefact.uri,
            files_sha256=model.artefact.sha256,
            parameters=info.parameters,
            libraries=info.libraries,
            evaluation=None if stored is None else key,
            evaluation_sha256=None if stored is None else sha256_hex(stored),
            record_sha256=entered[-1].sha256,
        ),
    )


def _promoted(
    log: PromotionLog, use_case: UseCase, version: str
) -> tuple[PromotedModel, list[PromotionRecord], str | None]:
    """The model of that version, the entries that gave it a place (oldest first), its release."""
    history = log.history(use_case.name)
    if not history:
        raise NoPromotedModelError(use_case.name)
    entered = [record for record in history if _gives_place(record, version)]
    if not entered:
        known = sorted({m.model_version for record in history for m in record.models})
        msg = f"no {use_case.name} model {version!r} was ever promoted; the log has {known}"
        raise ContractError(msg)
    model = next(m for m in entered[-1].models if m.model_version == version)
    release = releases(history).get(version)
    return model, entered, None if release is None else str(release)


def _gives_place(record: PromotionRecord, version: str) -> bool:
    if record.action == "promote":
        return record.model_version == version
    return record.action == "challenge" and record.challenger(version) is not None


def _entry(record: PromotionRecord) -> Entry:
    return Entry(
        sequence=record.sequence,
        what=record.subject,
        actor=record.actor,
        reason=record.reason,
        at=record.promoted_at,
    )


def _training_data(blobs: Blobs, info: BundleInfo) -> TrainingDataCard:
    try:
        stored = blobs.get(f"manifests/{info.training_snapshot}.json")
    except NotFoundError:
        manifest = None
    else:
        manifest = SnapshotManifest.model_validate_json(stored)
    days = sorted(
        entry.partition
        for entry in (manifest.entries if manifest else ())
        if entry.table == f"facts/{FACT_TRANSACTIONS.name}" and entry.partition
    )
    maturity = manifest.parameters.get("maturity_days") if manifest else None
    return TrainingDataCard(
        snapshot_id=info.training_snapshot,
        first_day=days[0] if days else None,
        last_day=days[-1] if days else None,
        files=len(manifest.entries) if manifest else None,
        label_maturity_days=None if maturity is None else float(maturity),
        learnt_until=from_us(info.trained_until_us),
        rows=info.training_rows,
        frauds=info.training_frauds,
    )


def _features(model: PromotedModel) -> FeaturesCard:
    views = [name.partition(":")[0] for name in model.feature_names]
    return FeaturesCard(
        count=len(views),
        by_view={view: views.count(view) for view in sorted(set(views))},
        spec_hashes=model.spec_hashes,
    )


def _verdict(
    blobs: Blobs, key: str, version: str
) -> tuple[bytes, _StoredVerdict] | tuple[None, None]:
    """The stored evaluation of that version and its bytes; nothing when there is none."""
    try:
        stored = blobs.get(key)
    except NotFoundError:
        return None, None
    try:
        verdict = _StoredVerdict.model_validate_json(stored)
    except ValidationError as error:
        msg = f"{blobs.location(key)} is no evaluation ({error}); materialise the evaluation again"
        raise ContractError(msg) from error
    if verdict.evaluation.version != version:
        msg = (
            f"{blobs.location(key)} is of model {verdict.evaluation.version}, not {version}: it "
            "was copied there; materialise the evaluation again"
        )
        raise ContractError(msg)
    return stored, verdict
