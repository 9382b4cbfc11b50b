"""The landing sensor, tick by tick on a real instance: no day forgotten, none landed twice."""

import time

import dagster as dg
import pytest

from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.landing import LandingCursor
from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import TRANSACTIONS, VIEWS
from ibook_assets.core.times import day_of
from ibook_assets.definitions import build_defs
from ibook_assets.defs.log_landing import ATTEMPTS
from ibook_assets.defs.resources import LakeResource
from ibook_assets.stores.feature_days import feature_table
from tests.defs.conftest import run
from tests.defs.sinking import lake_of, simulated, sink, sink_day, sink_vectors
from tests.services.brokers import DevBrokerService

FIRST, SECOND, THIRD = "2026-01-01", "2026-01-02", "2026-01-03"


class Sensor:
    """The landing sensor of a platform, ticked by hand on a real instance."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance) -> None:
        self.defs = build_defs(settings)
        self.lake = LakeResource(uri=settings.lake)
        self.instance = instance
        self.cursor: str | None = None

    def tick(self) -> list[dg.RunRequest]:
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            definitions=self.defs,
            resources={"lake": self.lake},
        )
        ticked = self.defs.resolve_sensor_def("log_landing").evaluate_tick(context)
        self.cursor = ticked.cursor
        self.skipped = ticked.skip_message
        self.observed = ticked.asset_events
        return list(ticked.run_requests or ())

    def days(self) -> list[str]:
        return [str(request.partition_key) for request in self.tick()]

    def start(self, request: dg.RunRequest, *, repeats: str | None = None) -> dg.DagsterRun:
        """Its run, as the daemon creates it, started and not yet ended; or a run's repetition."""
        job = self.defs.resolve_job_def("daily_data")
        return self.instance.create_run_for_job(
            job,
            tags=request.tags,
            status=dg.DagsterRunStatus.STARTED,
            root_run_id=repeats,
            parent_run_id=repeats,
        )

    def end(self, run: dg.DagsterRun, *, well: bool = True) -> None:
        event = dg.DagsterEventType.RUN_SUCCESS if well else dg.DagsterEventType.RUN_FAILURE
        ended = dg.DagsterEvent(event.value, job_name=run.job_name)
        self.instance.report_dagster_event(ended, run.run_id)

    def land(self) -> list[str]:
        """Tick and end runs until there is nothing to do; the days in order."""
        landed = []
        while requests := self.tick():
            for request in requests:
                self.end(self.start(request))
                landed.append(str(request.partition_key))
        return landed


@pytest.fixture
def streaming(logged: Settings, dev_broker: DevBrokerService) -> Settings:
    """The small world, from the second day on out of the log of a running broker."""
    return logged.model_copy(update={"kafka_bootstrap": dev_broker.address})


@pytest.fixture
def sensor(streaming: Settings, instance: dg.DagsterInstance) -> Sensor:
    return Sensor(streaming, instance)


def test_the_sensor_is_there_and_on_when_days_come_from_the_log(
    small: Settings, logged: Settings
) -> None:
    assert "log_landing" not in {sensor.name for sensor in build_defs(small).sensors or ()}
    sensor = build_defs(logged).resolve_sensor_def("log_landing")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING


def test_each_day_with_new_rows_is_landed_once_oldest_first(
    streaming: Settings, sensor: Sensor
) -> None:
    assert sensor.days() == []
    sink(streaming, VIEWS, simulated(streaming, VIEWS, THIRD))
    sink(streaming, VIEWS, simulated(streaming, VIEWS, SECOND))
    (request,) = sensor.tick()
    assert request.partition_key == SECOND
    assert [event.asset_key.path for event in sensor.observed] == [["log", "views"]]
    started = sensor.start(request)
    for _ in range(2):
        assert sensor.days() == []
        assert started.run_id in str(sensor.skipped)
        assert not sensor.observed
    sensor.end(started)
    assert sensor.land() == [THIRD]
    assert sensor.days() == []
    assert sensor.skipped == "nothing has landed since"


def test_rows_that_land_while_a_day_is_landed_are_not_forgotten(
    streaming: Settings, sensor: Sensor
) -> None:
    rows = simulated(streaming, VIEWS, SECOND)
    sink(streaming, VIEWS, rows.slice(0, 5))
    (request,) = sensor.tick()
    started = sensor.start(request)
    sink(streaming, VIEWS, rows.slice(5))
    assert sensor.days() == []
    sensor.end(started)
    (again,) = sensor.tick()
    assert again.partition_key == SECOND
    assert again.run_key != request.run_key


def test_a_log_that_began_anew_is_landed_from_its_start(
    streaming: Settings, sensor: Sensor
) -> None:
    sink(streaming, VIEWS, simulated(streaming, VIEWS, SECOND))
    assert sensor.land() == [SECOND]
    blobs = lake_of(streaming).blobs
    for key in blobs.list("log/"):
        blobs.delete(key)
    sink(streaming, VIEWS, simulated(streaming, VIEWS, THIRD).slice(0, 1))
    assert sensor.land() == [THIRD]


def test_a_run_of_somebody_else_on_the_day_or_before_is_waited_for(
    streaming: Settings, sensor: Sensor
) -> None:
    sink(streaming, VIEWS, simulated(streaming, VIEWS, THIRD))
    theirs = {f"dagster/asset_partition_range_{end}": SECOND for end in ("start", "end")}
    backfill = sensor.start(dg.RunRequest(tags=theirs))
    sensor.start(dg.RunRequest(tags={"dagster/partition": "2026-01-04"}))
    assert sensor.days() == []
    sensor.end(backfill)
    assert sensor.days() == [THIRD]


def test_late_rows_reopen_their_day_and_those_landed_after_it(
    streaming: Settings, sensor: Sensor
) -> None:
    late = simulated(streaming, TRANSACTIONS, SECOND)
    sink(streaming, TRANSACTIONS, late.slice(1))
    sink_day(streaming, THIRD)
    assert sensor.land() == [SECOND, THIRD]
    run(streaming, [["raw", "transactions"]], days=(SECOND, THIRD))
    sink(streaming, TRANSACTIONS, late.slice(0, 1), partition=1)
    assert sensor.land() == [SECOND, THIRD]


def test_a_day_that_fails_is_tried_again_and_then_holds_back_later_ones(
    streaming: Settings, sensor: Sensor
) -> None:
    rows = simulated(streaming, VIEWS, SECOND)
    sink(streaming, VIEWS, rows.slice(1))
    sink(streaming, VIEWS, simulated(streaming, VIEWS, THIRD))
    keys = set()
    for _ in range(ATTEMPTS):
        (request,) = sensor.tick()
        assert request.partition_key == SECOND
        keys.add(request.run_key)
        failed = sensor.start(request)
        sensor.end(failed, well=False)
    assert len(keys) == ATTEMPTS
    assert sensor.days() == []
    assert failed.run_id in str(sensor.skipped)
    # Somebody mends it and re-executes the run, which keeps its tags.
    sensor.end(sensor.start(request))
    assert sensor.days() == [THIRD]


def test_a_run_that_dagster_repeats_after_a_crash_is_one_attempt(
    streaming: Settings, sensor: Sensor
) -> None:
    sink(streaming, VIEWS, simulated(streaming, VIEWS, SECOND))
    for attempt in range(1, ATTEMPTS + 1):
        (request,) = sensor.tick()
        assert str(request.run_key).endswith(f":{attempt}")
        killed = sensor.start(request)
        sensor.instance.add_run_tags(killed.run_id, {"dagster/will_retry": "true"})
        sensor.end(killed, well=False)
        assert sensor.days() == []
        assert f"waits: Dagster is about to repeat run {killed.run_id}" in str(sensor.skipped)
        again = sensor.start(request, repeats=killed.run_id)
        sensor.instance.add_run_tags(killed.run_id, {"dagster/auto_retry_run_id": again.run_id})
        assert sensor.days() == []
        assert again.run_id in str(sensor.skipped)
        sensor.end(again, well=False)
    assert sensor.days() == []
    assert f"was not landed in {ATTEMPTS} attempts" in str(sensor.skipped)


def test_a_day_is_landed_when_it_is_over_and_none_before_the_log_feeds_it(
    streaming: Settings, sensor: Sensor
) -> None:
    sink(streaming, VIEWS, simulated(streaming, VIEWS, FIRST))
    today = VIEWS.schema.names.index("known_ts")
    rows = simulated(streaming, VIEWS, SECOND).slice(0, 1)
    now_us = time.time_ns() // 1_000
    sink(streaming, VIEWS, rows.set_column(today, VIEWS.schema.field(today), [[now_us]]))
    assert sensor.days() == []
    assert "when it is over" in str(sensor.skipped)
    assert list(LandingCursor.parse(sensor.cursor).waiting) == [str(day_of(now_us))]


def test_a_day_goes_from_the_log_to_features_and_its_logged_vectors_are_compared(
    streaming: Settings, sensor: Sensor, instance: dg.DagsterInstance
) -> None:
    job = sensor.defs.resolve_job_def("daily_data")

    def land_next() -> dict[str, dg.AssetCheckEvaluation]:
        (request,) = sensor.tick()
        done = job.execute_in_process(instance=instance, tags=dict(request.tags))
        checks = done.get_asset_check_evaluations()
        return {f"{c.asset_key.path[-1]} {c.check_name}": c for c in checks}

    sink_day(streaming, SECOND)
    without_vectors = land_next()
    assert all(check.passed for check in without_vectors.values())
    assert sensor.days() == []
    lake = lake_of(streaming)
    orders = lake.read("facts/transactions", [SECOND]).num_rows
    assert orders > 5
    for view in FEATURE_VIEWS:
        assert lake.read(feature_table(view), [SECOND]).num_rows == orders

    assert sink_vectors(streaming, SECOND) == orders
    sink_vectors(streaming, SECOND, leave_out=2)
    with_vectors = land_next()
    assert all(check.passed for check in with_vectors.values())
    assert with_vectors["feature_skew no_skew"].metadata["vectors"].value == orders
    assert lake.read("raw/feature_log", [SECOND]).num_rows == orders
