"""Jobs and schedules. Schedules start switched off: turn them on in the Dagster UI."""

from typing import Final

import dagster as dg

from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import EXPERIMENT_OUTCOMES, PREDICTIONS
from ibook_assets.core.use_cases import USE_CASES
from ibook_assets.defs.partitions import (
    FACTS,
    FEATURES,
    LOG,
    MONITORING,
    RAW,
    SERVING,
    SIMULATION,
    TRUTH,
)
from ibook_assets.defs.retraining import TRAINING_JOB, weekly_training

DAILY_DATA: Final = "daily_data"
SERVED_DATA: Final = "served_data"
SIMULATE: Final = "simulate"
SCENARIO_DAYS: Final = "scenario_days"

_SERVED: Final = dg.AssetSelection.assets(
    *([RAW, spec.name] for spec in (PREDICTIONS, EXPERIMENT_OUTCOMES))
)
_DAILY: Final = dg.AssetSelection.groups(RAW, TRUTH, FACTS, FEATURES, MONITORING) - _SERVED
_BY_SCENARIO: Final = dg.AssetSelection.assets([SIMULATION, "report"], [SIMULATION, "events"])
_CATALOGUE: Final = dg.AssetSelection.assets(["raw", "events"])


def jobs_and_schedules(settings: Settings) -> dg.Definitions:
    """The daily data job, the publication that follows it, weekly training, observation."""
    data = dg.define_asset_job(
        DAILY_DATA,
        # An event may be new in the log since the nightly catalogue: its orders need it.
        selection=_DAILY if settings.log_from else _DAILY - _CATALOGUE,
        description="Raw rows, facts, features and skew of one day.",
    )
    served = dg.define_asset_job(
        SERVED_DATA,
        selection=_SERVED,
        description="Predictions and experiment outcomes of one day.",
    )
    observation = dg.define_asset_job(
        "log_observation",
        selection=dg.AssetSelection.groups(LOG, include_sources=True),
        description="How far each topic of the event log has landed, and how fresh it is.",
    )
    catalogue = dg.define_asset_job(
        "catalogue",
        selection=_CATALOGUE,
        description="The ticketed events on sale.",
    )
    publication = dg.define_asset_job(
        "publication",
        selection=dg.AssetSelection.groups(SERVING),
        description="The online snapshot out of all facts.",
    )
    training = dg.define_asset_job(
        TRAINING_JOB,
        selection=dg.AssetSelection.groups(*USE_CASES),
        description="Training set, model, evaluation and, if the gate opens, promotion.",
    )
    simulation = dg.define_asset_job(
        SIMULATE,
        selection=dg.AssetSelection.assets([SIMULATION, "report"]),
        description="A scenario of the simulator, run offline and judged: one partition each.",
    )
    scenario_days = dg.define_asset_job(
        SCENARIO_DAYS,
        selection=dg.AssetSelection.groups(SIMULATION) - _BY_SCENARIO,
        description="Tables and truth of a scenario's day, for training and judging on them.",
    )
    schedules = [
        dg.ScheduleDefinition(job=catalogue, cron_schedule="5 0 * * *", name="daily_catalogue"),
        dg.build_schedule_from_partitioned_job(
            data, hour_of_day=0, minute_of_hour=15, name="daily_data"
        ),
        dg.ScheduleDefinition(job=publication, cron_schedule="0 1 * * *", name="daily_publication"),
        weekly_training(settings),
    ]
    return dg.Definitions(
        jobs=[
            data,
            served,
            catalogue,
            publication,
            training,
            observation,
            simulation,
            scenario_days,
        ],
        schedules=schedules,
    )
