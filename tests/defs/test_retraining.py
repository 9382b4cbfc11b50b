"""The retraining sensor, tick by tick on a real instance: one run an episode, never a storm."""

import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from ibook_assets.core.monitoring.signals import SignalName
from ibook_assets.core.settings import Settings
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.definitions import build_defs
from ibook_assets.defs.monitoring import drift_key, signal_key
from ibook_assets.defs.retraining import (
    EPISODE,
    SIGNALLED,
    TRAINING_JOB,
    UNTIL,
    retraining_sensors,
)

HOUR = 3_600.0


class Sensor:
    """The retraining sensor of a platform, ticked by hand, with a clock of its own."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance) -> None:
        self.defs = build_defs(settings)
        self.instance = instance
        self.cursor: str | None = None
        self.ahead = 0.0
        (self.sensor,) = retraining_sensors(settings, clock=lambda: time.time() + self.ahead)

    def observe(
        self,
        day: str,
        score: float,
        *,
        champion: str = "v1",
        confirmed: bool = False,
        state: str = "stable",
        new_days: int = 2,
    ) -> None:
        """A drift record is materialised."""
        metadata: dict[str, str | float | bool] = {
            "day": day,
            "state": state,
            "drift_score": score,
            "champion_version": champion,
            "confirmed": confirmed,
            "new_days": new_days,
        }
        self.instance.report_runless_asset_event(
            dg.AssetMaterialization(asset_key=drift_key(FRAUD), partition=day, metadata=metadata)
        )

    def say(
        self, name: SignalName, day: str, *, confirmed: bool = False, state: str = "drifted"
    ) -> None:
        """A signal's record is materialised."""
        metadata: dict[str, str | float | bool] = {
            "day": day,
            "state": state,
            "champion_version": "v1",
            "confirmed": confirmed,
            "new_days": 2,
        }
        key = signal_key(FRAUD, name)
        self.instance.report_runless_asset_event(
            dg.AssetMaterialization(asset_key=key, partition=day, metadata=metadata)
        )

    def tick(self, *, remember: bool = True) -> list[dg.RunRequest]:
        context = dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, definitions=self.defs
        )
        ticked = self.sensor.evaluate_tick(context)
        if remember:
            self.cursor = ticked.cursor
        self.skipped = str(ticked.skip_message)
        return list(ticked.run_requests or ())

    def start(self, request: dg.RunRequest) -> dg.DagsterRun:
        """Its run, as the daemon creates it, started and not yet ended."""
        job = self.defs.resolve_job_def(TRAINING_JOB)
        return self.instance.create_run_for_job(
            job, tags=request.tags, status=dg.DagsterRunStatus.STARTED
        )

    def end(self, run: dg.DagsterRun, *, well: bool = True) -> None:
        event = dg.DagsterEventType.RUN_SUCCESS if well else dg.DagsterEventType.RUN_FAILURE
        ended = dg.DagsterEvent(event.value, job_name=run.job_name)
        self.instance.report_dagster_event(ended, run.run_id)

    def attempt(self, *, well: bool) -> str:
        """Tick, run what is asked for to its end; the run key."""
        (request,) = self.tick()
        self.end(self.start(request), well=well)
        return str(request.run_key)


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
    sensor.observe("2026-03-05", 0.6, confirmed=True, state="drifted")
    assert sensor.tick() == []
    assert "has been trained for" in sensor.skipped


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
    sensor.say("performance", "2026-03-03", state="stable")
    sensor.observe("2026-03-03", 0.1)
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


def test_a_classifier_alone_asks_for_a_shadow(sensor: Sensor) -> None:
    sensor.say("domain_drift", "2026-03-01", confirmed=True)
    (request,) = sensor.tick()
    config = request.run_config["ops"]["fraud__promotion"]["config"]
    assert config == {"target": "shadow"}
    job = sensor.defs.resolve_job_def(TRAINING_JOB)
    assert dg.validate_run_config(job, request.run_config)
    sensor.say("performance", "2026-03-01", confirmed=True)
    (request,) = sensor.tick()
    assert not request.run_config


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
