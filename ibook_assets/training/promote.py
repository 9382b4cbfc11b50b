"""Promotion: the gate is judged anew on the stored model, then one writer wins the log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from ibook_assets.core.errors import NotFoundError
from ibook_assets.core.promotion import (
    GateRecord,
    PromotedModel,
    PromotionDraft,
    PromotionRecord,
)
from ibook_assets.core.use_cases import UseCase
from ibook_assets.stores.artefacts import publish_artefact
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.promotions import PromotionLog
from ibook_assets.stores.training_data import read_training_set
from ibook_assets.training.candidates import Candidate, candidate_files, load_candidate
from ibook_assets.training.pipeline import Verdict, judge, load_champion


@dataclass(frozen=True, slots=True)
class Promotion:
    """A promotion that took effect, and the verdict it rests on."""

    record: PromotionRecord
    verdict: Verdict


def judge_candidate(
    lake: Lake, use_case: UseCase, found: Candidate, *, incumbent: PromotionRecord | None
) -> Verdict:
    """Evaluate a stored candidate against `incumbent` on the present training set."""
    return judge(
        read_training_set(lake, use_case.name),
        use_case,
        load_candidate(lake.blobs, found),
        champion=load_champion(lake.blobs, incumbent),
        truth=_truth(lake),
    )


def promote_candidate(
    lake: Lake,
    use_case: UseCase,
    found: Candidate,
    *,
    actor: str,
    reason: str,
    precommit: Callable[[], None] | None = None,
) -> Promotion:
    """Promote a stored candidate if the gate, judged here and now, opens.

    A candidate that serves already stays as it is: its record is returned and nothing is written.

    Args:
        lake: where the candidate, the training set and the log live.
        use_case: whose gate and log.
        found: the candidate.
        actor: who promotes.
        reason: why.
        precommit: called before anything becomes visible; what it raises prevents the promotion.

    Raises:
        GateClosedError: a rule of the gate does not hold.
        ConflictError: somebody else promoted meanwhile.
        IntegrityError: a file of the candidate is not what training stored.
    """
    log = PromotionLog(lake.blobs)
    incumbent = log.current(use_case.name)
    serving = incumbent is not None and incumbent.model.model_version == found.version
    verdict = judge_candidate(
        lake, use_case, found, incumbent=_before(log, incumbent) if serving else incumbent
    )
    if incumbent is not None and serving:
        return Promotion(incumbent, verdict)
    verdict.gate.require()
    bundle = load_candidate(lake.blobs, found)
    artefact = publish_artefact(
        lake.blobs, use_case.name, candidate_files(lake.blobs, found), sha256=found.sha256
    )
    draft = PromotionDraft(
        use_case=use_case.name,
        model=PromotedModel(
            model_version=found.version,
            artefact=artefact,
            feature_names=bundle.feature_names,
            spec_hashes=bundle.info.spec_hashes,
            threshold=bundle.threshold,
            training_snapshot=bundle.info.training_snapshot,
            git_sha=found.git_sha,
            mlflow_run_id=found.mlflow_run_id,
            gate=GateRecord.model_validate(verdict.gate.as_dict()),
        ),
        actor=actor,
        reason=reason,
    )
    if precommit is not None:
        precommit()
    record = log.promote(draft, expected_parent=None if incumbent is None else incumbent.sha256)
    return Promotion(record, verdict)


def _before(log: PromotionLog, record: PromotionRecord | None) -> PromotionRecord | None:
    """The record of the champion before `record`'s; None when it was the first."""
    if record is None:
        return None
    earlier = [r for r in log.history(record.use_case) if r.sequence < record.sequence]
    others = [r for r in earlier if r.model.model_version != record.model.model_version]
    return others[-1] if others else None


def _truth(lake: Lake) -> pa.Table | None:
    try:
        return lake.read("truth/orders", columns=["transaction_id", "posterior"])
    except NotFoundError:
        return None
