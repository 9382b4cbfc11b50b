"""Alerts of decisions: a rejected model, a rollout that gets none, retraining that has given up."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import dagster as dg
import pytest

from ibook_assets.core.rollout import withdrawing
from ibook_assets.core.rollout_log import RolloutEntry
from ibook_assets.core.rollout_plan import RolloutPlan
from ibook_assets.core.settings import Settings
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.defs.retraining import EPISODE, TRAINING_JOB
from ibook_assets.defs.rollout import rollout_key
from ibook_assets.stores.promotions import PromotionLog
from ibook_assets.stores.rollouts import Rollouts
from tests.defs.alerting.ticked import Platform
from tests.promotion_drafts import a_draft, stored_artefact
from tests.services.receiver import Receiver

PLAN = RolloutPlan(
    shadow_seconds=1, shares=(0.1,), watch_seconds=1, window_seconds=1, settle_seconds=0
)
SLOW = RolloutPlan(
    shadow_seconds=3_600, shares=(0.1,), watch_seconds=86_400, window_seconds=60, settle_seconds=30
)
WHO: dict[str, Any] = {"actor": "ana@ibook.test", "reason": "too many reviews"}


class Champion(Platform):
    """A platform whose champion is v1, and whose models are rolled out by hand."""

    def __init__(
        self, settings: Settings, instance: dg.DagsterInstance, receiver: Receiver
    ) -> None:
        super().__init__(settings, instance, receiver.url)
        self.bodies = receiver.bodies
        self.rollouts = Rollouts(self.lake.blobs, clock=self.clock)
        self.promote("v1")
        self.told()

    def told(self, *, minutes: int = 0) -> list[tuple[str, str]]:
        """Kind and status of what is told so many minutes later."""
        self.ahead += timedelta(minutes=minutes)
        before = len(self.bodies)
        self.ticks()
        return [(body["kind"], body["status"]) for body in self.bodies[before:]]

    def promote(self, version: str) -> None:
        log = PromotionLog(self.lake.blobs, clock=self.clock)
        head = log.current(FRAUD.name)
        draft = a_draft(version, artefact=stored_artefact(self.lake.blobs))
        log.promote(draft, expected_parent=None if head is None else head.sha256)

    def shadow(self, version: str, plan: RolloutPlan = PLAN) -> RolloutEntry:
        """That model is rolled out as far as a shadow."""
        entry = self.rollouts.start(FRAUD.name, version, plan, **WHO)
        model = a_draft(version, artefact=stored_artefact(self.lake.blobs)).model
        entry = self.rollouts.decide(entry, "gated", model=model, **WHO)
        entry = self.rollouts.decide(entry, "shadow", **WHO)
        self.rollouts.carry_out(FRAUD.name)
        return entry

    def look(self, note: str) -> None:
        """A look at the rollout ends with that note."""
        self.instance.report_runless_asset_event(
            dg.AssetMaterialization(rollout_key(FRAUD), metadata={"note": note})
        )

    @property
    def episode(self) -> dict[str, str]:
        """Tag of the runs that the episode of the newest drift alert asks for."""
        drift = next(alert for alert in self.outbox.open_alerts() if alert.kind == "drift")
        return {EPISODE: f"{FRAUD.name}@{drift.dedup_key.rpartition('/')[2]}"}

    def fail_to_train(self, times: int = 1) -> None:
        """So many training runs that the episode asked for fail."""
        for _ in range(times):
            self.run(TRAINING_JOB, well=False, tags=self.episode)

    def give_up(self) -> None:
        """The world drifts, and every attempt to train after it fails."""
        self.drift("2026-02-01", 0.5)
        self.told()
        self.fail_to_train(self.settings.retraining_attempts)
        assert ("retraining", "firing") in self.told()


@pytest.fixture
def platform(small: Settings, instance: dg.DagsterInstance, receiver: Receiver) -> Champion:
    return Champion(small, instance, receiver)


def test_a_model_that_the_gate_rejects_is_told_once(platform: Champion) -> None:
    entry = platform.rollouts.start(FRAUD.name, "v2", PLAN, **WHO)
    assert platform.told() == []
    platform.rollouts.decide(entry, "rejected", actor="rollout", reason="recall is below the floor")
    assert platform.told() == [("rejection", "notice")]
    body = platform.bodies[-1]
    assert body["summary"] == "rollout: v2 was rejected (recall is below the floor)"
    assert (body["evidence"]["version"], body["evidence"]["champion"]) == ("v2", "v1")
    platform.cursors.clear()
    assert platform.told() == []


def test_a_rejected_shadow_is_one_alert_although_two_logs_tell_of_it(platform: Champion) -> None:
    entry = platform.shadow("v2")
    assert platform.told() == [("promotion", "notice")]
    platform.rollouts.decide(entry, "rejected", **WHO)
    platform.rollouts.carry_out(FRAUD.name)
    assert platform.told() == [("rejection", "notice")]


def test_a_canary_that_is_rolled_back_is_told_as_a_rollback(platform: Champion) -> None:
    rollouts = platform.rollouts
    entry = rollouts.decide(platform.shadow("v2"), "canary", **WHO)
    rollouts.carry_out(FRAUD.name)
    platform.told()
    rollouts.decide(entry, "rolled_back", **WHO)
    rollouts.carry_out(FRAUD.name)
    assert platform.told() == [("rollback", "notice")]


def test_retraining_that_has_given_up_is_told_until_the_drift_is_over(platform: Champion) -> None:
    platform.drift("2026-02-01", 0.5)
    assert platform.told() == [("drift", "firing")]
    for number in range(platform.settings.retraining_attempts):
        assert ("retraining", "firing") not in platform.told(), number
        platform.fail_to_train()
    assert ("retraining", "firing") in platform.told()
    assert "3 attempts to train after the drift of 2026-02-01" in platform.bodies[-1]["summary"]
    assert platform.told() == []
    platform.drift("2026-02-02", 0.05)
    assert sorted(platform.told()) == [("drift", "resolved"), ("retraining", "resolved")]


def test_a_run_that_somebody_starts_again_ends_the_alert(platform: Champion) -> None:
    platform.give_up()
    platform.start(TRAINING_JOB, tags=platform.episode)
    assert platform.told() == [("retraining", "resolved")]


def test_a_rollout_begun_by_hand_ends_the_alert_and_its_rejection_opens_it_again(
    platform: Champion,
) -> None:
    platform.give_up()
    entry = platform.rollouts.start(FRAUD.name, "v2", PLAN, **WHO)
    assert platform.told() == [("retraining", "resolved")]
    platform.rollouts.decide(entry, "rejected", **WHO)
    assert sorted(platform.told()) == [("rejection", "notice"), ("retraining", "firing")]
    assert platform.told() == []


def test_a_rejection_that_is_carried_out_late_opens_the_alert_again(platform: Champion) -> None:
    platform.give_up()
    # Begun and rejected between two looks; the promotion log does not say so yet.
    platform.rollouts.decide(platform.shadow("v2"), "rejected", **WHO)
    assert ("retraining", "resolved") in platform.told()
    platform.rollouts.carry_out(FRAUD.name)
    assert platform.told() == [("retraining", "firing")]
    assert platform.told() == []


def test_a_rollout_that_somebody_withdraws_by_hand_opens_the_alert_again(
    platform: Champion,
) -> None:
    platform.give_up()
    platform.shadow("v2")
    assert ("retraining", "resolved") in platform.told()
    log = platform.lake.promotions
    head = log.require_current(FRAUD.name)
    log.challenge(withdrawing(head, None, **WHO), expected_parent=head.sha256)
    assert sorted(platform.told()) == [("retraining", "firing"), ("rollback", "notice")]
    assert platform.told() == []


def test_retraining_has_not_given_up_while_dagster_is_about_to_repeat_a_crashed_run(
    platform: Champion,
) -> None:
    platform.drift("2026-02-01", 0.5)
    platform.told()
    platform.fail_to_train(platform.settings.retraining_attempts - 1)
    platform.told()
    repeated = {**platform.episode, "dagster/will_retry": "true"}
    crashed = platform.run(TRAINING_JOB, well=False, tags=repeated)
    assert platform.told() == []
    # Dagster's repetition is there by now, and has failed too.
    platform.instance.add_run_tags(crashed, {"dagster/auto_retry_run_id": "a-later-run"})
    assert platform.told() == [("retraining", "firing")]


def test_another_champion_ends_the_alert(platform: Champion) -> None:
    platform.give_up()
    platform.promote("v2")
    assert ("retraining", "resolved") in platform.told()


def test_a_cursor_of_an_older_release_is_read(platform: Champion) -> None:
    platform.cursors["alerts"] = (
        '{"failed": 0, "succeeded": 0, "drift": {}, "promotions": {"fraud": 1}}'
    )
    assert platform.told() == []
    assert '"promotions":{"fraud":1}' in str(platform.cursors["alerts"])


def test_a_step_that_stays_undecided_is_told_until_it_is_decided(platform: Champion) -> None:
    entry = platform.shadow("v2", SLOW)
    # An hour, a window and what settles, three times over: 3 * 3690 s = 184.5 minutes.
    assert platform.told(minutes=180) == [("promotion", "notice")]
    platform.look("inconclusive: too little seen of flags, scores")
    assert platform.told(minutes=5) == [("stalled-rollout", "firing")]
    told = platform.bodies[-1]["summary"]
    assert told.startswith("The rollout of v2 has been shadow for 3:")
    assert "planned were 1:01:30; nothing is trained meanwhile" in told
    assert "`ibook rollout status fraud` shows what it waits for" in told
    assert told.endswith("said: inconclusive: too little seen of flags, scores.")
    assert platform.told(minutes=600) == []
    entry = platform.rollouts.decide(entry, "canary", **WHO)
    platform.rollouts.carry_out(FRAUD.name)
    assert sorted(platform.told()) == [("promotion", "notice"), ("stalled-rollout", "resolved")]
    # The canary's day has a patience of its own, and is a matter of its own.
    assert platform.told(minutes=3 * 24 * 60) == []
    assert platform.told(minutes=5) == [("stalled-rollout", "firing")]
    platform.rollouts.decide(entry, "rolled_back", **WHO)
    platform.rollouts.carry_out(FRAUD.name)
    assert sorted(platform.told()) == [("rollback", "notice"), ("stalled-rollout", "resolved")]


def test_a_rollout_that_somebody_left_paused_is_told_once(platform: Champion) -> None:
    entry = platform.shadow("v2", SLOW)
    entry = platform.rollouts.hold(entry, paused=True, **WHO)
    assert platform.told(minutes=180) == [("promotion", "notice")]
    assert platform.told(minutes=5) == [("stalled-rollout", "firing")]
    told = platform.bodies[-1]
    assert "`ibook rollout resume fraud` lets it go on, `ibook rollout abort" in told["summary"]
    assert told["evidence"]["paused_by"] == "ana@ibook.test (too many reviews)"
    entry = platform.rollouts.hold(entry, paused=False, **WHO)
    platform.rollouts.hold(entry, paused=True, **WHO)
    assert platform.told() == []


def test_a_candidate_that_nobody_looks_at_is_told_until_another_model_serves(
    platform: Champion,
) -> None:
    platform.look("no rollout is on its way")
    platform.rollouts.start(FRAUD.name, "v2", SLOW, **WHO)
    assert platform.told(minutes=59) == []
    assert platform.told(minutes=2) == [("stalled-rollout", "firing")]
    told = platform.bodies[-1]["summary"]
    assert "No look has been made since: is the sensor fraud_rollout on" in told
    platform.promote("v3")
    assert sorted(platform.told()) == [("promotion", "notice"), ("stalled-rollout", "resolved")]


def test_a_decision_that_nothing_carries_out_is_told(platform: Champion) -> None:
    entry = platform.shadow("v2", SLOW)
    platform.rollouts.decide(entry, "rejected", **WHO)
    assert ("stalled-rollout", "firing") not in platform.told(minutes=59)
    assert platform.told(minutes=2) == [("stalled-rollout", "firing")]
    told = platform.bodies[-1]["summary"]
    assert "`ibook rollout look fraud` carries out what was decided" in told
    platform.rollouts.carry_out(FRAUD.name)
    assert platform.told() == [("stalled-rollout", "resolved")]
