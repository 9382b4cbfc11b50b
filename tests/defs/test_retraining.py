"""The retraining sensor, tick by tick on a real instance: one run an episode, never a storm."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ibook_assets.core.monitoring.signals import SignalName
from ibook_assets.core.rollout import Entrant, entering, withdrawing
from ibook_assets.core.settings import Settings
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.definitions import build_defs
from ibook_assets.defs.monitoring import drift_key
from ibook_assets.defs.retraining import (
    EPISODE,
    SIGNALLED,
    TRAINING_JOB,
    UNTIL,
)
from tests.defs.retraining_sensor import Sensor
from tests.promotion_drafts import a_draft, stored_artefact

HOUR = 3_600.0


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A real instance: SQLite on disk."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as found:
        yield found


@pytest.fixture
def sensor(small: Settings, instance: dg.DagsterInstance) -> Sensor:
    return Sensor(small, instance)


def test_it_belongs_to_the_platform_and_is_on(small: Settings) -> None:
    sensor = build_defs(small).resolve_sensor_def("fraud_retraining")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.job_name == TRAINING_JOB


def test_no_drift_asks_for_nothing(sensor: Sensor) -> None:
    assert sensor.tick() == []
    for day in range(1, 20):
        sensor.observe(f"2026-03-{day:02d}", 0.29)
        assert sensor.tick() == []
    assert sensor.skipped == "no drift episode is open"


@pytest.mark.parametrize(
    ("score", "confirmed"), [(0.30, False), (0.02, True)], ids=["score", "verdict"]
)
def test_drift_asks_for_one_training_run(
    sensor: Sensor,
    score: float,
    confirmed: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    sensor.observe("2026-03-01", 0.1)
    sensor.observe("2026-03-02", score, confirmed=confirmed, state="drifted")
    (request,) = sensor.tick()
    assert str(request.run_key).endswith("#1")
    assert request.tags[UNTIL] == "2026-03-02"
    assert str(request.run_key).startswith(request.tags[EPISODE])
    started = sensor.start(request)
    for day in ("2026-03-03", "2026-03-04"):
        sensor.observe(day, 0.6, confirmed=True, state="drifted")
        assert sensor.tick() == []
        assert started.run_id in sensor.skipped
    sensor.end(started)
    sensor.ahead = 90 * 24 * HOUR
    assert sensor.tick(remember=False) != [], "the newest day is one that it did not learn from"


def test_a_model_that_is_rolled_out_ends_its_episode_when_it_serves(sensor: Sensor) -> None:
    sensor.promote("v1")
    sensor.observe("2026-03-01", 0.5)
    sensor.rolled_out("v2", accepted=True)
    sensor.ahead = 90 * 24 * HOUR
    for day in ("2026-03-02", "2026-03-03"):
        # Judged before v2 served.
        sensor.observe(day, 0.5)
        assert sensor.tick() == []
        assert "ends with the next day that is judged: v2 serves by now" in sensor.skipped
    sensor.observe("2026-03-04", 0.1, champion="v2")
    assert sensor.tick() == []
    assert sensor.skipped == "no drift episode is open"


def test_a_rejected_model_is_followed_by_another_of_later_days_and_not_for_ever(
    sensor: Sensor,
) -> None:
    sensor.promote("v1")
    for attempt in (1, 2, 3):
        day = f"2026-03-{attempt:02d}"
        sensor.observe(day, 0.5)
        sensor.rolled_out(f"v2-{attempt}", accepted=False)
        assert sensor.tick() == []
        if attempt < 3:
            assert f"has been trained for up to {day}; v2-{attempt} is rejected" in sensor.skipped
            sensor.observe(f"2026-03-{attempt + 1:02d}", 0.5)
            assert sensor.tick() == []
            assert "s more: v2-" in sensor.skipped
            sensor.ahead += 25 * HOUR
    sensor.observe("2026-03-09", 0.5)
    sensor.ahead += 90 * 24 * HOUR
    assert sensor.tick() == []
    assert "3 attempts gave no champion; v2-3 is rejected (as it was judged)" in sensor.skipped


def test_a_run_that_died_after_it_began_a_rollout_is_not_repeated(sensor: Sensor) -> None:
    sensor.promote("v1")
    sensor.observe("2026-03-01", 0.5)
    (request,) = sensor.tick()
    run = sensor.start(request)
    entry = sensor.begin_rollout("v2", run)
    sensor.end(run, well=False)
    sensor.ahead = 90 * 24 * HOUR
    assert sensor.tick() == []
    assert "waits: the rollout of v2 is on its way" in sensor.skipped
    sensor.rollouts.decide(entry, "rejected", actor="watcher", reason="as it was judged")
    assert sensor.tick() == []
    assert "has been trained for up to 2026-03-01; v2 is rejected" in sensor.skipped


def test_a_run_that_dagster_repeats_after_a_crash_is_one_attempt(sensor: Sensor) -> None:
    sensor.observe("2026-03-01", 0.5)
    (request,) = sensor.tick()
    first = sensor.start(request)
    sensor.end(first, well=False)
    job = sensor.defs.resolve_job_def(TRAINING_JOB)
    again = sensor.instance.create_run_for_job(
        job,
        tags=request.tags,
        status=dg.DagsterRunStatus.STARTED,
        root_run_id=first.run_id,
        parent_run_id=first.run_id,
    )
    sensor.end(again, well=False)
    sensor.ahead = 11 * 60
    (request,) = sensor.tick()
    assert str(request.run_key).endswith("#2")


def test_a_run_that_dagster_is_about_to_repeat_is_waited_for(sensor: Sensor) -> None:
    sensor.observe("2026-03-01", 0.5)
    (request,) = sensor.tick()
    run = sensor.start(request)
    sensor.instance.add_run_tags(run.run_id, {"dagster/will_retry": "true"})
    sensor.end(run, well=False)
    sensor.ahead = 90 * 24 * HOUR
    assert sensor.tick() == []
    assert f"Dagster is about to repeat run {run.run_id}" in sensor.skipped
    sensor.instance.add_run_tags(run.run_id, {"dagster/auto_retry_run_id": "another"})
    assert len(sensor.tick()) == 1


def test_nothing_is_trained_that_would_have_no_place(sensor: Sensor) -> None:
    sensor.promote("v1")
    log = sensor.lake.promotions
    head = log.require_current("fraud")
    model = a_draft("v9", artefact=stored_artefact(sensor.lake.blobs)).model
    draft = entering(head, model, Entrant("shadow"), actor="ana", reason="a look")
    log.challenge(draft, expected_parent=head.sha256)
    sensor.observe("2026-03-01", 0.5)
    assert sensor.tick() == []
    assert "waits: shadow v9 stands beside the champion" in sensor.skipped
    assert "`ibook withdraw fraud --variant shadow`" in sensor.skipped
    head = log.require_current("fraud")
    log.challenge(withdrawing(head, None, actor="ana", reason="seen"), expected_parent=head.sha256)
    assert len(sensor.tick()) == 1


def test_a_failed_run_is_tried_again_later_each_time_and_not_for_ever(sensor: Sensor) -> None:
    sensor.observe("2026-03-01", 0.5)
    keys = [sensor.attempt(well=False)]
    assert sensor.tick() == []
    assert "the next attempt is in" in sensor.skipped
    for minutes in (11, 22):
        sensor.ahead += minutes * 60
        keys.append(sensor.attempt(well=False))
        assert sensor.tick() == []
    sensor.ahead += 24 * HOUR
    assert [key.rpartition("#")[2] for key in keys] == ["1", "2", "3"]
    assert len({key.rpartition("#")[0] for key in keys}) == 1
    for _ in range(3):
        assert sensor.tick() == []
    assert "3 training runs failed" in sensor.skipped


def test_a_run_that_succeeds_at_the_second_attempt_ends_the_attempts(sensor: Sensor) -> None:
    sensor.observe("2026-03-01", 0.5)
    sensor.attempt(well=False)
    sensor.ahead += 11 * 60
    assert sensor.attempt(well=True).endswith("#2")
    sensor.ahead += 90 * 24 * HOUR
    assert sensor.tick() == []


def test_a_crash_between_a_tick_and_its_cursor_starts_no_second_run(sensor: Sensor) -> None:
    sensor.observe("2026-03-01", 0.5)
    (request,) = sensor.tick(remember=False)
    # Killed before the run was created: the same request again, so the run key joins them.
    (again,) = sensor.tick(remember=False)
    assert again.run_key == request.run_key
    # Killed after it was created: the run is known by its tag.
    started = sensor.start(again)
    assert sensor.tick(remember=False) == []
    sensor.end(started)
    assert sensor.tick(remember=False) == []
    assert "has been trained for" in sensor.skipped
    assert sensor.tick() == []


def test_a_new_episode_waits_until_the_last_training_has_cooled_down(sensor: Sensor) -> None:
    sensor.observe("2026-03-01", 0.5)
    first = sensor.attempt(well=True)
    sensor.observe("2026-03-02", 0.1)
    assert sensor.tick() == []
    sensor.observe("2026-03-03", 0.5)
    assert sensor.tick() == []
    assert "has just succeeded" in sensor.skipped
    sensor.ahead = 24 * HOUR + 60
    assert sensor.attempt(well=True) != first


def test_a_weekly_training_run_in_flight_is_waited_for(sensor: Sensor) -> None:
    weekly = sensor.start(dg.RunRequest())
    sensor.observe("2026-03-01", 0.5)
    assert sensor.tick() == []
    assert weekly.run_id in sensor.skipped
    sensor.end(weekly, well=False)
    assert len(sensor.tick()) == 1


def test_a_drift_that_the_new_champion_still_has_is_a_new_episode(sensor: Sensor) -> None:
    sensor.observe("2026-03-01", 0.5)
    first = sensor.attempt(well=True)
    sensor.observe("2026-03-02", 0.45, champion="v2")
    sensor.ahead = 25 * HOUR
    assert sensor.attempt(well=True).rpartition("#")[0] != first.rpartition("#")[0]


def test_nothing_new_to_learn_is_no_reason_to_train(sensor: Sensor) -> None:
    sensor.observe("2026-03-01", 0.5, new_days=0)
    assert sensor.tick() == []
    assert "has learnt from every day" in sensor.skipped
    sensor.observe("2026-03-02", 0.5, new_days=1)
    assert len(sensor.tick()) == 1


def test_an_event_reported_by_hand_does_not_stop_the_sensor(sensor: Sensor) -> None:
    sensor.instance.report_runless_asset_event(dg.AssetMaterialization(asset_key=drift_key(FRAUD)))
    sensor.observe("2026-03-01", 0.5)
    assert len(sensor.tick()) == 1


def test_signals_join_one_episode_and_ask_for_one_run(sensor: Sensor) -> None:
    sensor.say("performance", "2026-03-01", confirmed=True)
    (request,) = sensor.tick()
    started = sensor.start(request)
    sensor.say("fraud_rate", "2026-03-01", confirmed=True)
    sensor.observe("2026-03-02", 0.5, confirmed=True, state="drifted")
    assert sensor.tick() == []
    sensor.end(started, well=False)
    sensor.ahead = 11 * 60
    (again,) = sensor.tick()
    assert again.tags[EPISODE] == request.tags[EPISODE]
    assert again.tags[SIGNALLED] == "feature_drift,fraud_rate,performance"
    # It ends when the last of them has ended.
    sensor.end(sensor.start(again))
    sensor.say("performance", "2026-03-02", state="stable")
    sensor.observe("2026-03-02", 0.1)
    assert sensor.tick() == []
    assert "has been trained for" in sensor.skipped
    sensor.say("fraud_rate", "2026-03-03", state="stable")
    assert sensor.tick() == []
    assert sensor.skipped == "no drift episode is open"


def test_what_only_alerts_trains_nothing(sensor: Sensor) -> None:
    sensor.say("score_drift", "2026-03-01", confirmed=True)
    sensor.say("data_quality", "2026-03-01", confirmed=True)
    sensor.say("performance", "2026-03-01", confirmed=False)
    assert sensor.tick() == []
    assert sensor.skipped == "no drift episode is open"


@pytest.mark.parametrize(
    ("automatic", "signal", "target"),
    [
        (True, "domain_drift", "rollout"),
        (True, "performance", "rollout"),
        (False, "domain_drift", "shadow"),
        (False, "performance", "champion"),
    ],
)
def test_what_a_run_asks_for_its_model(
    small: Settings,
    instance: dg.DagsterInstance,
    automatic: bool,  # noqa: FBT001 - a parameter of the test
    signal: SignalName,
    target: str,
) -> None:
    sensor = Sensor(small.model_copy(update={"rollout_automatic": automatic}), instance)
    sensor.say(signal, "2026-03-01", confirmed=True)
    (request,) = sensor.tick()
    assert request.run_config == asking_for(target)
    job = sensor.defs.resolve_job_def(TRAINING_JOB)
    assert dg.validate_run_config(job, request.run_config)


def asking_for(target: str) -> dict[str, Any]:
    return {"ops": {"fraud__promotion": {"config": {"target": target}}}}


def test_the_week_trains_unless_a_model_is_trained_or_rolled_out_already(sensor: Sensor) -> None:
    schedule = sensor.defs.resolve_schedule_def("weekly_training")
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED

    def asked() -> tuple[list[dg.RunRequest], str]:
        told = {"lake": sensor.lake}
        with dg.build_schedule_context(instance=sensor.instance, resources=told) as context:
            ticked = schedule.evaluate_tick(context)
        return list(ticked.run_requests or ()), str(ticked.skip_message)

    sensor.promote("v1")
    ((request,), _) = asked()
    assert request.run_config == asking_for("rollout")
    run = sensor.start(request)
    assert asked() == ([], f"training run {run.run_id} is on its way")
    entry = sensor.begin_rollout("v2", run)
    sensor.end(run)
    ((), skipped) = asked()
    assert "the rollout of v2 is on its way (candidate, entry 1)" in skipped
    sensor.rollouts.decide(entry, "rejected", actor="watcher", reason="as it was judged")
    assert len(asked()[0]) == 1


def test_nobody_learns_from_a_broken_day(sensor: Sensor) -> None:
    sensor.observe("2026-03-01", 0.5)
    sensor.say("data_quality", "2026-03-01", confirmed=True)
    assert sensor.tick() == []
    assert "the features of 2026-03-01 are broken" in sensor.skipped
    sensor.say("data_quality", "2026-03-01", state="stable")
    assert len(sensor.tick()) == 1


def test_what_one_signal_says_much_of_does_not_hide_another(
    sensor: Sensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ibook_assets.defs.retraining.READ_AT_ONCE", 2)
    sensor.observe("2026-03-01", 0.5)
    for day in range(2, 5):
        sensor.observe(f"2026-03-{day:02d}", 0.1)
    sensor.say("performance", "2026-03-05", confirmed=True)
    assert sensor.tick() == []
    assert sensor.tick() == []
    (request,) = sensor.tick()
    assert request.tags[SIGNALLED] == "performance"
