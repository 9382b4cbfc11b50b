"""What the graph knows that somebody should: events and records, as alerts.

Each reads what is new since a place it is told and names what happened in the alert's key and
event, so that reading it again is no news to the outbox.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import dagster as dg
from dagster._core.storage.tags import WILL_RETRY_TAG

from ibook_assets.core.alerts import Alert, Kind, Severity, Status, Value, runbook_url
from ibook_assets.core.errors import ContractError
from ibook_assets.core.monitoring.episodes import Episode, EpisodeCursor, Observation
from ibook_assets.core.monitoring.signals import SIGNALS
from ibook_assets.core.promotion import PromotionRecord
from ibook_assets.core.use_cases import UseCase
from ibook_assets.defs.partitions import SIMULATION
from ibook_assets.defs.raw import NOTHING_QUARANTINED
from ibook_assets.defs.retraining import TRAINING_JOB, all_observations
from ibook_assets.defs.signals import check_name
from ibook_assets.stores.artefacts import load_artefact
from ibook_assets.stores.blobs import Blobs

READ_AT_ONCE: Final = 200
"""Events of a kind that one tick reads."""
MAX_AGE: Final = timedelta(days=7)
"""What happened before is no news, when nobody has looked for so long."""

_WARNED: Final = frozenset({NOTHING_QUARANTINED})
"""Checks that warn and of which somebody should know nevertheless: rows were refused."""

_OF_NOW: Final = frozenset(check_name(name) for name in SIGNALS)
"""Checks of how things stand, which the next day's settle; others are about the rows of a day."""

_DAY_TAG: Final = "dagster/partition"
_FIRST_DAY_TAG: Final = "dagster/asset_partition_range_start"
_LAST_DAY_TAG: Final = "dagster/asset_partition_range_end"
_STARTED_BY: Final = frozenset(
    {
        "dagster/backfill",
        "dagster/from_automation_condition",
        "dagster/schedule_name",
        "dagster/sensor_name",
    }
)
"""Tags of runs that nobody started by hand."""


RunEnd = Literal[dg.DagsterEventType.RUN_SUCCESS, dg.DagsterEventType.RUN_FAILURE]


class Alerts:
    """Makes alerts; `runbooks` is where people read the runbooks."""

    def __init__(self, runbooks: str) -> None:
        self._runbooks = runbooks

    def ended_runs(
        self, instance: dg.DagsterInstance, end: RunEnd, *, after: int, now: datetime
    ) -> Iterator[tuple[int, list[Alert]]]:
        """Runs that have ended so since the event `after`: each event, and what it is alerted of.

        That is a failed run, and what its asset checks say. No alert asks a run that Dagster starts
        again by itself, or one that somebody started by hand and watches: a selection of assets
        without a job of its own. Its checks are told nevertheless.
        """
        found = instance.fetch_run_status_changes(
            dg.RunStatusChangeRecordsFilter(
                event_type=end,
                after_storage_id=after or None,
                after_timestamp=(now - MAX_AGE).timestamp(),
            ),
            limit=READ_AT_ONCE,
            ascending=True,
        )
        for record in found.records:
            run = instance.get_run_by_id(record.run_id)
            if run is None:
                yield record.storage_id, []
                continue
            alerts = list(self._checks(instance, run))
            failed = end is dg.DagsterEventType.RUN_FAILURE
            if failed and not _by_hand(run) and run.tags.get(WILL_RETRY_TAG) != "true":
                alerts.append(self._failed_run(instance, run, record.timestamp))
            yield record.storage_id, alerts

    def _failed_run(
        self, instance: dg.DagsterInstance, run: dg.DagsterRun, timestamp: float
    ) -> Alert:
        step, error = _first_failure(instance, run.run_id)
        days = _days(run)
        what = f"{run.job_name} of {days}" if days else run.job_name
        return self.make(
            "training" if run.job_name == TRAINING_JOB else "run",
            "error",
            "firing",
            subject=run.job_name,
            summary=f"The run of {what} failed: {error}",
            evidence={"job": run.job_name, "partition": days, "run_id": run.run_id, "step": step},
            key=_key("run", run.job_name, days),
            event=run.run_id,
            at=timestamp,
        )

    def recovered_run(self, instance: dg.DagsterInstance, alert: Alert) -> Alert | None:
        """What resolves the `alert` of a failed run: a later one that succeeded."""
        job, days = str(alert.evidence["job"]), alert.evidence.get("partition")
        found = instance.get_run_records(
            dg.RunsFilter(
                job_name=job,
                statuses=[dg.DagsterRunStatus.SUCCESS],
                updated_after=alert.at,
                tags=_day_tags(str(days)) if days else None,
            ),
            limit=1,
            order_by="update_timestamp",
        )
        if not found:
            return None
        run_id = found[0].dagster_run.run_id
        return resolved(
            alert,
            summary=f"{job} succeeded in run {run_id}.",
            event=run_id,
            at=found[0].update_timestamp.replace(tzinfo=UTC),
        )

    def _checks(self, instance: dg.DagsterInstance, run: dg.DagsterRun) -> Iterator[Alert]:
        """What the asset checks of `run` say.

        A failed one fires when its severity is ERROR or rows were refused. A passed one resolves
        the failure of the same days, or of any where it is about how things stand. Scenarios of
        the simulator are judged, not watched.
        """
        found = instance.get_records_for_run(
            run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
        )
        for record in found.records:
            event = record.event_log_entry.dagster_event
            evaluation = None if event is None else event.asset_check_evaluation_data
            if evaluation is not None and evaluation.asset_key.path[0] != SIMULATION:
                alert = self._check(evaluation, run, record.timestamp)
                if alert is not None:
                    yield alert

    def _check(
        self,
        evaluation: Any,  # noqa: ANN401 - Dagster does not export its type
        run: dg.DagsterRun,
        timestamp: float,
    ) -> Alert | None:
        name, asset = evaluation.check_name, evaluation.asset_key.to_user_string()
        is_error = evaluation.severity is dg.AssetCheckSeverity.ERROR
        # A check may warn or fail by what it found, so one that passed may resolve either.
        if not (is_error or evaluation.passed or name in _WARNED):
            return None
        days = evaluation.partition or _days(run)
        where = f"{asset} ({days})" if days else asset
        verb = "passes again" if evaluation.passed else "failed"
        detail = f": {evaluation.description}" if evaluation.description else "."
        return self.make(
            "check",
            "error" if is_error else "warning",
            "resolved" if evaluation.passed else "firing",
            subject=asset,
            summary=f"The check {name} of {where} {verb}{detail}",
            evidence={
                "asset": asset,
                "check": name,
                "partition": days,
                "run_id": run.run_id,
                **_plain(evaluation.metadata),
            },
            key=_key(f"check/{asset}", name, None if name in _OF_NOW else days),
            event=run.run_id,
            at=timestamp,
        )

    def drift(
        self,
        instance: dg.DagsterInstance,
        use_case: UseCase,
        before: EpisodeCursor,
        *,
        now: datetime,
    ) -> tuple[EpisodeCursor, list[Alert]]:
        """The cursor after the drift records that are new, and what has opened or closed since."""
        cursor = before
        for seen in all_observations(instance, use_case, before.storage_id):
            cursor = cursor.after(seen)
        newest, old, new = cursor.newest, before.episode, cursor.episode
        # An episode is known by the event that opened it, whatever is learnt of it later.
        if newest is None or (old and old.storage_id) == (new and new.storage_id):
            return cursor, []
        alerts = []
        if old is not None:
            over = f"The drift of {old.day} is over: {_why_over(old, newest)}."
            alerts.append(self._drift(use_case, old, "resolved", over, newest, now=now))
        if new is not None:
            begun = (
                f"{use_case.name} has drifted from what its champion learnt, first seen on "
                f"{new.day} by {', '.join(sorted(new.signals))}."
            )
            alerts.append(self._drift(use_case, new, "firing", begun, newest, now=now))
        return cursor, alerts

    def _drift(
        self,
        use_case: UseCase,
        episode: Episode,
        status: Status,
        summary: str,
        newest: Observation,
        *,
        now: datetime,
    ) -> Alert:
        return self.make(
            "drift",
            "warning",
            status,
            subject=use_case.name,
            summary=summary,
            evidence={
                "day": newest.day,
                "score": newest.score,
                "confirmed": newest.confirmed,
                "signals": ", ".join(sorted(episode.signals)),
                "champion": episode.champion_version,
            },
            key=f"{use_case.name}/drift/{episode.storage_id}",
            event=status,
            at=now.timestamp(),
        )

    def promotion(self, record: PromotionRecord) -> Alert:
        """An entry of the promotion log; a rollback or a withdrawal of challengers warns."""
        withdrawn = record.action == "challenge" and not record.challengers
        is_rollback = record.action == "rollback" or withdrawn
        return self.make(
            "rollback" if is_rollback else "promotion",
            "warning" if is_rollback else "info",
            "notice",
            subject=record.use_case,
            summary=f"{record.actor}: {record.subject} ({record.reason})",
            evidence={
                "entry": record.sequence,
                "champion": record.model_version,
                "previous": record.previous_version,
                "actor": record.actor,
                "reason": record.reason,
            },
            key=f"{record.use_case}/promotions/{record.sequence}",
            event=record.sha256,
            at=record.promoted_at.timestamp(),
        )

    def refused_artefacts(
        self, blobs: Blobs, record: PromotionRecord, *, now: datetime
    ) -> Iterator[Alert]:
        """Models that are to serve and that every server must refuse, because of their files."""
        for model in record.models:
            try:
                load_artefact(blobs, model.artefact)
            except ContractError as error:
                yield self.make(
                    "refused-artefact",
                    "critical",
                    "firing",
                    subject=record.use_case,
                    summary=f"Servers refuse {model.model_version}: {error}",
                    evidence={"version": model.model_version, "entry": record.sequence},
                    key=f"{record.use_case}/artefact/{model.model_version}",
                    event=f"{record.sequence}",
                    at=now.timestamp(),
                )

    def make(
        self,
        kind: Kind,
        severity: Severity,
        status: Status,
        *,
        subject: str,
        summary: str,
        evidence: dict[str, Value],
        key: str,
        event: str,
        at: float,
    ) -> Alert:
        """An alert with the runbook of its kind; `at` is a Unix time, None is no evidence."""
        return Alert(
            kind=kind,
            severity=severity,
            status=status,
            subject=subject,
            summary=summary,
            evidence={name: value for name, value in evidence.items() if value is not None},
            runbook_url=runbook_url(kind, self._runbooks),
            dedup_key=key,
            event=event,
            at=datetime.fromtimestamp(at, UTC),
        )


def resolved(alert: Alert, *, summary: str, event: str, at: datetime) -> Alert:
    """What closes the matter that `alert` opened."""
    return alert.model_copy(
        update={"status": "resolved", "summary": summary, "event": event, "at": at}
    )


def _key(first: str, name: str, days: str | None) -> str:
    return f"{first}/{name}@{days}" if days else f"{first}/{name}"


def _by_hand(run: dg.DagsterRun) -> bool:
    return run.job_name.startswith("__") and not _STARTED_BY & run.tags.keys()


def _days(run: dg.DagsterRun) -> str | None:
    """The day, or first and last day, that a run is for; None when it has no partition."""
    tags = run.tags
    first, last = tags.get(_FIRST_DAY_TAG), tags.get(_LAST_DAY_TAG)
    if first and last and first != last:
        return f"{first}...{last}"
    return tags.get(_DAY_TAG) or first


def _day_tags(days: str) -> dict[str, str]:
    first, separator, last = days.partition("...")
    return {_FIRST_DAY_TAG: first, _LAST_DAY_TAG: last} if separator else {_DAY_TAG: first}


def _first_failure(instance: dg.DagsterInstance, run_id: str) -> tuple[str | None, str]:
    """Step and reason of the first failure of a run."""
    found = instance.get_records_for_run(
        run_id, of_type=dg.DagsterEventType.STEP_FAILURE, limit=1
    ).records
    event = found[0].event_log_entry.dagster_event if found else None
    if event is None:
        return None, "no step failed; its process was lost or could not start"
    failure = event.step_failure_data
    told = failure.user_failure_data.description if failure.user_failure_data else None
    error = failure.error
    return event.step_key, told or (error.message.strip() if error else "no reason was given")


def _plain(metadata: Any) -> dict[str, Value]:  # noqa: ANN401 - Dagster's mapping
    values = {name: getattr(value, "value", None) for name, value in metadata.items()}
    return {k: v for k, v in values.items() if isinstance(v, str | bool | int)}


def _why_over(episode: Episode, newest: Observation) -> str:
    if newest.champion_version != episode.champion_version:
        return f"another model serves: {newest.champion_version}"
    score = "" if newest.score is None else f", the score {newest.score:.2f}"
    return f"on {newest.day} {newest.signal} was stable, as are the others{score}"
