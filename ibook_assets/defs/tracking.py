"""MLflow runs of Dagster steps: `dagster_mlflow`'s resource, held to one run per model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from logging import Logger
from typing import TYPE_CHECKING, Any, Protocol

import dagster as dg
from pydantic import Field

if TYPE_CHECKING:
    from ibook_assets.stores.registry import ModelRegistry, TrackedRun


class TrackingResource(dg.ConfigurableResource["TrackingResource"]):
    """MLflow tracking and registry, by the address of a server or a `sqlite:///` database."""

    uri: str = Field(description="http(s)://… or sqlite:///…")

    def registry(self, experiment: str) -> "ModelRegistry":
        """The registry of `experiment`, its database upgraded once before anybody writes."""
        from ibook_assets.stores.registry import ModelRegistry

        registry = ModelRegistry(self.uri, experiment)
        registry.prepare()
        return registry

    @contextmanager
    def run(
        self,
        context: dg.AssetExecutionContext,
        experiment: str,
        *,
        mlflow_run_id: str | None = None,
    ) -> Iterator[tuple["ModelRegistry", "TrackedRun"]]:
        """The step's MLflow run, tagged with the Dagster run; it ends FAILED when the body raises.

        Args:
            context: the step's.
            experiment: MLflow experiment.
            mlflow_run_id: a run to continue, as evaluation continues training's.
        """
        registry = self.registry(experiment)
        import mlflow
        from dagster_mlflow.resources import MlFlow

        from ibook_assets.stores.registry import keeps_tracking_variable

        # dagster_mlflow 0.29 with MLflow 3 leaves failed runs FINISHED and one run open for the
        # next step: the registry ends a failed run, and this block ends every other.
        step = _StepContext(
            log=context.log,
            dagster_run=context.run,
            run_id=context.run.run_id,
            resource_config={
                "mlflow_tracking_uri": self.uri,
                "experiment_name": experiment,
                "mlflow_run_id": mlflow_run_id,
            },
        )
        with keeps_tracking_variable():
            MlFlow(step)  # type: ignore[no-untyped-call]  # the package is untyped
        try:
            with registry.run(context.asset_key.to_user_string()) as run:
                yield registry, run
        finally:
            mlflow.end_run()


class _RunIdentity(Protocol):
    @property
    def job_name(self) -> str: ...


@dataclass(frozen=True, slots=True)
class _StepContext:
    """What dagster_mlflow reads of a resource's context."""

    log: Logger
    dagster_run: _RunIdentity
    run_id: str
    resource_config: dict[str, Any]
