"""Row 6 for the whole loop: looks decide while people promote, withdraw and roll back.

`python -m tests.reliability.racing` prints the figures as JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from ibook_assets.core.promotion import Artefact, PromotionRecord
from ibook_assets.core.rollout_log import RolloutEntry, RolloutState, Standing
from ibook_assets.core.rollout_plan import RolloutPlan
from ibook_assets.stores.blobs import open_blobs
from ibook_assets.stores.promotions import PromotionLog
from ibook_assets.stores.rollouts import Rollouts
from tests.promotion_drafts import a_draft, stored_artefact
from tests.reliability.children import LOOKS
from tests.reliability.nursery import Nursery, open_nursery

PEOPLE: Final = ("promote", "withdraw", "roll back")
PLAN: Final = RolloutPlan(
    shadow_seconds=1, shares=(0.1, 0.5), watch_seconds=1, window_seconds=1, settle_seconds=0
)
STUCK_SECONDS: Final = 60.0


@dataclass(slots=True)
class Figures:
    """What happened; from `shared_parents` on all must be zero."""

    rounds: int = 0
    kills: int = 0
    first: dict[str, int] = field(default_factory=dict)
    """Whose entry of the promotion log came first, by role; none when a kill prevented it."""
    refused: int = 0
    """Racers that were told they had lost."""
    shared_parents: int = 0
    two_decisions: int = 0
    """Rounds in which more than one look decided."""
    acknowledged_lost: int = 0
    """Racers that were told they had won and are in no log."""
    unnamed: int = 0
    """Errors that do not name who won."""
    put_back: int = 0
    """Rounds in which a rollout that a person had ended changed who serves."""
    unfinished: int = 0
    """Rounds after which the next look left a decision without its effect."""

    @property
    def sound(self) -> bool:
        """Whether nobody won who should not, and nobody was misled."""
        wrong = self.shared_parents + self.two_decisions + self.acknowledged_lost
        return wrong + self.unnamed + self.put_back + self.unfinished == 0


class Race:
    """A lake on which every round has six racers."""

    def __init__(self, nursery: Nursery, folder: Path) -> None:
        self._nursery = nursery
        self._folder = folder
        self._blobs = open_blobs(str(folder / "lake"))
        self._artefact: Artefact = stored_artefact(self._blobs)
        self._log = PromotionLog(self._blobs)
        self._rollouts = Rollouts(self._blobs)
        self.figures = Figures()
        self._promote("first")

    def _promote(self, version: str) -> None:
        head = self._log.current("fraud")
        draft = a_draft(version, artefact=self._artefact)
        self._log.promote(draft, expected_parent=None if head is None else head.sha256)

    def round(self, number: int, *, step: int, victim: int | None, after_seconds: float) -> None:
        """One race about a canary in its first or last step; one racer may be killed in it."""
        entry, head = self._canary(f"r{number}", step=step)
        start = self._folder / f"start-{number}"
        roles = [*LOOKS, *PEOPLE]
        names = [f"{role.replace(' ', '-')}-{i}-{number}" for i, role in enumerate(roles)]
        notes = [self._folder / name for name in names]
        artefact = self._artefact.model_dump(mode="json")
        racers = [
            self._nursery.start("race", self._blobs.uri, role, artefact, str(start), str(note))
            for role, note in zip(roles, notes, strict=True)
        ]
        _wait_for(notes)
        start.touch()
        if victim is not None:
            time.sleep(after_seconds)
            self._nursery.kill(racers[victim])
            self.figures.kills += 1
        codes = [self._nursery.wait(pid) for i, pid in enumerate(racers) if i != victim]
        assert codes == [0] * len(codes)
        standing = self._rollouts.carry_out("fraud")
        assert standing is not None
        told = {
            name: note.read_text() for name, note in zip(names, notes, strict=True) if note.exists()
        }
        self._judge(entry, head, standing, told)

    def _canary(self, version: str, *, step: int) -> tuple[RolloutEntry, PromotionRecord]:
        """A rollout of a new model that is a canary in that step."""
        who: dict[str, Any] = {"actor": "ana", "reason": "round"}
        standing = self._rollouts.carry_out("fraud")
        if standing is not None and standing.active:
            end: RolloutState = "rolled_back" if standing.state == "canary" else "rejected"
            self._rollouts.decide(standing.entry, end, **who)
            self._rollouts.carry_out("fraud")
        # So that there is always one to roll back to.
        self._promote(f"champion-{version}")
        model = a_draft(version, artefact=self._artefact).model
        entry = self._rollouts.start("fraud", version, PLAN, **who)
        way: list[RolloutState] = ["gated", "shadow", "canary", "canary"]
        for state in way[: 3 + step]:
            entry = self._rollouts.decide(entry, state, model=model, **who)
            self._rollouts.carry_out("fraud")
        return entry, self._log.require_current("fraud")

    def _judge(
        self,
        entry: RolloutEntry,
        head: PromotionRecord,
        standing: Standing,
        told: dict[str, str],
    ) -> None:
        log = self._log.history("fraud")
        after = log[head.sequence :]
        decided = self._rollouts.history("fraud")[entry.sequence :]
        first = after[0].actor if after else "nobody"
        figures = self.figures
        figures.rounds += 1
        role = "a look" if first.startswith("rollout of") else first.split("-")[0]
        figures.first[role] = figures.first.get(role, 0) + 1
        figures.shared_parents += len(log) - len({record.parent_sha256 for record in log})
        figures.two_decisions += len(decided) > 1
        actors = {record.actor for record in after} | {found.actor for found in decided}
        winners = {first, *(found.actor for found in decided)}
        for name, said in told.items():
            figures.refused += said != "won"
            figures.acknowledged_lost += said == "won" and name not in actors
            figures.unnamed += said != "won" and not any(winner in said for winner in winners)
        by_hand = bool(after) and not first.startswith("rollout of")
        figures.put_back += by_hand and len(after) > 1
        figures.unfinished += standing.pending


def race(nursery: Nursery, folder: Path, rng: np.random.Generator, *, rounds: int) -> Figures:
    """So many rounds; in every second one of the racers is killed at a random moment."""
    found = Race(nursery, folder)
    for number in range(rounds):
        victim = int(rng.integers(len(LOOKS + PEOPLE))) if number % 2 else None
        found.round(
            number, step=number // 2 % 2, victim=victim, after_seconds=float(rng.random()) * 0.02
        )
    return found.figures


def _wait_for(notes: list[Path]) -> None:
    deadline = time.monotonic() + STUCK_SECONDS
    while not all(Path(f"{note}.ready").exists() for note in notes):
        assert time.monotonic() < deadline, "racers never got ready"
        time.sleep(0.001)


def main() -> None:
    """Race and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, open_nursery() as nursery:
        figures = race(nursery, Path(folder), np.random.default_rng(6), rounds=options.rounds)
    sys.stdout.write(json.dumps(dataclasses.asdict(figures), indent=2) + "\n")
    sys.exit(0 if figures.sound else 1)


if __name__ == "__main__":
    main()
