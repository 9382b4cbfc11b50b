"""The flows and their schedules: what each asks for at its tick, and how often it tries."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest

from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.features.spec import SOURCES
from ibook_assets.core.monitoring.signals import SIGNALS
from ibook_assets.core.settings import Settings
from ibook_assets.definitions import build_defs
from ibook_assets.defs.hourly import HOURLY, HOURLY_FEATURES
from ibook_assets.defs.resources import LakeResource
from ibook_assets.defs.schedules import DAILY_DATA
from ibook_assets.defs.signals import check_name
from ibook_assets.stores.feature_days import feature_table, featured_days


@pytest.mark.parametrize(
    ("variable", "asset"),
    [
        ("AIRFLOW_TASK_RETRIES", ("raw", "transactions")),
        ("FEATURE_ENGINEERING_PIPELINE_RETRIES", ("features", "order_context")),
        ("MODEL_TRAINING_PIPELINE_RETRIES", ("fraud", "model")),
        ("ML_MONITORING_PIPELINE_RETRIES", ("fraud", "feature_drift")),
        ("ML_MONITORING_PIPELINE_RETRIES", ("fraud", "fraud_rate")),
        ("ML_MONITORING_PIPELINE_RETRIES", ("experiments", "summary")),
        ("IBOOK_ML_MONITORING_RETRIES", ("fraud", "performance")),
    ],
)
def test_retries_follow_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, asset: tuple[str, ...]
) -> None:
    monkeypatch.setenv(variable, "7")
    defs = build_defs(Settings(home=tmp_path))
    policy = defs.resolve_assets_def(dg.AssetKey(asset)).op.retry_policy
    assert policy is not None
    assert policy.max_retries == 7


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A real instance: SQLite on disk."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as found:
        yield found


class Hours:
    """A small platform whose hourly schedule is ticked by hand, and whose runs are executed."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance) -> None:
        self.settings = settings
        self.instance = instance
        self.defs = build_defs(settings)
        self.lake = LakeResource(uri=settings.lake)

    def materialise(self, first: str, last: str) -> None:
        """Somebody makes those days, and the catalogue, by hand."""
        daily = dg.AssetSelection.groups("raw", "facts", "features") - dg.AssetSelection.assets(
            ["raw", "predictions"], ["raw", "experiment_outcomes"]
        )
        keys = daily.resolve(self.defs.resolve_asset_graph())
        job = self.defs.resolve_implicit_job_def_def_for_assets(list(keys))
        assert job is not None
        job.execute_in_process(
            asset_selection=list(keys),
            tags={
                "dagster/asset_partition_range_start": first,
                "dagster/asset_partition_range_end": last,
            },
            instance=self.instance,
        )

    def has_days(self, *days: str) -> None:
        """The lake has those days: facts and features, made by somebody else."""
        rows = pa.table({"transaction_id": pa.array([1])})
        tables = [f"facts/{name}" for name in SOURCES] + [feature_table(v) for v in FEATURE_VIEWS]
        for table in tables:
            for day in days:
                self.lake.tables.write(table, day, rows)

    def published(self, snapshot: dg.AssetKey, as_of: datetime) -> None:
        """The snapshot was published with all facts up to that time."""
        metadata = {"as_of": dg.MetadataValue.timestamp(as_of.timestamp())}
        self.instance.report_runless_asset_event(
            dg.AssetMaterialization(asset_key=snapshot, metadata=metadata)
        )

    def context(self, moment: datetime) -> dg.ScheduleEvaluationContext:
        return dg.build_schedule_context(
            instance=self.instance,
            scheduled_execution_time=moment,
            resources={"lake": self.lake},
            repository_def=self.defs.get_repository_def(),
        )

    def tick(self, moment: datetime) -> dg.RunRequest | str:
        """The run that the schedule asks for at that time, or why it asks for none."""
        schedule = self.defs.resolve_schedule_def(HOURLY_FEATURES)
        # Left open, its instance would be that of whatever is built next.
        with self.context(moment) as context:
            found = schedule.evaluate_tick(context)
        if found.run_requests:
            (request,) = found.run_requests
            return request
        return found.skip_message or ""

    def run(self, request: dg.RunRequest) -> None:
        """Execute what was asked for."""
        job = self.defs.resolve_job_def(HOURLY_FEATURES)
        done = job.execute_in_process(
            partition_key=request.partition_key,
            asset_selection=None if request.asset_selection is None else [*request.asset_selection],
            tags=dict(request.tags),
            instance=self.instance,
        )
        assert done.success

    def begin(
        self,
        job: str,
        tags: dict[str, str],
        status: dg.DagsterRunStatus,
        *,
        repeats: str | None = None,
    ) -> str:
        """A run with those tags is in that state; `repeats` is the run that it is again."""
        run = self.instance.create_run_for_job(
            self.defs.resolve_job_def(job),
            tags=tags,
            status=status,
            root_run_id=repeats,
            parent_run_id=repeats,
        )
        return run.run_id


@pytest.fixture
def hours(small: Settings, instance: dg.DagsterInstance) -> Hours:
    return Hours(small, instance)


def test_hours_make_up_for_missing_days_and_publish_them(hours: Hours) -> None:
    assert "materialise the first days" in str(hours.tick(datetime(2026, 1, 3, 1, 20, tzinfo=UTC)))
    hours.materialise("2026-01-01", "2026-01-01")
    asked = hours.tick(datetime(2026, 1, 3, 1, 20, tzinfo=UTC))
    assert isinstance(asked, dg.RunRequest)
    assert (asked.partition_key, asked.tags[HOURLY]) == ("2026-01-02", "2026-01-02")
    hours.run(asked)
    assert featured_days(hours.lake.tables) == ["2026-01-01", "2026-01-02"]
    # The snapshot was published in the same run: nothing is left to do until the day is over.
    assert "serving has its facts" in str(hours.tick(datetime(2026, 1, 3, 2, 20, tzinfo=UTC)))
    assert "serving has its facts" in str(hours.tick(datetime(2026, 1, 3, 23, 20, tzinfo=UTC)))
    later = hours.tick(datetime(2026, 1, 4, 0, 20, tzinfo=UTC))
    assert isinstance(later, dg.RunRequest)
    assert later.partition_key == "2026-01-03"


def test_facts_that_came_otherwise_are_published(hours: Hours) -> None:
    hours.has_days("2026-01-01", "2026-01-02")
    snapshot = dg.AssetKey(["serving", "online_snapshot"])
    for published in (None, datetime(2026, 1, 2, tzinfo=UTC)):
        if published is not None:
            hours.published(snapshot, published)
        asked = hours.tick(datetime(2026, 1, 3, 1, 20, tzinfo=UTC))
        assert isinstance(asked, dg.RunRequest)
        assert asked.asset_selection == [snapshot]
    hours.published(snapshot, datetime(2026, 1, 3, tzinfo=UTC))
    assert "serving has its facts" in str(hours.tick(datetime(2026, 1, 3, 2, 20, tzinfo=UTC)))


def test_a_day_that_fails_is_tried_three_times_and_holds_up_later_ones(hours: Hours) -> None:
    hours.has_days("2026-01-01", "2026-01-03")
    keys = set()
    for hour in range(3):
        asked = hours.tick(datetime(2026, 1, 9, hour, 20, tzinfo=UTC))
        assert isinstance(asked, dg.RunRequest)
        assert asked.partition_key == "2026-01-02"
        keys.add(asked.run_key)
        run_id = hours.begin(HOURLY_FEATURES, {**asked.tags}, dg.DagsterRunStatus.FAILURE)
    assert len(keys) == 3
    assert run_id in str(hours.tick(datetime(2026, 1, 9, 4, 20, tzinfo=UTC)))


def test_a_run_that_dagster_repeats_after_a_crash_is_one_attempt(hours: Hours) -> None:
    hours.has_days("2026-01-01", "2026-01-03")
    first = hours.tick(datetime(2026, 1, 9, 1, 20, tzinfo=UTC))
    assert isinstance(first, dg.RunRequest)
    tags, failed = {**first.tags}, dg.DagsterRunStatus.FAILURE
    killed = hours.begin(HOURLY_FEATURES, {**tags, "dagster/will_retry": "true"}, failed)
    told = hours.tick(datetime(2026, 1, 9, 2, 20, tzinfo=UTC))
    assert told == f"2026-01-02 waits: Dagster is about to repeat run {killed}"
    for _ in range(2):
        again = hours.begin(HOURLY_FEATURES, tags, failed, repeats=killed)
        hours.instance.add_run_tags(killed, {"dagster/auto_retry_run_id": again})
    asked = hours.tick(datetime(2026, 1, 9, 3, 20, tzinfo=UTC))
    assert isinstance(asked, dg.RunRequest)
    assert asked.run_key == "2026-01-02#2"


def test_a_snapshot_that_fails_is_tried_three_times(hours: Hours) -> None:
    hours.has_days("2026-01-01", "2026-01-02")
    keys = set()
    for hour in range(3):
        asked = hours.tick(datetime(2026, 1, 3, hour, 20, tzinfo=UTC))
        assert isinstance(asked, dg.RunRequest)
        keys.add(asked.run_key)
        run_id = hours.begin(HOURLY_FEATURES, {**asked.tags}, dg.DagsterRunStatus.FAILURE)
    assert len(keys) == 3
    assert run_id in str(hours.tick(datetime(2026, 1, 3, 4, 20, tzinfo=UTC)))


def test_a_snapshot_that_is_being_published_is_waited_for(hours: Hours) -> None:
    hours.has_days("2026-01-01", "2026-01-02")
    asked = hours.tick(datetime(2026, 1, 3, 1, 20, tzinfo=UTC))
    assert isinstance(asked, dg.RunRequest)
    run_id = hours.begin(HOURLY_FEATURES, {**asked.tags}, dg.DagsterRunStatus.STARTED)
    told = hours.tick(datetime(2026, 1, 3, 2, 20, tzinfo=UTC))
    assert told == f"the snapshot of 2026-01-02 waits for run {run_id}"


@pytest.mark.parametrize(
    "tags",
    [
        {"dagster/partition": "2026-01-02"},
        {
            "dagster/asset_partition_range_start": "2026-01-01",
            "dagster/asset_partition_range_end": "2026-01-05",
        },
    ],
    ids=["day", "range"],
)
def test_a_run_that_writes_the_day_is_waited_for(hours: Hours, tags: dict[str, str]) -> None:
    hours.has_days("2026-01-01")
    run_id = hours.begin(DAILY_DATA, tags, dg.DagsterRunStatus.STARTED)
    told = hours.tick(datetime(2026, 1, 9, 1, 20, tzinfo=UTC))
    assert told == f"2026-01-02 waits for run {run_id}"


def test_the_logs_days_are_its_sensors(logged: Settings, instance: dg.DagsterInstance) -> None:
    hours = Hours(logged, instance)
    hours.has_days("2026-01-01")
    asked = hours.tick(datetime(2026, 1, 9, 1, 20, tzinfo=UTC))
    assert isinstance(asked, dg.RunRequest)
    assert asked.partition_key is None


@pytest.mark.parametrize(
    ("schedule", "cron", "moment"),
    [
        ("daily_data", "15 0 * * *", datetime(2026, 1, 9, 0, 15, tzinfo=UTC)),
        ("daily_drift_monitoring", "30 1 * * *", datetime(2026, 1, 9, 1, 30, tzinfo=UTC)),
        ("daily_publication", "0 1 * * *", datetime(2026, 1, 9, 1, 0, tzinfo=UTC)),
        ("daily_catalogue", "5 0 * * *", datetime(2026, 1, 9, 0, 5, tzinfo=UTC)),
        ("weekly_training", "0 2 * * 0", datetime(2026, 1, 11, 2, 0, tzinfo=UTC)),
    ],
)
# Dagster's own schedules of partitioned jobs still call what it has deprecated.
@pytest.mark.filterwarnings("ignore:Function `JobDefinition.run_request_for_partition`")
def test_schedules_ask_for_the_day_that_is_over(
    hours: Hours, schedule: str, cron: str, moment: datetime
) -> None:
    found = hours.defs.resolve_schedule_def(schedule)
    assert found.cron_schedule == cron
    with hours.context(moment) as context:
        (request,) = found.evaluate_tick(context).run_requests or ()
    by_day = schedule in {"daily_data", "daily_drift_monitoring"}
    assert request.partition_key == ("2026-01-08" if by_day else None)


def test_every_check_that_raises_an_alert_has_its_runbook(small: Settings) -> None:
    sensors = {"no_drift", *(check_name(name) for name in SIGNALS)}
    loud = {check_name(n) for n, s in SIGNALS.items() if s.consequence in {"block", "alert"}}
    checks = {
        key.name
        for key in build_defs(small).resolve_asset_graph().asset_check_keys
        if key.asset_key.path[0] != "simulation" and key.name not in sensors | {"gate"}
    }
    text = (Path(__file__).parents[2] / "docs" / "runbooks.md").read_text()
    assert {name for name in checks | loud if f"| `{name}` |" not in text} == set()


def test_every_flow_of_the_documents_is_there(small: Settings) -> None:
    defs = build_defs(small)
    repository = defs.get_repository_def()
    named = {s.name for s in repository.schedule_defs} | {s.name for s in repository.sensor_defs}
    text = (Path(__file__).parents[2] / "docs" / "flows.md").read_text()
    first, _, _ = text.partition("\n## ")
    table = [line.split("|") for line in first.splitlines() if line.startswith("| `")]
    told = {name for row in table for name in re.findall(r"`(\w+)`", row[2])}
    # Landing the log's days is switched on by a setting, so the small platform has no sensor of it.
    assert told - {"log_landing"} == named - {"log_landing"}
    jobs = {job.name for job in repository.get_all_jobs()}
    assert {name for row in table for name in re.findall(r"`(\w+)`", row[3])} <= jobs
