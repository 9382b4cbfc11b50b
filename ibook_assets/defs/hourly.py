"""Features by the hour: whole days that lack them are made up for, and serving gets what is new.

A day is written once, when it is over; features of the running day are the stream's. So an hour in
which nothing is missing asks for nothing.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Final

import dagster as dg

from ibook_assets.core.errors import ContractError
from ibook_assets.core.settings import Settings
from ibook_assets.core.times import DAY_US, SECOND_US, day_start_us
from ibook_assets.defs.partitions import FACTS, FEATURES, MONITORING, RAW, SERVING, TRUTH
from ibook_assets.defs.resources import LakeResource
from ibook_assets.defs.runs import IN_FLIGHT, about_to_repeat, attempts_made
from ibook_assets.stores.lake import Lake

HOURLY_FEATURES: Final = "hourly_features"
"""Name of the job and of its schedule."""
HOURLY: Final = "ibook/hourly"
"""Tag of a run: the day that an hour asked for."""
HOURLY_SNAPSHOT: Final = "ibook/hourly_snapshot"
"""Tag of a run: the newest day of the snapshot that an hour asked for."""
ATTEMPTS: Final = 3
"""For a day or its snapshot, repetitions after a crash apart; then somebody has to look. Later
days wait for a day, and not for a snapshot."""

_SNAPSHOT: Final = dg.AssetKey([SERVING, "online_snapshot"])
_AS_OF: Final = "as_of"
_DAY_TAG: Final = "dagster/partition"
_FIRST_DAY_TAG: Final = "dagster/asset_partition_range_start"
_LAST_DAY_TAG: Final = "dagster/asset_partition_range_end"


def hourly_features(settings: Settings) -> dg.Definitions:
    """The job of one day, from its rows to the online snapshot, and its hourly schedule."""
    # Landed by their own sensors: what servers wrote, and every row of the event log.
    landed = [[RAW, "predictions"], [RAW, "experiment_outcomes"]]
    catalogue = [] if settings.log_from else [[RAW, "events"]]
    job = dg.define_asset_job(
        HOURLY_FEATURES,
        selection=dg.AssetSelection.groups(RAW, TRUTH, FACTS, FEATURES, MONITORING, SERVING)
        - dg.AssetSelection.assets(*landed, *catalogue),
        description=(
            "Raw rows, facts, features and their checks of a day that lacks them, and the online "
            "snapshot after it."
        ),
    )

    @dg.schedule(
        job=job,
        cron_schedule="20 * * * *",
        name=HOURLY_FEATURES,
        description=(
            "Each hour the oldest day that is over and has no features, or the online snapshot "
            "when facts have come since."
        ),
    )
    def hourly(
        context: dg.ScheduleEvaluationContext, lake: LakeResource
    ) -> dg.RunRequest | dg.SkipReason:
        now = context.scheduled_execution_time.astimezone(UTC)
        return _next_step(context.instance, lake.tables, settings, now)

    return dg.Definitions(jobs=[job], schedules=[hourly])


def _next_step(
    instance: dg.DagsterInstance, lake: Lake, settings: Settings, now: datetime
) -> dg.RunRequest | dg.SkipReason:
    from ibook_assets.stores.feature_days import featured_days

    days = featured_days(lake)
    if not days:
        return dg.SkipReason(
            "no day has every feature view as it is defined now: materialise the first days, see "
            "docs/how-to.md"
        )
    day = _first_missing(days, until=_last_day(settings, now))
    if day is None:
        return _publication(instance, lake)
    running = _in_flight(instance, day)
    if running is not None:
        return dg.SkipReason(f"{day} waits for run {running}")
    tags = {HOURLY: day}
    made = _attempts(instance, tags, told=day)
    if isinstance(made, dg.SkipReason):
        return made
    # A run key never starts a second run, so an attempt has a key of its own.
    return dg.RunRequest(run_key=f"{day}#{made + 1}", partition_key=day, tags=tags)


def _attempts(
    instance: dg.DagsterInstance, tags: dict[str, str], *, told: str
) -> int | dg.SkipReason:
    """How often an hour has asked for what is tagged so; the reason when it must not again."""
    runs = instance.get_runs(dg.RunsFilter(tags=tags))
    crashed = about_to_repeat(runs)
    if crashed is not None:
        return dg.SkipReason(f"{told} waits: Dagster is about to repeat run {crashed}")
    running = next((run.run_id for run in runs if not run.is_finished), None)
    if running is not None:
        return dg.SkipReason(f"{told} waits for run {running}")
    made = attempts_made(runs)
    if made >= ATTEMPTS:
        return dg.SkipReason(
            f"{told} was not made in {made} attempts, the last is {runs[0].run_id}. Mend what it "
            "says and re-execute it; no hour asks for it again"
        )
    return made


def _last_day(settings: Settings, now: datetime) -> str:
    """The newest day that is over and not the log's, which lands its days by itself."""
    last = now.date() - timedelta(days=1)
    if settings.log_from is not None:
        last = min(last, settings.log_from - timedelta(days=1))
    return last.isoformat()


def _first_missing(days: Sequence[str], *, until: str) -> str | None:
    """The first day after `days[0]`, up to `until`, that is not among them."""
    for day, following in pairwise([*days, ""]):
        wanted = (date.fromisoformat(day) + timedelta(days=1)).isoformat()
        if wanted != following:
            return wanted if wanted <= until else None
    return None


def _publication(instance: dg.DagsterInstance, lake: Lake) -> dg.RunRequest | dg.SkipReason:
    from ibook_assets.stores.online.facts import complete_days

    try:
        newest = complete_days(lake)[-1]
    except ContractError as error:
        return dg.SkipReason(f"nothing is missing; no snapshot can be published: {error}")
    until = (day_start_us(date.fromisoformat(newest)) + DAY_US) / SECOND_US
    known = instance.get_latest_materialization_event(_SNAPSHOT)
    published = known.asset_materialization if known else None
    as_of = published.metadata[_AS_OF].value if published else None
    if isinstance(as_of, float) and as_of >= until:
        return dg.SkipReason(f"every day to {newest} has features, and serving has its facts")
    tags, told = {HOURLY_SNAPSHOT: newest}, f"the snapshot of {newest}"
    made = _attempts(instance, tags, told=told)
    if isinstance(made, dg.SkipReason):
        return made
    return dg.RunRequest(
        run_key=f"snapshot of {newest}#{made + 1}", asset_selection=[_SNAPSHOT], tags=tags
    )


def _in_flight(instance: dg.DagsterInstance, day: str) -> str | None:
    """An unfinished run that writes that day, whoever asked for it."""
    for run in instance.get_runs(dg.RunsFilter(statuses=IN_FLIGHT)):
        first = run.tags.get(_DAY_TAG) or run.tags.get(_FIRST_DAY_TAG)
        last = run.tags.get(_LAST_DAY_TAG) or first
        if first and last and first <= day <= last:
            return run.run_id
    return None
