"""A platform whose rollouts are looked at: orders under which it serves, looks, MLflow."""

import random
import threading
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import dagster as dg
import httpx

from ibook_assets.core.rollout_plan import plan_of
from ibook_assets.core.settings import Settings
from ibook_assets.definitions import build_defs
from ibook_assets.defs.rollout import ROLLOUT
from ibook_assets.models.bundle import ModelBundle
from ibook_assets.models.calibration import BetaCalibration
from ibook_assets.stores.blobs import open_blobs
from ibook_assets.stores.registry import HeldVersion, ModelRegistry
from ibook_assets.stores.rollouts import Rollouts
from ibook_assets.stores.traces import TraceStore
from ibook_serving.provenance.shipping import Shipper
from tests.serving.harness import eventually, small_bundle

WHO: dict[str, Any] = {"actor": "ana@ibook.test", "reason": "as agreed"}
LOADERS = 3


def like_the_champion(version: str, *, shifted: float = 0.0) -> ModelBundle:
    """The champion's trees under another name, its log-odds `shifted`."""
    found = small_bundle(version, seed=1)
    info = found.info.model_copy(update={"calibration": BetaCalibration(c=shifted)})
    return ModelBundle(info, found.files()["model.ubj"])


class Load:
    """Single orders of new users to a server, from threads, every answer kept."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._send, args=(seed,)) for seed in range(LOADERS)
        ]
        self.failed: list[str] = []
        self.answered: dict[tuple[str, str], int] = {}

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _send(self, seed: int) -> None:
        rng = random.Random(seed)
        with httpx.Client(base_url=self._url, timeout=20) as client:
            while not self._stop.is_set():
                order = {
                    "user_id": rng.randrange(10**9),
                    "event_id": 17,
                    "amount": round(rng.uniform(1, 5_000), 2),
                }
                answer = client.post(
                    "/predict", json={"requests": [order]}, params={"explain": "false"}
                )
                if answer.status_code != 200:
                    self.failed.append(answer.text)
                    continue
                (found,) = answer.json()["predictions"]
                met = (found["variant"], found["model_version"])
                self.answered[met] = self.answered.get(met, 0) + 1


class Platform:
    """A server, its lake and Dagster's looks at the rollout."""

    def __init__(
        self, settings: Settings, instance: dg.DagsterInstance, traces: TraceStore
    ) -> None:
        self.settings = settings
        self._instance = instance
        self._shipper = Shipper(traces, settings)
        self.rollouts = Rollouts(open_blobs(settings.lake))
        self._job = build_defs(settings).resolve_job_def(ROLLOUT)

    def start(self, version: str, **changes: float) -> None:
        plan = plan_of(self.settings).model_copy(update=changes)
        self.rollouts.start("fraud", version, plan, **WHO)

    def look(self) -> Mapping[str, Any]:
        """One run of the rollout job; what it shows."""
        # What a recorder does every 15 s.
        self._shipper.turn(everything=True)
        result = self._job.execute_in_process(instance=self._instance)
        (event,) = result.asset_materializations_for_node("fraud__rollout")
        return event.metadata

    def looks_until(self, state: str, *, seconds: float = 180) -> list[Mapping[str, Any]]:
        """Look until the rollout is in that state; all that was shown."""
        shown: list[Mapping[str, Any]] = []

        def there() -> bool:
            shown.append(self.look())
            return bool(shown[-1]["state"].value == state)

        eventually(there, what=f"{state}: {[s['note'].value for s in shown]}", seconds=seconds)
        return shown


def in_mlflow(settings: Settings, version: str) -> HeldVersion:
    return ModelRegistry(settings.tracking_uri, "fraud").held("fraud")[version]


def register(settings: Settings, bundle: ModelBundle) -> None:
    """Leave in MLflow what training leaves there."""
    registry = ModelRegistry(settings.tracking_uri, "fraud")
    registry.prepare()
    with registry.run("fraud/model") as run:
        libraries = {"xgboost": metadata.version("xgboost")}
        info = bundle.info.model_copy(update={"libraries": libraries})
        run.register(ModelBundle(info, bundle.files()["model.ubj"]), model_name="fraud")


def steps_in_mlflow(settings: Settings, version: str) -> dict[str, list[int]]:
    """Steps of each rollout metric, and the artefacts, of that version's run."""
    from mlflow import MlflowClient

    client = MlflowClient(settings.tracking_uri)
    run = client.get_run(in_mlflow(settings, version).run_id)
    found = {
        name: [point.step for point in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
        if name.startswith("rollout.")
    }
    artefacts = [item.path for item in client.list_artifacts(run.info.run_id, "rollout")]
    return {**found, **{path: [] for path in artefacts}}
