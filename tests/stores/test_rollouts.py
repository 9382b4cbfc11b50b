"""Rollouts: decisions in one log, carried out in the other exactly once, whoever is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ibook_assets.core.errors import ConflictError, ContractError, IntegrityError, NotFoundError
from ibook_assets.core.promotion import PromotedModel
from ibook_assets.core.rollout import Entrant, entering, withdrawing
from ibook_assets.core.rollout_log import RolloutEntry, RolloutState
from ibook_assets.core.rollout_plan import RolloutPlan, plan_of
from ibook_assets.core.settings import Settings
from ibook_assets.stores.blob_terms import Data
from ibook_assets.stores.local_blobs import LocalBlobs
from ibook_assets.stores.promotions import PromotionLog
from ibook_assets.stores.rollouts import Rollouts, active_rollout
from tests.promotion_drafts import a_draft, stored_artefact

PLAN = RolloutPlan(
    shadow_seconds=1, shares=(0.1, 0.5), watch_seconds=1, window_seconds=1, settle_seconds=0
)
WHO: dict[str, Any] = {"actor": "ana@ibook.test", "reason": "as agreed"}
WAY: tuple[tuple[RolloutState, int], ...] = (
    ("gated", 0),
    ("shadow", 0),
    ("canary", 0),
    ("canary", 1),
    ("champion", 1),
)


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    """A lake whose champion is v1."""
    found = LocalBlobs(str(tmp_path / "lake"))
    promote(found, "v1")
    return found


def promote(blobs: LocalBlobs, version: str) -> None:
    log = PromotionLog(blobs)
    head = log.current("fraud")
    draft = a_draft(version, artefact=stored_artefact(blobs))
    log.promote(draft, expected_parent=None if head is None else head.sha256)


def model(blobs: LocalBlobs, version: str = "v2") -> PromotedModel:
    return a_draft(version, artefact=stored_artefact(blobs)).model


def forward(blobs: LocalBlobs, *, until: tuple[RolloutState, int] = WAY[-1]) -> RolloutEntry:
    """Whatever is left to do until that state, as a watcher would that always finds all sound."""
    rollouts = Rollouts(blobs)
    entry = rollouts.newest("fraud")
    if entry is None:
        entry = rollouts.start("fraud", "v2", PLAN, **WHO)
    rollouts.carry_out("fraud")
    while (entry.state, entry.step) != until:
        at = WAY.index((entry.state, entry.step)) + 1 if entry.state != "candidate" else 0
        state = WAY[at][0]
        given = model(blobs) if state == "gated" else None
        entry = rollouts.decide(entry, state, model=given, **WHO)
        rollouts.carry_out("fraud")
    return entry


def state(blobs: LocalBlobs) -> str:
    standing = Rollouts(blobs).standing("fraud")
    assert standing is not None
    return standing.state


def challengers(blobs: LocalBlobs) -> list[tuple[str, str, float]]:
    head = PromotionLog(blobs).require_current("fraud")
    return [(c.model.model_version, c.stage, c.share) for c in head.challengers]


def test_a_rollout_goes_its_way_through_both_logs(blobs: LocalBlobs) -> None:
    forward(blobs, until=("shadow", 0))
    assert (state(blobs), challengers(blobs)) == ("shadow", [("v2", "shadow", 1.0)])
    forward(blobs, until=("canary", 0))
    assert (state(blobs), challengers(blobs)) == ("canary", [("v2", "canary", 0.1)])
    forward(blobs, until=("canary", 1))
    assert challengers(blobs) == [("v2", "canary", 0.5)]
    forward(blobs)
    assert (state(blobs), challengers(blobs)) == ("champion", [])
    history = PromotionLog(blobs).history("fraud")
    assert [record.action for record in history] == ["promote", *["challenge"] * 3, "promote"]
    decided = [entry for entry in Rollouts(blobs).history("fraud") if entry.place is not None]
    assert [record.actor for record in history[1:]] == [entry.tag for entry in decided]
    assert history[-1].model_version == "v2"


def test_a_rolled_back_canary_leaves_the_champion_alone(blobs: LocalBlobs) -> None:
    entry = forward(blobs, until=("canary", 1))
    rollouts = Rollouts(blobs)
    rollouts.decide(entry, "rolled_back", evidence="rollouts/fraud/evidence/x.json", **WHO)
    assert challengers(blobs) == [("v2", "canary", 0.5)], "decided, not yet carried out"
    for _ in range(2):
        standing = rollouts.carry_out("fraud")
        assert standing is not None
        assert (standing.state, standing.pending, challengers(blobs)) == ("rolled_back", False, [])
    head = PromotionLog(blobs).require_current("fraud")
    assert (head.model_version, head.sequence) == ("v1", 5)
    with pytest.raises(NotFoundError, match="v2 is rolled_back"):
        active_rollout(rollouts, "fraud")


class Killed(LocalBlobs):
    """Kills its process before or after the given write."""

    def __init__(self, root: str, *, at: int, after: bool) -> None:
        super().__init__(root)
        self._left = at
        self._after = after

    def create(self, key: str, data: Data) -> None:
        self._left -= 1
        if self._left == 0 and not self._after:
            os.kill(os.getpid(), signal.SIGKILL)
        super().create(key, data)
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def killed_forward(root: str, *, at: int, after: bool) -> bool:
    """Go forward in a process of its own that is killed at its write `at`; whether it was."""
    child = os.fork()
    if child == 0:
        try:
            forward(Killed(root, at=at, after=after))
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_killed_at_every_write_it_goes_on_and_does_nothing_twice(tmp_path: Path) -> None:
    clean = LocalBlobs(str(tmp_path / "clean"))
    promote(clean, "v1")
    forward(clean)
    wanted = [record.subject for record in PromotionLog(clean).history("fraud")]
    kills = 0
    for after in (False, True):
        for at in range(1, 40):
            root = LocalBlobs(str(tmp_path / f"{after}-{at}"))
            promote(root, "v1")
            if not killed_forward(root.uri, at=at, after=after):
                break
            kills += 1
            Rollouts(root).history("fraud")
            forward(root)
            assert [r.subject for r in PromotionLog(root).history("fraud")] == wanted
            tags = [record.actor for record in PromotionLog(root).history("fraud")[1:]]
            assert len(set(tags)) == len(tags)
    # Six decisions and four promotion entries, each killed before and after.
    assert kills >= 20


def test_of_many_watchers_one_decides_and_one_carries_out(blobs: LocalBlobs) -> None:
    entry = forward(blobs, until=("shadow", 0))
    Rollouts(blobs).decide(entry, "canary", **WHO)

    def decide(number: int) -> str:
        try:
            Rollouts(blobs).decide(entry, "canary", actor=f"watcher {number}", reason="sound")
        except ConflictError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(decide, range(8)))
        list(pool.map(lambda _: Rollouts(blobs).carry_out("fraud"), range(8)))
    assert all("ana@ibook.test decided first" in answer for answer in answers)
    assert [r.action for r in PromotionLog(blobs).history("fraud")] == ["promote"] + [
        "challenge"
    ] * 2


def test_a_race_to_start_has_one_winner(blobs: LocalBlobs) -> None:
    def start(number: int) -> bool:
        try:
            Rollouts(blobs).start("fraud", f"v{number}", PLAN, **WHO)
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(start, range(2, 10))) == 1
    assert len(Rollouts(blobs).history("fraud")) == 1


def test_whoever_else_promotes_ends_a_rollout(blobs: LocalBlobs) -> None:
    forward(blobs, until=("canary", 0))
    promote(blobs, "v3")
    standing = Rollouts(blobs).carry_out("fraud")
    assert standing is not None
    assert (standing.state, standing.active) == ("archived", False)
    assert standing.overtaken_by is not None
    assert standing.overtaken_by.model_version == "v3"
    assert challengers(blobs) == [], "an ended rollout puts nothing back"
    Rollouts(blobs).start("fraud", "v4", PLAN, **WHO)


def test_a_decision_that_was_overtaken_before_it_was_carried_out_has_no_effect(
    blobs: LocalBlobs,
) -> None:
    entry = forward(blobs, until=("canary", 1))
    Rollouts(blobs).decide(entry, "champion", **WHO)
    promote(blobs, "v3")
    standing = Rollouts(blobs).carry_out("fraud")
    assert standing is not None
    assert standing.state == "archived"
    assert PromotionLog(blobs).require_current("fraud").model_version == "v3"


@pytest.mark.parametrize(
    ("decided_at", "then"),
    [(("shadow", 0), "canary"), (("canary", 0), "canary"), (("canary", 1), "champion")],
)
def test_a_model_withdrawn_while_a_decision_is_written_is_not_put_back(
    blobs: LocalBlobs, decided_at: tuple[RolloutState, int], then: RolloutState
) -> None:
    entry = forward(blobs, until=decided_at)
    log = PromotionLog(blobs)
    head = log.require_current("fraud")
    withdrawn = log.challenge(withdrawing(head, None, **WHO), expected_parent=head.sha256)
    Rollouts(blobs).decide(entry, then, actor="a look", reason="sound")
    standing = Rollouts(blobs).carry_out("fraud")
    assert standing is not None
    assert (standing.state, standing.overtaken_by) == ("archived", withdrawn)
    assert log.require_current("fraud") == withdrawn


def test_a_champion_may_be_rolled_back_or_replaced_later(blobs: LocalBlobs) -> None:
    forward(blobs)
    PromotionLog(blobs).rollback("fraud", **WHO)
    assert state(blobs) == "rolled_back"
    promote(blobs, "v3")
    assert state(blobs) == "rolled_back"


def test_a_replaced_champion_is_archived(blobs: LocalBlobs) -> None:
    forward(blobs)
    promote(blobs, "v3")
    assert state(blobs) == "archived"


def test_somebody_who_makes_the_canary_champion_by_hand_ends_the_rollout(
    blobs: LocalBlobs,
) -> None:
    forward(blobs, until=("canary", 0))
    promote(blobs, "v2")
    assert state(blobs) == "champion"
    standing = Rollouts(blobs).standing("fraud")
    assert standing is not None
    assert not standing.active


def test_a_shadow_that_stands_already_is_taken_over(blobs: LocalBlobs) -> None:
    log = PromotionLog(blobs)
    head = log.require_current("fraud")
    log.challenge(
        entering(head, model(blobs), Entrant("shadow", 1.0), **WHO), expected_parent=head.sha256
    )
    forward(blobs, until=("shadow", 0))
    assert len(log.history("fraud")) == 2
    forward(blobs)
    assert state(blobs) == "champion"


def test_nothing_begins_beside_somebody_elses_challenger(blobs: LocalBlobs) -> None:
    log = PromotionLog(blobs)
    head = log.require_current("fraud")
    log.challenge(
        entering(head, model(blobs, "v9"), Entrant("canary"), **WHO), expected_parent=head.sha256
    )
    with pytest.raises(ConflictError, match="canary v9 stands beside the champion"):
        Rollouts(blobs).start("fraud", "v2", PLAN, **WHO)
    with pytest.raises(ConflictError, match="v1 is the champion already"):
        Rollouts(blobs).start("fraud", "v1", PLAN, **WHO)


def test_a_paused_rollout_keeps_its_place_and_goes_on_from_there(blobs: LocalBlobs) -> None:
    entry = forward(blobs, until=("canary", 0))
    rollouts = Rollouts(blobs)
    held = rollouts.hold(entry, paused=True, **WHO)
    assert rollouts.hold(held, paused=True, **WHO) == held
    assert (held.title, held.since) == ("canary at 10%, paused", entry.since)
    rollouts.carry_out("fraud")
    assert challengers(blobs) == [("v2", "canary", 0.1)]
    rollouts.hold(held, paused=False, **WHO)
    forward(blobs)
    assert state(blobs) == "champion"
    assert len(PromotionLog(blobs).history("fraud")) == 5


@pytest.mark.parametrize("wanted", ["champion", "rolled_back", "gated", "shadow"])
def test_no_state_is_skipped(blobs: LocalBlobs, wanted: RolloutState) -> None:
    entry = forward(blobs, until=("shadow", 0))
    with pytest.raises(ContractError, match=r"is shadow, after which comes one of"):
        Rollouts(blobs).decide(entry, wanted, **WHO)


def test_a_plan_without_a_shadow_begins_as_a_canary(blobs: LocalBlobs) -> None:
    rollouts = Rollouts(blobs)
    plan = PLAN.model_copy(update={"shadow_seconds": 0})
    entry = rollouts.start("fraud", "v2", plan, **WHO)
    entry = rollouts.decide(entry, "gated", model=model(blobs), **WHO)
    with pytest.raises(ContractError, match=r"one of \['canary', 'rejected'\], not shadow"):
        rollouts.decide(entry, "shadow", **WHO)
    rollouts.decide(entry, "canary", **WHO)
    rollouts.carry_out("fraud")
    assert challengers(blobs) == [("v2", "canary", 0.1)]


def test_a_changed_entry_is_noticed(blobs: LocalBlobs) -> None:
    forward(blobs)
    path = Path(blobs.location("rollouts/fraud/log/000000000003.json"))
    stored = json.loads(path.read_text())
    stored["entry"]["reason"] = "another one"
    path.write_text(json.dumps(stored))
    with pytest.raises(IntegrityError):
        Rollouts(blobs).history("fraud")


def test_a_rollout_whose_promotion_log_was_lost_says_what_to_restore(
    blobs: LocalBlobs, tmp_path: Path
) -> None:
    forward(blobs, until=("shadow", 0))
    shutil.rmtree(tmp_path / "lake" / "promotions")
    for ask in (Rollouts(blobs).standing, Rollouts(blobs).carry_out):
        with pytest.raises(ContractError, match="restore promotions/fraud/ from the copy"):
            ask("fraud")


def test_evidence_is_named_by_its_hash(blobs: LocalBlobs) -> None:
    rollouts = Rollouts(blobs)
    keys = {rollouts.keep_evidence("fraud", {"verdict": "sound"}) for _ in range(2)}
    (key,) = keys
    assert json.loads(Path(rollouts.location(key)).read_text()) == {"verdict": "sound"}


def test_the_plan_comes_from_the_settings(tmp_path: Path) -> None:
    plan = plan_of(Settings(home=tmp_path))
    assert plan.shares == (0.05, 0.25)
    assert plan.watch_seconds == 24 * 3_600
    # One per cent over the shadow and two canary steps.
    assert plan.false_alarm_rate == pytest.approx(0.01 / 3)
    for wrong in ("0.5,0.1", "a", "0", "1.5", ""):
        with pytest.raises(ContractError, match="IBOOK_ROLLOUT_SHARES"):
            plan_of(Settings(home=tmp_path, rollout_shares=wrong))
