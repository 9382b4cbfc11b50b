"""Alerts of decisions: a rejected model, a rollout that gets none, retraining that has given up."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from pydantic import SecretStr

from ibook_assets.core.alerts import parse_destinations
from ibook_assets.core.rollout import withdrawing
from ibook_assets.core.rollout_log import RolloutEntry
from ibook_assets.core.rollout_plan import RolloutPlan
from ibook_assets.core.settings import Settings
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.defs.alerting import alert_sensors
from ibook_assets.defs.monitoring import drift_key
from ibook_assets.defs.resources import LakeResource
from ibook_assets.defs.retraining import EPISODE, TRAINING_JOB
from ibook_assets.defs.rollout import rollout_key
from ibook_assets.stores.alerting import AlertOutbox
from ibook_assets.stores.promotions import PromotionLog
from ibook_assets.stores.rollouts import Rollouts
from tests.promotion_drafts import a_draft, stored_artefact
from tests.services.receiver import Receiver, receiving

PLAN = RolloutPlan(
    shadow_seconds=1, shares=(0.1,), watch_seconds=1, window_seconds=1, settle_seconds=0
)
SLOW = RolloutPlan(
    shadow_seconds=3_600, shares=(0.1,), watch_seconds=86_400, window_seconds=60, settle_seconds=30
)
WHO: dict[str, Any] = {"actor": "ana@ibook.test", "reason": "too many reviews"}


@dg.op
def nothing() -> None:
    """A step of a job that only its name matters of."""


TRAINING = dg.GraphDefinition(name=TRAINING_JOB, node_defs=[nothing]).to_job()


class Platform:
    """A platform whose champion is v1, ticked by hand."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance, net: Receiver) -> None:
        self.net = net
        self.instance = instance
        self.settings = settings.model_copy(
            update={"alert_webhooks": SecretStr(f"ops=generic:{net.url}/hook")}
        )
        self.lake = LakeResource(uri=settings.lake)
        self.blobs = self.lake.blobs
        self.ahead = timedelta(0)
        self.rollouts = Rollouts(self.blobs, clock=self.clock)
        self.promote("v1")
        self.cursor: str | None = None
        self.ticks()

    def clock(self) -> datetime:
        """The time, as far ahead as somebody has turned it."""
        return datetime.now(UTC) + self.ahead

    def promote(self, version: str) -> None:
        log = PromotionLog(self.blobs, clock=self.clock)
        head = log.current(FRAUD.name)
        draft = a_draft(version, artefact=stored_artefact(self.blobs))
        log.promote(draft, expected_parent=None if head is None else head.sha256)

    def shadow(self, version: str, plan: RolloutPlan = PLAN) -> RolloutEntry:
        """That model is rolled out as far as a shadow."""
        entry = self.rollouts.start(FRAUD.name, version, plan, **WHO)
        model = a_draft(version, artefact=stored_artefact(self.blobs)).model
        entry = self.rollouts.decide(entry, "gated", model=model, **WHO)
        entry = self.rollouts.decide(entry, "shadow", **WHO)
        self.rollouts.carry_out(FRAUD.name)
        return entry

    def looks(self, note: str) -> None:
        """A look at the rollout ends with that note."""
        self.instance.report_runless_asset_event(
            dg.AssetMaterialization(rollout_key(FRAUD), metadata={"note": note})
        )

    def ticks(self, *, minutes: int = 0) -> list[tuple[str, str]]:
        """Kind and status of what a tick has told, so many minutes later."""
        self.ahead += timedelta(minutes=minutes)
        sensors = {s.name: s for s in alert_sensors(self.settings, clock=self.clock)}
        context = dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, resources={"lake": self.lake}
        )
        ticked = sensors["alerts"](context)
        assert isinstance(ticked, dg.SensorResult)
        self.cursor = ticked.cursor
        before = len(self.net.bodies)
        AlertOutbox(self.blobs).deliver(
            parse_destinations(self.settings.alert_webhooks), seconds=30
        )
        return [(body["kind"], body["status"]) for body in self.net.bodies[before:]]

    def drifts(self, day: str, score: float, *, champion: str = "v1") -> None:
        metadata: dict[str, str | float | int] = {
            "day": day,
            "state": "stable",
            "drift_score": score,
            "champion_version": champion,
            "new_days": 2,
        }
        self.instance.report_runless_asset_event(
            dg.AssetMaterialization(asset_key=drift_key(FRAUD), partition=day, metadata=metadata)
        )

    @property
    def episode(self) -> str:
        """Name of the episode that the newest drift alert opened."""
        drift = next(a for a in AlertOutbox(self.blobs).open_alerts() if a.kind == "drift")
        return f"{FRAUD.name}@{drift.dedup_key.rpartition('/')[2]}"

    def trains(self, status: dg.DagsterRunStatus, *, will_retry: bool = False) -> str:
        """A training run that the episode asked for is in that state; its id."""
        ends = {
            dg.DagsterRunStatus.SUCCESS: dg.DagsterEventType.RUN_SUCCESS,
            dg.DagsterRunStatus.FAILURE: dg.DagsterEventType.RUN_FAILURE,
        }
        run = self.instance.create_run_for_job(
            TRAINING,
            tags={EPISODE: self.episode, **({"dagster/will_retry": "true"} if will_retry else {})},
            status=dg.DagsterRunStatus.STARTED,
        )
        if status in ends:
            event = dg.DagsterEvent(ends[status].value, job_name=TRAINING_JOB)
            self.instance.report_dagster_event(event, run.run_id)
        return run.run_id

    def gives_up(self) -> None:
        """The world drifts, and every attempt to train after it fails."""
        self.drifts("2026-02-01", 0.5)
        self.ticks()
        for _ in range(self.settings.retraining_attempts):
            self.trains(dg.DagsterRunStatus.FAILURE)
        assert ("retraining", "firing") in self.ticks()


@pytest.fixture
def platform(small: Settings) -> Iterator[Platform]:
    with receiving() as net, dg.DagsterInstance.ephemeral() as instance:
        yield Platform(small, instance, net)


def test_a_model_that_the_gate_rejects_is_told_once(platform: Platform) -> None:
    entry = platform.rollouts.start(FRAUD.name, "v2", PLAN, **WHO)
    assert platform.ticks() == []
    platform.rollouts.decide(entry, "rejected", actor="rollout", reason="recall is below the floor")
    assert platform.ticks() == [("rejection", "notice")]
    body = platform.net.bodies[-1]
    assert body["summary"] == "rollout: v2 was rejected (recall is below the floor)"
    assert (body["evidence"]["version"], body["evidence"]["champion"]) == ("v2", "v1")
    platform.cursor = None
    assert platform.ticks() == []


def test_a_rejected_shadow_is_one_alert_although_two_logs_tell_of_it(platform: Platform) -> None:
    entry = platform.shadow("v2")
    assert platform.ticks() == [("promotion", "notice")]
    platform.rollouts.decide(entry, "rejected", **WHO)
    platform.rollouts.carry_out(FRAUD.name)
    assert platform.ticks() == [("rejection", "notice")]


def test_a_canary_that_is_rolled_back_is_told_as_a_rollback(platform: Platform) -> None:
    rollouts = platform.rollouts
    entry = rollouts.decide(platform.shadow("v2"), "canary", **WHO)
    rollouts.carry_out(FRAUD.name)
    platform.ticks()
    rollouts.decide(entry, "rolled_back", **WHO)
    rollouts.carry_out(FRAUD.name)
    assert platform.ticks() == [("rollback", "notice")]


def test_retraining_that_has_given_up_is_told_until_the_drift_is_over(platform: Platform) -> None:
    platform.drifts("2026-02-01", 0.5)
    assert platform.ticks() == [("drift", "firing")]
    for number in range(platform.settings.retraining_attempts):
        assert ("retraining", "firing") not in platform.ticks(), number
        platform.trains(dg.DagsterRunStatus.FAILURE)
    assert ("retraining", "firing") in platform.ticks()
    assert "3 attempts to train after the drift of 2026-02-01" in platform.net.bodies[-1]["summary"]
    assert platform.ticks() == []
    platform.drifts("2026-02-02", 0.05)
    assert sorted(platform.ticks()) == [("drift", "resolved"), ("retraining", "resolved")]


def test_a_run_that_somebody_starts_again_ends_the_alert(platform: Platform) -> None:
    platform.gives_up()
    platform.trains(dg.DagsterRunStatus.STARTED)
    assert platform.ticks() == [("retraining", "resolved")]


def test_a_rollout_begun_by_hand_ends_the_alert_and_its_rejection_opens_it_again(
    platform: Platform,
) -> None:
    platform.gives_up()
    entry = platform.rollouts.start(FRAUD.name, "v2", PLAN, **WHO)
    assert platform.ticks() == [("retraining", "resolved")]
    platform.rollouts.decide(entry, "rejected", **WHO)
    assert sorted(platform.ticks()) == [("rejection", "notice"), ("retraining", "firing")]
    assert platform.ticks() == []


def test_a_rejection_that_is_carried_out_late_opens_the_alert_again(platform: Platform) -> None:
    platform.gives_up()
    # Begun and rejected between two looks; the promotion log does not say so yet.
    platform.rollouts.decide(platform.shadow("v2"), "rejected", **WHO)
    assert ("retraining", "resolved") in platform.ticks()
    platform.rollouts.carry_out(FRAUD.name)
    assert platform.ticks() == [("retraining", "firing")]
    assert platform.ticks() == []


def test_a_rollout_that_somebody_withdraws_by_hand_opens_the_alert_again(
    platform: Platform,
) -> None:
    platform.gives_up()
    platform.shadow("v2")
    assert ("retraining", "resolved") in platform.ticks()
    log = platform.lake.promotions
    head = log.require_current(FRAUD.name)
    log.challenge(withdrawing(head, None, **WHO), expected_parent=head.sha256)
    assert sorted(platform.ticks()) == [("retraining", "firing"), ("rollback", "notice")]
    assert platform.ticks() == []


def test_retraining_has_not_given_up_while_dagster_is_about_to_repeat_a_crashed_run(
    platform: Platform,
) -> None:
    platform.drifts("2026-02-01", 0.5)
    platform.ticks()
    for _ in range(platform.settings.retraining_attempts - 1):
        platform.trains(dg.DagsterRunStatus.FAILURE)
    platform.ticks()
    crashed = platform.trains(dg.DagsterRunStatus.FAILURE, will_retry=True)
    assert platform.ticks() == []
    # Dagster's repetition is there by now, and has failed too.
    platform.instance.add_run_tags(crashed, {"dagster/auto_retry_run_id": "a-later-run"})
    assert platform.ticks() == [("retraining", "firing")]


def test_another_champion_ends_the_alert(platform: Platform) -> None:
    platform.gives_up()
    platform.promote("v2")
    assert ("retraining", "resolved") in platform.ticks()


def test_a_cursor_of_an_older_release_is_read(platform: Platform) -> None:
    platform.cursor = '{"failed": 0, "succeeded": 0, "drift": {}, "promotions": {"fraud": 1}}'
    assert platform.ticks() == []
    assert '"promotions":{"fraud":1}' in (platform.cursor or "")


def test_a_step_that_stays_undecided_is_told_until_it_is_decided(platform: Platform) -> None:
    entry = platform.shadow("v2", SLOW)
    # An hour, a window and what settles, three times over: 3 * 3690 s = 184.5 minutes.
    assert platform.ticks(minutes=180) == [("promotion", "notice")]
    platform.looks("inconclusive: too little seen of flags, scores")
    assert platform.ticks(minutes=5) == [("stalled-rollout", "firing")]
    told = platform.net.bodies[-1]["summary"]
    assert told.startswith("The rollout of v2 has been shadow for 3:")
    assert "planned were 1:01:30; nothing is trained meanwhile" in told
    assert "`ibook rollout status fraud` shows what it waits for" in told
    assert told.endswith("said: inconclusive: too little seen of flags, scores.")
    assert platform.ticks(minutes=600) == []
    entry = platform.rollouts.decide(entry, "canary", **WHO)
    platform.rollouts.carry_out(FRAUD.name)
    assert sorted(platform.ticks()) == [("promotion", "notice"), ("stalled-rollout", "resolved")]
    # The canary's day has a patience of its own, and is a matter of its own.
    assert platform.ticks(minutes=3 * 24 * 60) == []
    assert platform.ticks(minutes=5) == [("stalled-rollout", "firing")]
    platform.rollouts.decide(entry, "rolled_back", **WHO)
    platform.rollouts.carry_out(FRAUD.name)
    assert sorted(platform.ticks()) == [("rollback", "notice"), ("stalled-rollout", "resolved")]


def test_a_rollout_that_somebody_left_paused_is_told_once(platform: Platform) -> None:
    entry = platform.shadow("v2", SLOW)
    entry = platform.rollouts.hold(entry, paused=True, **WHO)
    assert platform.ticks(minutes=180) == [("promotion", "notice")]
    assert platform.ticks(minutes=5) == [("stalled-rollout", "firing")]
    told = platform.net.bodies[-1]
    assert "`ibook rollout resume fraud` lets it go on, `ibook rollout abort" in told["summary"]
    assert told["evidence"]["paused_by"] == "ana@ibook.test (too many reviews)"
    entry = platform.rollouts.hold(entry, paused=False, **WHO)
    platform.rollouts.hold(entry, paused=True, **WHO)
    assert platform.ticks() == []


def test_a_candidate_that_nobody_looks_at_is_told_until_another_model_serves(
    platform: Platform,
) -> None:
    platform.looks("no rollout is on its way")
    platform.rollouts.start(FRAUD.name, "v2", SLOW, **WHO)
    assert platform.ticks(minutes=59) == []
    assert platform.ticks(minutes=2) == [("stalled-rollout", "firing")]
    told = platform.net.bodies[-1]["summary"]
    assert "No look has been made since: is the sensor fraud_rollout on" in told
    platform.promote("v3")
    assert sorted(platform.ticks()) == [("promotion", "notice"), ("stalled-rollout", "resolved")]


def test_a_decision_that_nothing_carries_out_is_told(platform: Platform) -> None:
    entry = platform.shadow("v2", SLOW)
    platform.rollouts.decide(entry, "rejected", **WHO)
    assert ("stalled-rollout", "firing") not in platform.ticks(minutes=59)
    assert platform.ticks(minutes=2) == [("stalled-rollout", "firing")]
    told = platform.net.bodies[-1]["summary"]
    assert "`ibook rollout look fraud` carries out what was decided" in told
    platform.rollouts.carry_out(FRAUD.name)
    assert platform.ticks() == [("stalled-rollout", "resolved")]
