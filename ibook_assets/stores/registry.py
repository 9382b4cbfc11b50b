"""MLflow as run tracking and model registry. Serving never needs it: the promotion record does.

Only this module names MLflow, and only inside functions: its import costs seconds.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ibook_assets.core.errors import ContractError, StoreUnavailableError
from ibook_assets.core.promotion import PromotionRecord
from ibook_assets.core.releases import releases
from ibook_assets.core.times import to_us

if TYPE_CHECKING:
    # XGBoost takes seconds to import, and a rollback does not need it.
    from ibook_assets.models.bundle import ModelBundle

CHALLENGER: Final = "challenger"
CHAMPION: Final = "champion"
RELEASE: Final = "release"
"""Tag of a registry version: the release number of a model that is or was the champion."""

_BUNDLE_VERSION: Final = "bundle_version"
_SQLITE: Final = "sqlite:///"
_QUIET: Final = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""Environment defaults: by MLflow's own an unreachable server blocks a call for 248 s."""

_TRACKING_VARIABLE: Final = "MLFLOW_TRACKING_URI"

_GONE: Final = "RESOURCE_DOES_NOT_EXIST"
_MILLISECOND_US: Final = 1_000

_UNREACHABLE: Final = ("API request to", "Max retries exceeded", "OperationalError")


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """A version in the registry, and the run that made it."""

    model_name: str
    version: str
    run_id: str


@dataclass(frozen=True, slots=True)
class HeldVersion:
    """A version in the registry as it stands there."""

    version: str
    run_id: str
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RunStep:
    """What was found about a model after its run had ended."""

    step: int
    at: datetime
    metrics: Mapping[str, float]
    """Finite numbers by name."""
    files: Mapping[str, bytes]
    """Artefact path to content."""


class ModelRegistry:
    """Runs and model versions on an MLflow server or a `sqlite:///` database."""

    def __init__(self, tracking_uri: str, experiment: str) -> None:
        self.tracking_uri = tracking_uri
        self.experiment = experiment

    def prepare(self) -> None:
        """Create or upgrade the database, and the experiment. Once before anything else.

        Safe to call from several processes: a local database is locked meanwhile. Artefacts of a
        local one go beside it, not into whatever the working directory is.

        Raises:
            StoreUnavailableError: the server or database does not answer.
        """
        with _translated(self.tracking_uri):
            if not self.tracking_uri.startswith(_SQLITE):
                self._ensure_experiment(None)
                return
            database = Path(self.tracking_uri.removeprefix(_SQLITE))
            database.parent.mkdir(parents=True, exist_ok=True)
            with _locked(database.with_suffix(".lock")):
                mlflow = _mlflow()
                mlflow.db.upgrade.callback(self.tracking_uri)
                self._ensure_experiment((database.parent / "artifacts").resolve().as_uri())

    def _ensure_experiment(self, artifacts: str | None) -> None:
        client = self._client()
        if client.get_experiment_by_name(self.experiment) is None:
            client.create_experiment(self.experiment, artifact_location=artifacts)

    @contextmanager
    def run(self, name: str, *, tags: Mapping[str, str] | None = None) -> Iterator[TrackedRun]:
        """One MLflow run. It ends FAILED when the body raises, whatever the error.

        A run that is active already, as an orchestrator starts one, is joined and left open for
        its owner unless the body raises.
        """
        with keeps_tracking_variable(), _translated(self.tracking_uri):
            mlflow = _mlflow()
            mlflow.set_tracking_uri(self.tracking_uri)
            mlflow.set_registry_uri(self.tracking_uri)
            mlflow.set_experiment(self.experiment)
            joined = mlflow.active_run()
            active = joined or mlflow.start_run(run_name=name)
            mlflow.set_tags(dict(tags or {}))
        finished = False
        try:
            yield TrackedRun(active.info.run_id, self.tracking_uri)
            finished = True
        finally:
            if not finished:
                mlflow.end_run("FAILED")
            elif joined is None:
                mlflow.end_run("FINISHED")

    def set_alias(self, model_name: str, alias: str, version: str) -> None:
        """Let `alias` name that version of the model, and no other."""
        with _translated(self.tracking_uri):
            self._client().set_registered_model_alias(model_name, alias, version)

    def mirror_champion(self, log: Sequence[PromotionRecord]) -> None:
        """Let the champion alias name what serves by `log`, with its release, for people there.

        Challengers have no alias: MLflow keeps no shares, the record does.

        Args:
            log: promotion log of one use case, oldest first, not empty.
        """
        record = log[-1]
        version = self.registered(record.use_case, record.model_version)
        if version is not None:
            self.tag(record.use_case, version, {RELEASE: str(releases(log)[record.model_version])})
            self.set_alias(record.use_case, CHAMPION, version)

    def held(self, model_name: str) -> dict[str, HeldVersion]:
        """What the registry has of each bundle, the newest where there are several, by version."""
        with _translated(self.tracking_uri):
            found = self._client().search_model_versions(f"name = '{_quoted(model_name)}'")
        return {
            v.tags[_BUNDLE_VERSION]: HeldVersion(str(v.version), v.run_id, dict(v.tags))
            for v in sorted(found, key=lambda v: int(v.version))
            if _BUNDLE_VERSION in v.tags and v.run_id
        }

    def tag(self, model_name: str, version: str, tags: Mapping[str, str]) -> None:
        """Set those tags of a registry version, one after the other, the last one last."""
        with _translated(self.tracking_uri):
            client = self._client()
            for name, value in tags.items():
                client.set_model_version_tag(model_name, version, name, value)

    def has_run(self, run_id: str) -> bool:
        """Whether that run is there and not deleted."""
        from mlflow.exceptions import MlflowException

        with _translated(self.tracking_uri):
            try:
                found = self._client().get_run(run_id)
            except MlflowException as error:
                if error.error_code == _GONE:
                    return False
                raise
            return bool(found.info.lifecycle_stage == "active")

    def add_step(self, run_id: str, found: RunStep) -> None:
        """Add to a run, which may have ended; adding the same once more changes nothing.

        Raises:
            StoreUnavailableError: MLflow, or where it keeps artefacts, does not answer.
            ContractError: the run does not exist or was deleted.
        """
        with _translated(self.tracking_uri):
            from mlflow.entities import Metric

            client = self._client()
            try:
                _log_files(client, run_id, found.files)
            except OSError as error:
                msg = f"the artefacts of MLflow run {run_id} cannot be written: {error}"
                raise StoreUnavailableError(msg) from error
            # MLflow tells points apart by name, value, step and time: those of the finding, not of
            # its telling, so that what is told twice is there once.
            at_ms = to_us(found.at) // _MILLISECOND_US
            points = [Metric(k, v, at_ms, found.step) for k, v in found.metrics.items()]
            client.log_batch(run_id, metrics=points)

    def version_of(self, model_name: str, alias: str) -> str | None:
        """The registry version that `alias` names, None when it names none."""
        with _translated(self.tracking_uri):
            found = self._client().search_registered_models(f"name = '{_quoted(model_name)}'")
        aliases: dict[str, Any] = found[0].aliases if found else {}
        return str(aliases[alias]) if alias in aliases else None

    def registered(self, model_name: str, bundle_version: str) -> str | None:
        """The registry version that holds the bundle of that version, None when none does."""
        query = (
            f"name = '{_quoted(model_name)}' "
            f"and tags.{_BUNDLE_VERSION} = '{_quoted(bundle_version)}'"
        )
        with _translated(self.tracking_uri):
            found = self._client().search_model_versions(query)
        return max((str(v.version) for v in found), key=int, default=None)

    def promote_latest_model(self, model_name: str) -> str | None:
        """Make the challenger the champion and return its registry version; None without one.

        The aliases mirror the promotion log for people who look at MLflow; they decide nothing.
        """
        version = self.version_of(model_name, CHALLENGER)
        if version is not None:
            self.set_alias(model_name, CHAMPION, version)
        return version

    def _client(self) -> Any:  # noqa: ANN401 - MLflow stays out of this module's namespace
        return _mlflow().MlflowClient(
            tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri
        )


class TrackedRun:
    """An open run of `ModelRegistry.run`."""

    def __init__(self, run_id: str, tracking_uri: str) -> None:
        self.run_id = run_id
        self._tracking_uri = tracking_uri

    def log(
        self,
        *,
        parameters: Mapping[str, object] | None = None,
        metrics: Mapping[str, float | None] | None = None,
        files: Mapping[str, bytes] | None = None,
        documents: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Log what is given; metrics that are None are left out.

        Args:
            parameters: logged as text.
            metrics: finite numbers by name.
            files: artefact path to content, for instance plots.
            documents: artefact path to JSON values.
        """
        with _translated(self._tracking_uri):
            mlflow = _mlflow()
            client = mlflow.MlflowClient()
            if parameters:
                mlflow.log_params(dict(parameters))
            if metrics:
                mlflow.log_metrics({k: v for k, v in metrics.items() if v is not None})
            for path, document in (documents or {}).items():
                client.log_dict(self.run_id, dict(document), path)
            if files:
                _log_files(client, self.run_id, files)

    def register(self, bundle: ModelBundle, *, model_name: str) -> RegisteredVersion:
        """Log the bundle as a model (UBJ, no pickle) with its signature, as a new challenger."""
        with _translated(self._tracking_uri):
            return self._register(bundle, model_name)

    def _register(self, bundle: ModelBundle, model_name: str) -> RegisteredVersion:
        mlflow = _mlflow()
        # The bundle as it is served, beside the model in the form MLflow's own tools load.
        self.log(files={f"bundle/{name}": data for name, data in bundle.files().items()})
        logged = mlflow.xgboost.log_model(
            bundle.booster,
            name=model_name,
            model_format="ubj",
            signature=_signature(bundle.feature_names),
            # Given, because working them out imports the model in a new environment.
            pip_requirements=[f"xgboost=={bundle.info.libraries['xgboost']}"],
            metadata={_BUNDLE_VERSION: bundle.version, "sha256": bundle.sha256()},
        )
        client = mlflow.MlflowClient()
        # MLflow's shortcut for this prints to the console.
        if not client.search_registered_models(f"name = '{_quoted(model_name)}'"):
            client.create_registered_model(model_name)
        created = client.create_model_version(
            model_name,
            logged.model_uri,
            run_id=self.run_id,
            tags={
                _BUNDLE_VERSION: bundle.version,
                "training_snapshot": bundle.info.training_snapshot,
            },
            model_id=logged.model_id,
        )
        version = str(created.version)
        client.set_registered_model_alias(model_name, CHALLENGER, version)
        return RegisteredVersion(model_name, version, self.run_id)


def _log_files(client: Any, run_id: str, files: Mapping[str, bytes]) -> None:  # noqa: ANN401
    import tempfile

    with tempfile.TemporaryDirectory(prefix="ibook-mlflow-") as folder:
        for path, content in files.items():
            target = Path(folder, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        client.log_artifacts(run_id, folder)


def _signature(feature_names: tuple[str, ...]) -> Any:  # noqa: ANN401
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    return ModelSignature(
        inputs=Schema([ColSpec(DataType.float, name, required=False) for name in feature_names]),
        outputs=Schema([ColSpec(DataType.float, "probability_before_calibration")]),
    )


def _mlflow() -> Any:  # noqa: ANN401
    """MLflow, quiet and impatient."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import mlflow
    import mlflow.db
    import mlflow.xgboost

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow


@contextmanager
def keeps_tracking_variable() -> Iterator[None]:
    """Leave the process's MLFLOW_TRACKING_URI as it was: MLflow writes to it, settings read it."""
    before = os.environ.get(_TRACKING_VARIABLE)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_TRACKING_VARIABLE, None)
        else:
            os.environ[_TRACKING_VARIABLE] = before


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def _translated(tracking_uri: str) -> Iterator[None]:
    """MLflow's errors as ours: unreachable may be retried, everything else not."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if any(sign in error.message for sign in _UNREACHABLE):
            msg = (
                f"MLflow at {tracking_uri} does not answer; start it, or unset "
                "IBOOK_MLFLOW_TRACKING_URI to use a local database"
            )
            raise StoreUnavailableError(msg) from error
        msg = f"MLflow at {tracking_uri} refused: {error.message}"
        raise ContractError(msg) from error


def _quoted(text: str) -> str:
    if "'" in text:
        msg = f"{text!r} holds a quote; registry names are letters, digits, '_' and '-'"
        raise ContractError(msg)
    return text
