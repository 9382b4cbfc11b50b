"""Jobs and schedules. Schedules start switched off: turn them on in the Dagster UI."""

from typing import Final

import dagster as dg

from ibook_assets.core.use_cases import USE_CASES
from ibook_assets.defs.partitions import FACTS, FEATURES, RAW, SERVING, TRUTH

_DAILY: Final = dg.AssetSelection.groups(RAW, TRUTH, FACTS, FEATURES)


def jobs_and_schedules() -> dg.Definitions:
    """The daily data job, the publication that follows it, and weekly training."""
    data = dg.define_asset_job(
        "daily_data",
        selection=_DAILY - dg.AssetSelection.assets(["raw", "events"]),
        description="Raw rows, facts and features of one day.",
    )
    catalogue = dg.define_asset_job(
        "catalogue",
        selection=dg.AssetSelection.assets(["raw", "events"]),
        description="The ticketed events on sale.",
    )
    publication = dg.define_asset_job(
        "publication",
        selection=dg.AssetSelection.groups(SERVING),
        description="The online snapshot out of all facts.",
    )
    training = dg.define_asset_job(
        "training",
        selection=dg.AssetSelection.groups(*USE_CASES),
        description="Training set, model, evaluation and, if the gate opens, promotion.",
    )
    schedules = [
        dg.ScheduleDefinition(job=catalogue, cron_schedule="5 0 * * *", name="daily_catalogue"),
        dg.build_schedule_from_partitioned_job(
            data, hour_of_day=0, minute_of_hour=15, name="daily_data"
        ),
        dg.ScheduleDefinition(job=publication, cron_schedule="0 1 * * *", name="daily_publication"),
        dg.ScheduleDefinition(job=training, cron_schedule="0 2 * * 0", name="weekly_training"),
    ]
    return dg.Definitions(jobs=[data, catalogue, publication, training], schedules=schedules)
