"""Alerts of the graph: one sensor raises them into the outbox, another delivers it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ibook_assets.core.alerts import Alert, Destination, Kind, named, parse_destinations
from ibook_assets.core.canonical import sha256_hex
from ibook_assets.core.errors import ContractError
from ibook_assets.core.monitoring.episodes import EpisodeCursor
from ibook_assets.core.rollout_log import Standing
from ibook_assets.core.settings import Settings
from ibook_assets.core.use_cases import USE_CASES
from ibook_assets.defs.alert_outcomes import (
    damaged_log,
    given_up,
    rejected,
    rejection,
    stalled,
)
from ibook_assets.defs.alert_sources import MAX_AGE, Alerts, RunEnd, resolved
from ibook_assets.defs.metadata import records
from ibook_assets.defs.partitions import ML_PLATFORM, MONITORING
from ibook_assets.defs.resources import LakeResource
from ibook_assets.defs.server_watch import server_watch
from ibook_assets.stores.alerting import AlertOutbox, Entry
from ibook_assets.stores.promotions import PromotionLog
from ibook_assets.stores.rollouts import Rollouts

ALERTS: Final = dg.AssetKey([MONITORING, "alerts"])

SECONDS_BETWEEN: Final = 30
DELIVERY_SECONDS: Final = 20.0
"""What one tick spends on sending; Dagster allows it 60."""
ROWS_SHOWN: Final = 50

_OVER: Final[Mapping[Kind, str]] = {
    "refused-artefact": "Its files are whole again, or it is not to serve any more.",
    "retraining": (
        "A training run or a rollout is on its way, another model serves, or the drift is over."
    ),
    "stalled-rollout": "The rollout goes on, or is over.",
    "damaged-log": "Both logs can be read again.",
}
"""Kinds that stand as long as they are found, and what is said when they are not any more."""

Clock = Callable[[], datetime]


def _utc_now() -> datetime:
    return datetime.now(UTC)


class AlertCursor(BaseModel):
    """How far the graph has been read for alerts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    failed: int = 0
    """Event of the last failed run that was read."""
    succeeded: int = 0
    """Event of the last successful run whose checks were read."""
    drift: dict[str, EpisodeCursor] = Field(default_factory=dict)
    promotions: dict[str, int] = Field(default_factory=dict)
    """Last entry read of each use case's log."""
    rollouts: dict[str, int] = Field(default_factory=dict)
    """The same of the rollouts' logs."""

    @classmethod
    def parse(cls, text: str | None) -> "AlertCursor":
        """The cursor stored as `text`; the beginning when there is none or it cannot be read.

        Reading again makes the same alerts, which the outbox knows.
        """
        try:
            return cls.model_validate_json(text) if text else cls()
        except ValidationError:
            return cls()


def alert_assets() -> list[dg.AssetSpec]:
    """What stands for the outbox: its state is observed by the delivery sensor."""
    return [
        dg.AssetSpec(
            ALERTS,
            group_name=MONITORING,
            owners=[ML_PLATFORM],
            kinds={"json"},
            description=(
                "Alerts that are open or could not be delivered. Observed whenever that changes; "
                "`ibook alerts list` shows all."
            ),
        )
    ]


def alert_sensors(settings: Settings, *, clock: Clock = _utc_now) -> list[dg.SensorDefinition]:
    """The two sensors that raise alerts and the one that delivers them; `clock` tells UTC time."""
    destinations = parse_destinations(settings.alert_webhooks, settings.pagerduty_routing_key)
    return [
        _raising(settings, destinations, clock),
        server_watch(settings, destinations, clock),
        _delivering(destinations, clock),
    ]


def _raising(
    settings: Settings, destinations: Sequence[Destination], clock: Clock
) -> dg.SensorDefinition:
    @dg.sensor(
        name="alerts",
        minimum_interval_seconds=SECONDS_BETWEEN,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Raises alerts: drift that begins and ends, failed runs and checks, retraining that "
            "has given up, rollouts that stall, promotions, rollbacks, rejected models, artefacts "
            "that servers must refuse. Stores them for `alert_delivery`."
        ),
    )
    def alerts(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult:
        tick = _Tick(context.instance, lake, destinations, settings, clock())
        cursor = tick.after(AlertCursor.parse(context.cursor))
        return dg.SensorResult(
            skip_reason=f"{tick.raised} alerts raised", cursor=cursor.model_dump_json()
        )

    return alerts


class _Tick:
    """One look at everything that alerts are raised of."""

    def __init__(
        self,
        instance: dg.DagsterInstance,
        lake: LakeResource,
        destinations: Sequence[Destination],
        settings: Settings,
        now: datetime,
    ) -> None:
        self._instance = instance
        self._lake = lake
        self._destinations = destinations
        self._now = now
        self._attempts = settings.retraining_attempts
        self._alerts = Alerts(settings.runbooks_url)
        self._outbox = AlertOutbox(lake.blobs)
        self._rollouts = Rollouts(lake.blobs)
        self._standings: dict[str, Standing | None] = {}
        self._damaged: dict[str, ContractError] = {}
        """Use cases whose logs cannot be read: of those nothing that is in them is told."""
        self.raised = 0

    def after(self, before: AlertCursor) -> AlertCursor:
        """Raise what is new; the cursor to go on from, stored after the alerts are."""
        # Failures first: what succeeded since may end what they began.
        failed = self._runs(dg.DagsterEventType.RUN_FAILURE, before.failed)
        succeeded = self._runs(dg.DagsterEventType.RUN_SUCCESS, before.succeeded)
        drift, promotions = dict(before.drift), dict(before.promotions)
        rollouts = dict(before.rollouts)
        for name, use_case in USE_CASES.items():
            seen = drift.get(name, EpisodeCursor())
            drift[name], found = self._alerts.drift(self._instance, use_case, seen, now=self._now)
            for alert in found:
                self._raise(alert)
            try:
                promotions[name] = self._promotions(name, promotions.get(name, 0))
                rollouts[name] = self._rejections(name, rollouts.get(name, 0))
                self._standings[name] = self._rollouts.standing(name)
            except ContractError as error:
                self._damaged[name] = error
        self._close(drift)
        return AlertCursor(
            failed=failed,
            succeeded=succeeded,
            drift=drift,
            promotions=promotions,
            rollouts=rollouts,
        )

    def _runs(self, end: RunEnd, last: int) -> int:
        found = self._alerts.ended_runs(self._instance, end, after=last, now=self._now)
        for storage_id, alerts in found:
            for alert in alerts:
                self._raise(alert)
            last = storage_id
        return last

    def _raise(self, alert: Alert | None) -> None:
        if alert is not None and self._outbox.record(alert, self._destinations):
            self.raised += 1

    def _promotions(self, use_case: str, known: int) -> int:
        log: PromotionLog = self._lake.promotions
        newest = log.current(use_case)
        if newest is None:
            return known
        if newest.sequence > known:
            # Taking a rejected shadow away is told by its rejection.
            told = {e.tag for e in rejected(self._rollouts.history(use_case))}
            for record in log.history(use_case)[known:]:
                if self._now - record.promoted_at < MAX_AGE and record.actor not in told:
                    self._raise(self._alerts.promotion(record))
        return newest.sequence

    def _rejections(self, use_case: str, known: int) -> int:
        newest = self._rollouts.newest(use_case)
        if newest is None or newest.sequence <= known:
            return known
        for entry in rejected(self._rollouts.history(use_case)[known:]):
            if self._now - entry.at < MAX_AGE:
                self._raise(rejection(self._alerts, entry))
        return newest.sequence

    def _close(self, drift: Mapping[str, EpisodeCursor]) -> None:
        """Raise what stands without an event of its own, and resolve what is over."""
        standing = {alert.dedup_key: alert for alert in self._standing(drift)}
        for alert in self._outbox.open_alerts():
            if alert.kind in ("run", "training"):
                self._raise(self._alerts.recovered_run(self._instance, alert))
            elif self._over(alert) and alert.dedup_key not in standing:
                summary = _OVER[alert.kind]
                over = resolved(alert, summary=summary, event=alert.id, at=self._now)
                self._raise(over)
        for alert in standing.values():
            self._raise(alert)

    def _over(self, alert: Alert) -> bool:
        """Whether an open alert ends when it is not found any more."""
        unread = alert.kind != "damaged-log" and alert.subject in self._damaged
        return alert.kind in _OVER and not unread

    def _standing(self, drift: Mapping[str, EpisodeCursor]) -> Iterator[Alert]:
        for name, error in self._damaged.items():
            yield damaged_log(self._alerts, name, error, now=self._now)
        for name, standing in self._standings.items():
            use_case = USE_CASES[name]
            record = self._lake.promotions.current(name)
            if record is not None:
                yield from self._alerts.refused_artefacts(self._lake.blobs, record, now=self._now)
            stopped = given_up(
                self._alerts,
                self._instance,
                use_case,
                drift[name].episode,
                standing,
                champion=None if record is None else record.model_version,
                attempts=self._attempts,
                now=self._now,
            )
            waiting = stalled(self._alerts, self._instance, use_case, standing, now=self._now)
            yield from filter(None, (stopped, waiting))


def _delivering(destinations: Sequence[Destination], clock: Clock) -> dg.SensorDefinition:
    @dg.sensor(
        name="alert_delivery",
        minimum_interval_seconds=SECONDS_BETWEEN,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Sends stored alerts to their destinations, again after a pause where that fails, and "
            "shows in `monitoring/alerts` what is open or undelivered."
        ),
    )
    def alert_delivery(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult:
        outbox = AlertOutbox(lake.blobs, clock=clock)
        delivered = outbox.deliver(destinations, seconds=DELIVERY_SECONDS)
        shown = outbox.entries(unsettled=True)
        state = _state(shown, destinations)
        undelivered = sum(len(entry.undelivered) for entry in shown)
        return dg.SensorResult(
            skip_reason=f"{delivered} deliveries made, {undelivered} missing",
            cursor=state,
            # An observation of the same state every half minute would bury the others.
            asset_events=[] if state == context.cursor else [_observation(shown, destinations)],
        )

    return alert_delivery


def _state(shown: Sequence[Entry], destinations: Sequence[Destination]) -> str:
    told = [
        (entry.alert.id, entry.open, [(n, d.state, d.answer) for n, d in entry.undelivered.items()])
        for entry in shown
    ]
    return sha256_hex(repr((told, named(destinations))).encode())


def _observation(
    shown: Sequence[Entry], destinations: Sequence[Destination]
) -> dg.AssetObservation:
    undelivered = [delivery for entry in shown for delivery in entry.undelivered.values()]
    metadata: dict[str, dg.MetadataValue | int | str] = {
        "open": sum(entry.open for entry in shown),
        "waiting": sum(delivery.state == "waiting" for delivery in undelivered),
        "refused": sum(delivery.state == "refused" for delivery in undelivered),
        "given_up": sum(delivery.state == "given_up" for delivery in undelivered),
        "destinations": named(destinations),
    }
    if shown:
        metadata["alerts"] = records(map(_row, shown[:ROWS_SHOWN]))
    return dg.AssetObservation(ALERTS, metadata=metadata)


def _row(entry: Entry) -> dict[str, str | bool]:
    alert = entry.alert
    return {
        "at": f"{alert.at:%Y-%m-%d %H:%M:%S} UTC",
        "severity": alert.severity,
        "kind": alert.kind,
        "subject": alert.subject,
        "open": entry.open,
        "summary": alert.summary,
        "undelivered": "; ".join(
            f"{name} {delivery.state} after {delivery.attempts}: {delivery.answer}"
            for name, delivery in entry.undelivered.items()
        ),
        "runbook": alert.runbook_url,
    }
