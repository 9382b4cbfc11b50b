"""Promotion: the gate is judged anew on the stored model, then one writer wins the log."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from ibook_assets.core.errors import ContractError, NotFoundError
from ibook_assets.core.promotion import (
    GateRecord,
    PromotedModel,
    PromotionDraft,
    PromotionRecord,
)
from ibook_assets.core.rollout import Entrant, entering, require_free
from ibook_assets.core.use_cases import UseCase
from ibook_assets.stores.artefacts import publish_artefact
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.promotions import PromotionLog
from ibook_assets.stores.training_data import read_training_set
from ibook_assets.training.candidates import Candidate, candidate_files, load_candidate
from ibook_assets.training.pipeline import Verdict, judge, load_champion


def judge_candidate(lake: Lake, use_case: UseCase, found: Candidate) -> Verdict:
    """Evaluate a stored candidate on the newest training set, against the model to beat.

    That is the champion, or the one before it when the candidate serves already.
    """
    records = PromotionLog(lake.blobs).history(use_case.name)
    others = [record for record in records if record.model.model_version != found.version]
    return judge(
        read_training_set(lake, use_case.name),
        use_case,
        load_candidate(lake.blobs, found),
        champion=load_champion(lake.blobs, others[-1] if others else None),
        truth=_truth(lake),
    )


def gated_model(lake: Lake, use_case: UseCase, found: Candidate) -> PromotedModel:
    """The candidate with its open gate, its files copied to where serving reads them.

    Raises:
        GateClosedError: a rule of the gate does not hold.
        IntegrityError: a file of the candidate is not what training stored.
    """
    verdict = judge_candidate(lake, use_case, found)
    verdict.gate.require()
    artefact = publish_artefact(
        lake.blobs, use_case.name, candidate_files(lake.blobs, found), sha256=found.sha256
    )
    info = verdict.bundle.info
    return PromotedModel(
        model_version=found.version,
        artefact=artefact,
        feature_names=info.feature_names,
        spec_hashes=info.spec_hashes,
        threshold=info.threshold,
        training_snapshot=info.training_snapshot,
        git_sha=found.git_sha,
        mlflow_run_id=found.mlflow_run_id,
        gate=GateRecord.model_validate(verdict.gate.as_dict()),
    )


def promote_candidate(
    lake: Lake,
    use_case: UseCase,
    found: Candidate,
    *,
    actor: str,
    reason: str,
    beside: Entrant | None = None,
    precommit: Callable[[], None] | None = None,
) -> PromotionRecord:
    """Let a stored candidate enter the record if the gate, judged here and now, opens.

    A candidate that has the wanted place already keeps it: the record is returned and nothing is
    written. One that challenges already is not judged again to get another place beside the
    champion, only to become the champion.

    Args:
        lake: where the candidate, the training set and the log live.
        use_case: whose gate and log.
        found: the candidate.
        actor: who promotes.
        reason: why.
        beside: its place beside the champion; None makes it the champion.
        precommit: called before anything becomes visible; what it raises prevents the promotion.

    Raises:
        GateClosedError: a rule of the gate does not hold.
        ConflictError: somebody else promoted meanwhile, or has the wanted place.
        ContractError: there is no champion to stand beside, or the place cannot be had.
        IntegrityError: a file of the candidate is not what training stored.
    """
    if beside is not None:
        return _challenge(
            lake, use_case, found, beside, actor=actor, reason=reason, precommit=precommit
        )
    log = PromotionLog(lake.blobs)
    incumbent = log.current(use_case.name)
    if incumbent is not None and incumbent.model.model_version == found.version:
        return incumbent
    model = gated_model(lake, use_case, found)
    draft = PromotionDraft(use_case=use_case.name, model=model, actor=actor, reason=reason)
    if precommit is not None:
        precommit()
    return log.promote(draft, expected_parent=None if incumbent is None else incumbent.sha256)


def require_place(lake: Lake, use_case: UseCase, wanted: Entrant) -> None:
    """Raise unless a model that is trained now could stand as `wanted`: ask before training it.

    Raises:
        ConflictError: another model has that place.
        ContractError: there is no champion to stand beside.
    """
    incumbent = _champion(PromotionLog(lake.blobs), use_case, wanted)
    require_free(incumbent, wanted.variant or wanted.stage)


def _champion(log: PromotionLog, use_case: UseCase, wanted: Entrant) -> PromotionRecord:
    incumbent = log.current(use_case.name)
    if incumbent is None:
        msg = (
            f"{use_case.name}: a {wanted.stage} stands beside a champion and there is none; the "
            "first model enters as the champion"
        )
        raise ContractError(msg)
    return incumbent


def _challenge(
    lake: Lake,
    use_case: UseCase,
    found: Candidate,
    wanted: Entrant,
    *,
    actor: str,
    reason: str,
    precommit: Callable[[], None] | None,
) -> PromotionRecord:
    log = PromotionLog(lake.blobs)
    incumbent = _champion(log, use_case, wanted)
    serving = next((m for m in incumbent.models if m.model_version == found.version), None)
    model = serving or gated_model(lake, use_case, found)
    draft = entering(incumbent, model, wanted, actor=actor, reason=reason)
    if (draft.challengers, draft.experiment) == (incumbent.challengers, incumbent.experiment):
        return incumbent
    if precommit is not None:
        precommit()
    return log.challenge(draft, expected_parent=incumbent.sha256)


def _truth(lake: Lake) -> pa.Table | None:
    try:
        return lake.read("truth/orders", columns=["transaction_id", "posterior"])
    except NotFoundError:
        return None
