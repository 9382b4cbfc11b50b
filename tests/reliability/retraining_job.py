"""The retraining sensor over a graph whose model is there at once; Dagster's processes load this.

Sensor, promotion step and logs are the product's; only the training is left out.
"""

import dagster as dg

from ibook_assets.core.settings import Settings
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.defs.model import model_assets
from ibook_assets.defs.resources import LakeResource
from ibook_assets.defs.retraining import TRAINING_JOB, retraining_sensors
from ibook_assets.defs.tracking import TrackingResource
from ibook_assets.stores.blobs import open_blobs
from ibook_assets.training.candidates import new_candidate, store_candidate
from tests.reliability.looping_world import with_crash_points
from tests.serving.harness import small_bundle

with_crash_points()
settings = Settings()


@dg.asset(key=[FRAUD.name, "model"], group_name=FRAUD.name)
def model() -> None:
    """A candidate, as training stores it."""
    bundle = small_bundle("fraud-v2", seed=2)
    candidate = new_candidate(bundle, git_sha="0" * 40, mlflow_run_id=None)
    store_candidate(open_blobs(settings.lake), bundle, candidate)


promotion = next(asset for asset in model_assets(settings) if asset.key.path[-1] == "promotion")
defs = dg.Definitions(
    assets=[model, promotion],
    jobs=[dg.define_asset_job(TRAINING_JOB, selection=dg.AssetSelection.assets(model, promotion))],
    sensors=retraining_sensors(settings),
    resources={
        "lake": LakeResource(uri=settings.lake),
        "tracking": TrackingResource(uri=settings.tracking_uri),
    },
    executor=dg.in_process_executor,
)
