"""Where a story plays: a small world, state of its own, Dagster, the server, and a warm worker."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import dagster as dg

from ibook_assets.cli.processes import free_port
from ibook_assets.core.errors import ConflictError, ContractError, IbookError
from ibook_assets.core.settings import Settings

START: Final = date(2026, 1, 1)
HISTORY_DAYS: Final = 48
"""Days before the first model is trained."""
CALM_DAYS: Final = 2
"""The last of them are monitored, and as many after them do not drift yet."""
DRIFTED_DAYS: Final = 28
"""Days after those, all drifted: long enough that labels of drifted orders have matured."""
MATURITY_DAYS: Final = 18
TRAFFIC_DAYS: Final = 12
"""Days after them whose orders are scored, over and over."""

_INSTANCE: Final = Path("dagster.yaml")
_STATE: Final = ".ibook/dagster"
"""Where the project's own instance keeps its state, in `_INSTANCE`."""

_SECONDS: Final = 1 / 3_600
"""Hours."""


def day(number: int) -> date:
    """Day `number` of the story; 0 is the first."""
    return START + timedelta(days=number)


DRIFT_FROM: Final = day(HISTORY_DAYS + CALM_DAYS)
LAST_DAY: Final = day(HISTORY_DAYS + CALM_DAYS + DRIFTED_DAYS - 1)


def environment(home: Path, *, level: float) -> dict[str, str]:
    """Variables of all processes of a story whose state is in `home`.

    Times that are hours in production are seconds here; what is judged, and how, is the same.
    """
    told: Mapping[str, object] = {
        "home": home,
        "lake_uri": home / "lake",
        "mlflow_tracking_uri": f"sqlite:///{home}/mlflow/mlflow.db",
        "online_url": home / "online-live",
        "source": "simulator",
        "start_date": START,
        "sim_users": 20_000,
        "sim_events": 200,
        "sim_orders_per_day": 1_800,
        "sim_drift_level": level,
        "sim_drift_from": DRIFT_FROM,
        # Prices alone: what can be learnt anew. No model finds fraud that looks like all else.
        "sim_drift_axes": "covariate",
        "label_maturity_days": MATURITY_DAYS,
        "tuning_trials": 1,
        "retraining_cooldown_hours": 0,
        "rollout_automatic": True,
        "rollout_shadow_hours": 10 * _SECONDS,
        "rollout_shares": "0.4",
        "rollout_watch_hours": 10 * _SECONDS,
        "rollout_window_seconds": 5,
        "rollout_settle_seconds": 6,
        "rollout_look_seconds": 1,
        "prediction_log": "lake",
        "prediction_ship_seconds": 2,
        "port": free_port(Settings().port),
        # Nobody is to be called out of bed by a story.
        "alert_webhooks": "",
    }
    variables = {f"IBOOK_{name.upper()}": str(value) for name, value in told.items()}
    return variables | {"DAGSTER_HOME": str(home / "dagster"), "IBOOK_ENV_FILE": ""}


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """Play in `home` while nobody else does.

    Raises:
        ConflictError: another story plays there.
    """
    home.mkdir(parents=True, exist_ok=True)
    with (home / "story.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            msg = f"another story plays in {home}/story: wait for its end, or set IBOOK_HOME"
            raise ConflictError(msg) from error
        yield


def prepare(settings: Settings, *, level: float) -> Settings:
    """Make an empty home for a story and turn this process, and its children, to it.

    Raises:
        ContractError: the working directory is not the project's root.
    """
    if not _INSTANCE.is_file() or _STATE not in _INSTANCE.read_text():
        msg = f"{Path.cwd()} has no {_INSTANCE} of the platform: run this in the project's root"
        raise ContractError(msg)
    home = settings.home.resolve() / "story"
    if home.exists():
        shutil.rmtree(home)
    variables = environment(home, level=level)
    instance = Path(variables["DAGSTER_HOME"])
    instance.mkdir(parents=True)
    own = _INSTANCE.read_text().replace(_STATE, str(instance))
    (instance / _INSTANCE.name).write_text(own)
    for name in [name for name in os.environ if name.startswith("IBOOK_")]:
        del os.environ[name]
    os.environ.update(variables)
    # This process has read which file to take its settings from; its children will read it anew.
    return Settings(_env_file=None)


class JobError(IbookError):
    """A job of the story failed."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that has loaded the graph, to run jobs of it without waiting for that."""

    pool: ProcessPoolExecutor

    def run(self, job: str, *days: date) -> Future[None]:
        """Run `job`, once for each of `days` where it has partitions; in Dagster's history, too.

        The result raises JobError when a step failed.
        """
        return self.pool.submit(_run, job, [found.isoformat() for found in days])


@contextmanager
def worker(log: Path) -> Iterator[Worker]:
    """A worker that begins to load at once; what it prints goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(1, get_context("spawn"), _load, (log,)) as pool:
        pool.submit(os.getpid)
        yield Worker(pool)


def _load(log: Path) -> None:
    with log.open("wb") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    # What takes seconds to import and is needed by the first job that is asked for.
    for module in ("ibook_assets.definitions", "ibook_assets.training.drift_page"):
        import_module(module)


def _run(job: str, days: Sequence[str | None]) -> None:
    from ibook_assets.definitions import defs

    found = defs.resolve_job_def(job)
    with dg.DagsterInstance.get() as instance:
        for key in days or [None]:
            done = found.execute_in_process(
                partition_key=key, instance=instance, raise_on_error=False
            )
            if not done.success:
                failed = [event.step_key for event in done.all_events if event.is_step_failure]
                msg = f"{job} failed at {failed}: look at run {done.run_id} in Dagster"
                raise JobError(msg)
