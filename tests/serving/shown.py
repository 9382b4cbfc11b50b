"""What a page about a lived-in platform shows: judged promotions, a canary, a drift record."""

from __future__ import annotations

import numpy as np

from ibook_assets.core.gate import GateEvidence, check_gate
from ibook_assets.core.metrics import Interval
from ibook_assets.core.monitoring import drift_of
from ibook_assets.core.monitoring.record import DriftRecord
from ibook_assets.core.promotion import GateRecord, PromotionDraft, PromotionRecord
from ibook_assets.core.settings import Settings
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.models.bundle import ModelBundle
from ibook_assets.stores.blobs import open_blobs
from ibook_assets.stores.drift_days import store_record
from tests.serving.harness import promotions, published

REFERENCE_ROWS = 4_000
DAY_ROWS = 1_000


def judged(bundle: ModelBundle, champion: str | None) -> GateRecord:
    """What the real gate says of good evidence."""
    evidence = GateEvidence(
        rows=18_432,
        frauds=561,
        average_precision=Interval(0.712, 0.683, 0.741),
        recall_at_fpr=Interval(0.64, 0.6, 0.68),
        calibration_error=0.0041,
        difference=None if champion is None else Interval(0.006, -0.002, 0.014),
        oracle_share=Interval(0.91, 0.88, 0.94),
        champion_version=champion,
    )
    report = check_gate(FRAUD.gate, evidence, use_case=FRAUD.name, version=bundle.version)
    return GateRecord.model_validate(report.as_dict())


def promote_judged(
    settings: Settings, bundle: ModelBundle, *, actor: str, reason: str
) -> PromotionRecord:
    """Promote `bundle` with the gate's rules in the record."""
    log = promotions(settings)
    current = log.current(FRAUD.name)
    gate = judged(bundle, current.model_version if current else None)
    model = published(settings, bundle, current).model_copy(update={"gate": gate})
    draft = PromotionDraft(use_case=FRAUD.name, model=model, actor=actor, reason=reason)
    return log.promote(draft, expected_parent=current.sha256 if current else None)


def store_drift(
    settings: Settings, *, day: str, champion: str, shift: float, confirmed: bool = False
) -> DriftRecord:
    """Keep the record of a day on which one feature of eight has moved by `shift` deviations."""
    rng = np.random.default_rng(5)
    names = FRAUD.features[:: len(FRAUD.features) // 8][:8]
    reference = {name: rng.normal(size=REFERENCE_ROWS) for name in names}
    current = {name: rng.normal(size=DAY_ROWS) for name in names}
    current[names[2]] = current[names[2]] + shift
    decision = drift_of(reference, current, dict.fromkeys(names, "numeric"))
    record = DriftRecord(
        use_case=FRAUD.name,
        day=day,
        champion_version=champion,
        training_snapshot="ab" * 32,
        reference_first_day="2026-01-20",
        reference_last_day="2026-02-16",
        new_days=12,
        decision=decision,
        confirmed=confirmed,
    )
    store_record(open_blobs(settings.lake), record, precommit=lambda: None)
    return record
