"""Row 6: several processes change what serves at once and are killed at random; one chain stays."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ibook_assets.stores.blobs import open_blobs
from ibook_assets.stores.promotions import PromotionLog
from tests.promotion_drafts import stored_artefact
from tests.reliability.nursery import Nursery

WORKERS = 4
DEADLINE_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Figures:
    """What happened; `gaps`, `shared_parents`, `lost` and `twice` must be zero."""

    promotions: int
    """Entries of the log, of every action."""
    challenges: int
    rollbacks: int
    acknowledged: int
    conflicts: int
    kills: int
    gaps: int
    shared_parents: int
    lost: int
    """Entries that were acknowledged but are not in the log."""
    twice: int
    """Attempts that are in the log more than once."""


def promote_and_kill(
    nursery: Nursery,
    uri: str,
    notes: Path,
    rng: np.random.Generator,
    *,
    endpoint_url: str | None = None,
    target: int,
    kills: int,
) -> Figures:
    """Let four processes bring the log to `target` entries, killing one of them `kills` times.

    The kills are spread over the promotions and fall at random moments; a killed process is
    replaced at once.
    """
    blobs = open_blobs(uri, endpoint_url=endpoint_url)
    artefact = stored_artefact(blobs).model_dump(mode="json")
    log = PromotionLog(blobs)
    started = 0

    def start() -> int:
        nonlocal started
        started += 1
        note = str(notes / f"worker{started}")
        return nursery.start("promote_until", uri, endpoint_url, artefact, target, note)

    workers = [start() for _ in range(WORKERS)]
    deadline = time.monotonic() + DEADLINE_SECONDS
    head = None
    for kill in range(kills):
        due = (kill + 1) * target // (kills + 2)
        while head is None or head.sequence < due:
            assert time.monotonic() < deadline
            time.sleep(0.002)
            head = log.current("fraud", known=head)
        time.sleep(rng.random() * 0.01)
        victim = int(rng.integers(WORKERS))
        nursery.kill(workers[victim])
        workers[victim] = start()
    assert [nursery.wait(worker) for worker in workers] == [0] * WORKERS
    return _judged(log, notes, kills)


def _judged(log: PromotionLog, notes: Path, kills: int) -> Figures:
    records = log.history("fraud")
    lines = [line for note in notes.iterdir() for line in note.read_text().splitlines()]
    won = [line.split()[1:] for line in lines if line.startswith("won")]
    stored = {str(record.sequence): record.sha256 for record in records}
    return Figures(
        promotions=len(records),
        challenges=sum(record.action == "challenge" for record in records),
        rollbacks=sum(record.action == "rollback" for record in records),
        acknowledged=len(won),
        conflicts=lines.count("lost"),
        kills=kills,
        gaps=records[-1].sequence - len(records),
        shared_parents=len(records) - len({record.parent_sha256 for record in records}),
        lost=sum(stored.get(sequence) != sha256 for sequence, sha256 in won),
        twice=len(records) - len({record.reason for record in records}),
    )
