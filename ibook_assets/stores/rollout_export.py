"""What rollouts found, shown in MLflow beside what training found about the same models.

Each model's run gets the evidence of every decision about it, as `rollout/<entry>-<state>.json` and
as metrics whose step is the entry; its registry version gets tags. The rollout log stays the only
record: nothing here is ever read back but whether MLflow is up to date.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Final

from ibook_assets.core.promotion import PromotionRecord
from ibook_assets.core.rollout_evidence import evidence_numbers
from ibook_assets.core.rollout_log import RolloutEntry, standing_of
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.promotions import PromotionLog
from ibook_assets.stores.registry import ModelRegistry, RunStep
from ibook_assets.stores.rollouts import Rollouts

STATE: Final = "rollout_state"
REASON: Final = "rollout_reason"
ENTRY: Final = "rollout_entry"
"""The newest entry of the rollout log that MLflow was told of."""

REASON_CHARACTERS: Final = 250


def export_rollouts(blobs: Blobs, use_case: str, registry: ModelRegistry) -> list[str]:
    """Tell MLflow of every rolled-out model what it does not know yet; their versions.

    What an earlier call left undone, because it was killed or MLflow did not answer, is made good:
    a model's tags are set last, and nothing is there twice that is told twice. Models without a
    registry version, or whose run was deleted, are left out.

    Raises:
        StoreUnavailableError: MLflow does not answer.
        ContractError: the log's chain is broken, or evidence is lost or cannot be read.
    """
    log = Rollouts(blobs).history(use_case)
    promotions = PromotionLog(blobs).history(use_case)
    held = registry.held(use_case)
    told = []
    # The newest first: an older one whose evidence is lost must not keep it from being told.
    ends = {entry.version: entry for entry in log}
    for version, last in sorted(ends.items(), key=lambda end: -end[1].sequence):
        found = held.get(version)
        if found is None:
            continue
        tags = _tags(last, promotions, newest=last is log[-1])
        if tags.items() <= found.tags.items() or not registry.has_run(found.run_id):
            continue
        for step in _steps(blobs, log, version):
            registry.add_step(found.run_id, step)
        registry.tag(use_case, found.version, tags)
        told.append(version)
    return told


def _tags(
    last: RolloutEntry, promotions: Sequence[PromotionRecord], *, newest: bool
) -> Mapping[str, str]:
    """What became of the rollout whose last entry that is, ENTRY behind the others."""
    standing = standing_of(last, promotions)
    by = standing.overtaken_by
    # Another rollout has begun since, so this one is over, whatever serves by now.
    state = standing.state if newest or not standing.active else "archived"
    reason = last.reason if by is None else by.reason
    return {
        STATE: state,
        REASON: shorten(reason, REASON_CHARACTERS, placeholder=" …"),
        ENTRY: str(last.sequence),
    }


def _steps(blobs: Blobs, log: Sequence[RolloutEntry], version: str) -> list[RunStep]:
    return [
        _step(blobs, entry, judged=log[entry.sequence - 2])
        for entry in log
        if entry.version == version and entry.evidence is not None
    ]


def _step(blobs: Blobs, entry: RolloutEntry, *, judged: RolloutEntry) -> RunStep:
    """The evidence that led from `judged` to `entry`."""
    assert entry.evidence is not None
    document = blobs.get(entry.evidence)
    path = blobs.location(entry.evidence)
    return RunStep(
        step=entry.sequence,
        at=entry.at,
        metrics=evidence_numbers(document, stage=judged.state, path=path),
        files={f"rollout/{entry.sequence}-{entry.state}.json": document},
    )
