"""A small platform of its own for each test: folders of its own, a small world, real stores."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path

import dagster as dg
import pytest

from ibook_assets.core.settings import Settings
from ibook_assets.definitions import build_defs

NOBODY = "127.0.0.1:1"
"""An address where no broker listens."""


@pytest.fixture
def small(tmp_path: Path) -> Settings:
    """A world that is materialised in seconds."""
    return Settings(
        home=tmp_path,
        sim_users=400,
        sim_events=20,
        sim_orders_per_day=60,
        label_maturity_days=5,
        tuning_trials=1,
        training_threads=1,
        task_retries=0,
    )


@pytest.fixture
def logged(small: Settings) -> Settings:
    """The small world, whose days come from the log from the second on."""
    return small.model_copy(
        update={
            "log_from": date(2026, 1, 2),
            "kafka_bootstrap": NOBODY,
        }
    )


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as found:
        yield found


def run(
    settings: Settings,
    keys: Sequence[Sequence[str]],
    *,
    days: tuple[str, str] | None = None,
    config: Mapping[str, Mapping[str, object]] | None = None,
    raise_on_error: bool = True,
) -> dg.ExecuteInProcessResult:
    """Materialise `keys`, for the first to the last of `days` where they are partitioned.

    `config` gives steps, by name, the configuration that the launchpad would.
    """
    tags = {}
    if days:
        tags["dagster/asset_partition_range_start"] = days[0]
        tags["dagster/asset_partition_range_end"] = days[1]
    wanted = [dg.AssetKey(key) for key in keys]
    job = build_defs(settings).resolve_implicit_job_def_def_for_assets(wanted)
    assert job is not None
    with dg.DagsterInstance.ephemeral(tempdir=str(settings.home)) as instance:
        return job.execute_in_process(
            run_config={"ops": {step: {"config": given} for step, given in (config or {}).items()}},
            asset_selection=wanted,
            tags=tags,
            instance=instance,
            raise_on_error=raise_on_error,
        )
