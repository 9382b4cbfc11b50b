"""Promotion drafts as training would hand them over, for tests that are not about training."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from ibook_assets.core.canonical import sha256_hex
from ibook_assets.core.promotion import (
    Artefact,
    ArtefactFile,
    GateRecord,
    GateRuleRecord,
    PromotedModel,
    PromotionDraft,
    PromotionRecord,
)
from ibook_assets.core.promotion_chain import next_record
from ibook_assets.stores.artefacts import publish_artefact
from ibook_assets.stores.blobs import Blobs

NOW: Final = datetime(2026, 1, 5, 12, tzinfo=UTC)
SOME_ARTEFACT = Artefact(
    uri=f"promoted/fraud/{'a' * 64}",
    files=(ArtefactFile(name="model.ubj", sha256="b" * 64, bytes=3),),
)


def a_draft(
    version: str,
    *,
    artefact: Artefact = SOME_ARTEFACT,
    use_case: str = "fraud",
    passed: bool = True,
    actor: str = "ana@ibook.test",
    reason: str = "better",
) -> PromotionDraft:
    """A draft that promotes `version`."""
    rule = GateRuleRecord(
        name="average_precision",
        value=0.7,
        comparison=">=",
        bound=0.1 if passed else 0.9,
        passed=passed,
        evidence="lower bound",
    )
    return PromotionDraft(
        use_case=use_case,
        model=PromotedModel(
            model_version=version,
            artefact=artefact,
            feature_names=("velocity:user_count_1h",),
            spec_hashes={"velocity": "1f0c"},
            threshold=0.4,
            training_snapshot="c" * 64,
            git_sha="0628d48",
            gate=GateRecord(
                use_case=use_case,
                version=version,
                champion_version=None,
                passed=passed,
                rules=(rule,),
            ),
        ),
        actor=actor,
        reason=reason,
    )


def promoted(*versions: str) -> list[PromotionRecord]:
    """The log after those versions were promoted one after the other, at `NOW`."""
    log: list[PromotionRecord] = []
    for version in versions:
        log.append(
            next_record(a_draft(version), previous=log[-1] if log else None, promoted_at=NOW)
        )
    return log


def stored_artefact(blobs: Blobs, content: bytes = b"trees", use_case: str = "fraud") -> Artefact:
    """A published artefact of two small files."""
    files = {"model.ubj": content, "bundle.json": b"{}"}
    hashes = {name: sha256_hex(data) for name, data in files.items()}
    return publish_artefact(blobs, use_case, files, sha256=hashes)
