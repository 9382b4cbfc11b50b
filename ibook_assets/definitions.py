"""The composition root: the one module that names concrete stores."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster_duckdb import DuckDBResource

from ibook_assets.core.settings import Settings
from ibook_assets.defs.alerting import alert_assets, alert_sensors
from ibook_assets.defs.checks import feature_checks
from ibook_assets.defs.experiments import experiment_assets, experiment_schedule
from ibook_assets.defs.facts import fact_assets
from ibook_assets.defs.features import feature_assets
from ibook_assets.defs.hourly import hourly_features
from ibook_assets.defs.log import log_assets
from ibook_assets.defs.log_landing import log_sensors
from ibook_assets.defs.model import model_assets
from ibook_assets.defs.monitoring import drift_assets, drift_schedule
from ibook_assets.defs.predictions import served_assets
from ibook_assets.defs.raw import raw_assets
from ibook_assets.defs.resources import LakeResource, OnlineResource
from ibook_assets.defs.retraining import retraining_sensors
from ibook_assets.defs.rollout import rollout_defs
from ibook_assets.defs.schedules import jobs_and_schedules
from ibook_assets.defs.serving import serving_assets
from ibook_assets.defs.simulation import simulation_assets
from ibook_assets.defs.skew import skew_assets
from ibook_assets.defs.sources import source_of
from ibook_assets.defs.tracking import TrackingResource
from ibook_assets.defs.truth import truth_assets


def build_defs(
    settings: Settings | None = None, overrides: Mapping[str, Any] | None = None
) -> dg.Definitions:
    """The whole graph.

    Args:
        settings: where state lives and what feeds the platform; the environment's unless given.
        overrides: resources by name that replace the settings' own.
    """
    chosen = settings or Settings()
    graph = dg.Definitions(
        assets=[
            *log_assets(chosen),
            *raw_assets(chosen),
            *served_assets(chosen),
            *truth_assets(chosen),
            *fact_assets(chosen),
            *feature_assets(chosen),
            *skew_assets(chosen),
            *model_assets(chosen),
            *serving_assets(chosen),
            *drift_assets(chosen),
            *experiment_assets(chosen),
            *simulation_assets(chosen),
            *alert_assets(),
        ],
        asset_checks=feature_checks(),
        sensors=[*log_sensors(chosen), *retraining_sensors(chosen), *alert_sensors(chosen)],
        resources={**_resources(chosen), **(overrides or {})},
        # Steps of one run share worlds, files and compiled kernels; a process each would not.
        executor=dg.in_process_executor,
    )
    return dg.Definitions.merge(
        graph,
        jobs_and_schedules(chosen),
        hourly_features(chosen),
        drift_schedule(),
        experiment_schedule(),
        rollout_defs(chosen),
    )


def _resources(settings: Settings) -> dict[str, Any]:
    return {
        "lake": LakeResource(uri=settings.lake, endpoint_url=settings.s3_endpoint_url),
        "source": source_of(settings),
        "online": OnlineResource(path=str(settings.online_path)),
        "tracking": TrackingResource(uri=settings.tracking_uri),
        "duckdb": DuckDBResource(database=":memory:"),
    }


defs = build_defs()
