"""The sensors that land the log's days: new rows become runs of the job that lands them."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

import dagster as dg

from ibook_assets.core.landing import LandedEnds, LandingCursor
from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import TRANSACTIONS, TableSpec
from ibook_assets.defs.log import LOGGED, SERVED, landed_ends, observed, topic
from ibook_assets.defs.resources import LakeResource
from ibook_assets.defs.runs import IN_FLIGHT, about_to_repeat, attempts_made
from ibook_assets.defs.schedules import DAILY_DATA, SERVED_DATA
from ibook_assets.stores.log_files import LogFiles

LANDING: Final = "ibook/landing"
"""Tag of a run: the day it lands and the revision of the log it was asked for."""

ATTEMPTS: Final = 3
"""Attempts at one revision of a day; then somebody has to look, and later days wait."""

SECONDS_BETWEEN: Final = 15

SETTLING: Final = timedelta(minutes=2)
"""What the sink may take to land a day's last events; landing the day before would be in vain."""

_DAY_TAG: Final = "dagster/partition"
_FIRST_DAY_TAG: Final = "dagster/asset_partition_range_start"


def log_sensors(settings: Settings) -> list[dg.SensorDefinition]:
    """The landing sensors: of the platform's days while the log feeds them, of what is served."""
    sensors = []
    if settings.prediction_log != "off":
        sensors.append(_landing_sensor(SERVED_LANDING, settings))
    if settings.log_from is not None:
        sensors.append(_landing_sensor(LOG_LANDING, settings))
    return sensors


@dataclass(frozen=True)
class _Lands:
    """What a landing sensor lands."""

    name: str
    job: str
    specs: tuple[TableSpec, ...]
    follows: TableSpec | None
    """Table whose landed days are landed again after a reopened one; None: days stand alone."""
    description: str


LOG_LANDING: Final = _Lands(
    "log_landing",
    DAILY_DATA,
    LOGGED,
    TRANSACTIONS,
    "Lands each day of the log that has new rows, oldest first, once it is over. A day "
    "waits until its run has succeeded; those after a reopened day are landed again.",
)
SERVED_LANDING: Final = _Lands(
    "served_landing",
    SERVED_DATA,
    SERVED,
    None,
    "Lands each day of predictions and experiment outcomes once it is over, and again when rows "
    "of it arrive later.",
)


def _landing_sensor(lands: _Lands, settings: Settings) -> dg.SensorDefinition:
    first_day = max(settings.start_date, (settings.log_from if lands.follows else None) or date.min)

    @dg.sensor(
        job_name=lands.job,
        name=lands.name,
        minimum_interval_seconds=SECONDS_BETWEEN,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=lands.description,
    )
    def landing(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult:
        files = LogFiles(lake.blobs)
        before = LandingCursor.parse(context.cursor)
        # The ends come first: what lands while we look is found again next time, never missed.
        ends = landed_ends(files, lands.specs)
        moved = [s for s in lands.specs if ends.of(topic(s)) != before.seen.of(topic(s))]
        found = {day for spec in moved for day in _new_days(files, spec, before.seen, ends)}
        follows = [] if lands.follows is None else [f"raw/{lands.follows.name}"]
        cursor, next_step = _next_step(
            context.instance,
            before.advanced(
                ends,
                new_days=[day for day in found if day >= first_day.isoformat()],
                landed_days=[day for table in follows for day in lake.tables.partitions(table)],
            ),
            last_day=_last_day(datetime.now(UTC)),
        )
        return dg.SensorResult(
            run_requests=[next_step] if isinstance(next_step, dg.RunRequest) else None,
            skip_reason=next_step if isinstance(next_step, str) else None,
            cursor=cursor.model_dump_json(),
            asset_events=observed(files, moved, settings) if moved else (),
        )

    return landing


def _new_days(
    files: LogFiles, spec: TableSpec, seen: LandedEnds, ends: LandedEnds
) -> Iterator[str]:
    if spec.time_column is not None:
        since = seen.still_standing(topic(spec), ends)
        yield from (day.isoformat() for day in files.new_days(topic(spec), since))


def _last_day(now: datetime) -> str:
    """The newest day that is over and whose last events the sink has had time to land."""
    return ((now - SETTLING).date() - timedelta(days=1)).isoformat()


def _next_step(
    instance: dg.DagsterInstance, cursor: LandingCursor, *, last_day: str
) -> tuple[LandingCursor, dg.RunRequest | str]:
    """The cursor without the days that were landed, and the next run, or why there is none."""
    for day, revision in cursor.waiting.items():
        if day > last_day:
            return cursor, f"{day} has rows and is landed when it is over"
        runs = instance.get_runs(dg.RunsFilter(tags={LANDING: _asked(day, revision)}))
        if any(run.status is dg.DagsterRunStatus.SUCCESS for run in runs):
            cursor = cursor.without(day)
            continue
        busy = _in_flight(instance, until=day)
        if busy:
            return cursor, f"{day} waits for run {busy[0].run_id}, which writes it or a day before"
        crashed = about_to_repeat(runs)
        if crashed is not None:
            return cursor, f"{day} waits: Dagster is about to repeat run {crashed}"
        made = attempts_made(runs)
        if made >= ATTEMPTS:
            return cursor, (
                f"{day} was not landed in {made} attempts, the last is {runs[0].run_id}. "
                "Mend what it says and re-execute it; later days wait for it"
            )
        return cursor, _request(day, revision, attempt=made + 1)
    return cursor, "nothing has landed since"


def _request(day: str, revision: str, *, attempt: int) -> dg.RunRequest:
    # A run key never starts a second run, so an attempt has a key of its own.
    return dg.RunRequest(
        run_key=f"{_asked(day, revision)}:{attempt}",
        partition_key=day,
        tags={LANDING: _asked(day, revision)},
    )


def _asked(day: str, revision: str) -> str:
    return f"{day}:{revision}"


def _in_flight(instance: dg.DagsterInstance, *, until: str) -> list[dg.DagsterRun]:
    """Unfinished runs that write a day up to `until`, whoever asked for them."""
    runs = instance.get_runs(dg.RunsFilter(statuses=IN_FLIGHT))
    first_days = (run.tags.get(_DAY_TAG) or run.tags.get(_FIRST_DAY_TAG) for run in runs)
    return [run for run, day in zip(runs, first_days, strict=True) if day and day <= until]
