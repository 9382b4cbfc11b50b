"""A platform whose alert sensors are ticked by hand, for real stores and a real receiver."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta

import dagster as dg
from pydantic import SecretStr

from ibook_assets.core.monitoring.signals import SignalName
from ibook_assets.core.settings import Settings
from ibook_assets.defs.alerting import alert_sensors
from ibook_assets.defs.resources import LakeResource
from ibook_assets.defs.retraining import TRAINING_JOB
from ibook_assets.defs.schedules import DAILY_DATA
from ibook_assets.stores.alerting import AlertOutbox
from tests.defs.drift_records import report_drift, report_signal
from tests.services.receiver import Receiver

SKEW = dg.AssetKey(["monitoring", "feature_skew"])


@dg.op
def nothing() -> None:
    """A step of a job that only its name matters of."""


JOBS = {
    name: dg.GraphDefinition(name=name, node_defs=[nothing]).to_job()
    for name in (TRAINING_JOB, DAILY_DATA)
}
"""Jobs of the platform's names: building the platform's own takes seconds."""


class Platform:
    """A platform whose alert sensors are ticked by hand, with a clock that can be put forward."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance, url: str) -> None:
        webhooks = SecretStr(f"ops=generic:{url}/hook")
        self.settings = settings.model_copy(update={"alert_webhooks": webhooks})
        self.instance = instance
        self.lake = LakeResource(uri=self.settings.lake)
        self.ahead = timedelta(0)
        self.cursors: dict[str, str | None] = {}
        sensors = alert_sensors(self.settings, clock=self.clock)
        self.sensors = {sensor.name: sensor for sensor in sensors}

    def clock(self) -> datetime:
        """The time, as far ahead as somebody has put it."""
        return datetime.now(UTC) + self.ahead

    def tick(self, name: str, *, remember: bool = True) -> dg.SensorResult:
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursors.get(name),
            resources={"lake": self.lake},
        )
        found = self.sensors[name](context)
        assert isinstance(found, dg.SensorResult)
        if remember:
            self.cursors[name] = found.cursor
        return found

    def ticks(self) -> dg.AssetObservation | None:
        """Both sensors once; what they show of `monitoring/alerts`, if that changed."""
        self.tick("alerts")
        events = self.tick("alert_delivery").asset_events
        (shown,) = events or (None,)
        assert shown is None or isinstance(shown, dg.AssetObservation)
        return shown

    @property
    def outbox(self) -> AlertOutbox:
        return AlertOutbox(self.lake.blobs)

    def drift(self, day: str, score: float, *, champion: str = "v1") -> None:
        report_drift(self.instance, day, score, champion=champion)

    def signal(self, day: str, name: SignalName, *, state: str) -> None:
        report_signal(self.instance, name, day, state=state, confirmed=state == "drifted")

    def start(self, job: str, *, tags: Mapping[str, str] | None = None) -> str:
        """A run of that job that goes on; its id."""
        run = self.instance.create_run_for_job(
            JOBS[job], tags=dict(tags or {}), status=dg.DagsterRunStatus.STARTED
        )
        return run.run_id

    def run(self, job: str, *, well: bool, tags: Mapping[str, str] | None = None) -> str:
        """A run of that job that has ended; its id."""
        run_id = self.start(job, tags=tags)
        kind = dg.DagsterEventType.RUN_SUCCESS if well else dg.DagsterEventType.RUN_FAILURE
        self.instance.report_dagster_event(dg.DagsterEvent(kind.value, job_name=job), run_id)
        return run_id

    def check(
        self,
        day: str,
        *,
        passed: bool,
        asset: dg.AssetKey = SKEW,
        name: str = "no_skew",
        severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
    ) -> None:
        """A check is evaluated in a real run of a day."""

        @dg.asset(
            key=asset,
            check_specs=[dg.AssetCheckSpec(name, asset=asset)],
            partitions_def=dg.DailyPartitionsDefinition("2026-01-01"),
        )
        def judged() -> Iterator[dg.MaterializeResult[None]]:
            result = dg.AssetCheckResult(
                passed=passed, check_name=name, severity=severity, metadata={"mismatches": 3}
            )
            yield dg.MaterializeResult(check_results=[result])

        dg.materialize([judged], instance=self.instance, partition_key=day)


def told(receiver: Receiver) -> list[tuple[str, str, str]]:
    return [(body["kind"], body["status"], body["dedup_key"]) for body in receiver.bodies]
