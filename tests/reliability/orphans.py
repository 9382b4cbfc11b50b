"""Row 5: the run worker of a multiprocess run is killed while its steps are about to commit.

`python -m tests.reliability.orphans` prints the figures.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import dagster as dg

from ibook_assets.core.arrow import integers
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.local_blobs import LocalBlobs

JOB_FILE = Path(__file__).with_name("orphan_job.py")
ASSETS = ("dying", "orphan")
STUCK_SECONDS = 120

INSTANCE = """
run_monitoring:
  enabled: true
  poll_interval_seconds: 2
run_retries:
  enabled: true
  max_retries: 1
  retry_on_asset_or_op_failure: false
run_queue:
  dequeue_interval_seconds: 1
telemetry:
  enabled: false
"""


@dataclass(frozen=True, slots=True)
class Figures:
    """What became of a run whose worker was killed."""

    statuses: list[str]
    """Of the killed run and of its retry."""
    attempts: dict[str, list[int]]
    """What each asset's partition holds."""
    commits: dict[str, int]
    """Commits of each asset."""
    refused: str
    """What the step that outlived its run was told."""
    noticed_seconds: float
    """From the kill until the run counted as failed."""
    recovered_seconds: float
    """From the kill until the retry had succeeded."""


def kill_a_run_worker(home: Path) -> Figures:
    """Run the job with Dagster's daemon, and kill the run worker when both steps are waiting."""
    (home / "dagster.yaml").write_text(INSTANCE)
    environment = os.environ | {"DAGSTER_HOME": str(home), "IBOOK_ORPHANS": str(home)}
    with _daemon(home, environment), dg.DagsterInstance.from_config(str(home)) as instance:
        _dagster(environment, "job", "launch", "-f", str(JOB_FILE), "-j", "late")
        started = [home / f"{name}.started" for name in ASSETS]
        _wait_for(lambda: all(path.exists() for path in started))
        (dying, worker), (_, parent) = (map(int, path.read_text().split()) for path in started)
        assert worker == parent
        os.kill(worker, signal.SIGKILL)
        killed = time.monotonic()
        _wait_for(lambda: not Path(f"/proc/{dying}").exists())
        _wait_for(lambda: dg.DagsterRunStatus.FAILURE in _statuses(instance))
        noticed = time.monotonic() - killed
        _wait_for(lambda: dg.DagsterRunStatus.SUCCESS in _statuses(instance))
        recovered = time.monotonic() - killed
        (home / "go").touch()
        refused = home / "orphan.refused"
        _wait_for(lambda: refused.exists() and bool(refused.read_text()))
        statuses = _statuses(instance)
    lake = Lake(LocalBlobs(home / "lake"))
    return Figures(
        statuses=[status.value for status in statuses],
        attempts={
            name: integers(lake.read(f"facts/{name}")["attempt"], null=0).tolist()
            for name in ASSETS
        },
        commits={n: len((home / f"{n}.commits").read_text().splitlines()) for n in ASSETS},
        refused=refused.read_text(),
        noticed_seconds=round(noticed, 1),
        recovered_seconds=round(recovered, 1),
    )


def _statuses(instance: dg.DagsterInstance) -> list[dg.DagsterRunStatus]:
    """Of all runs, the first one first."""
    return [run.status for run in reversed(list(instance.get_runs()))]


def _command(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name(arguments[0])), *arguments[1:]]


def _dagster(environment: dict[str, str], *arguments: str) -> None:
    subprocess.run(
        _command("dagster", *arguments), env=environment, check=True, capture_output=True
    )


@contextmanager
def _daemon(home: Path, environment: dict[str, str]) -> Iterator[None]:
    with (home / "daemon.log").open("ab") as log:
        process = subprocess.Popen(
            _command("dagster-daemon", "run", "-f", str(JOB_FILE)),
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
    finally:
        (home / "go").touch()
        process.terminate()
        process.wait(timeout=60)


def _wait_for(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + STUCK_SECONDS
    while not reached():
        assert time.monotonic() < deadline, "stuck"
        time.sleep(0.05)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(f"{asdict(kill_a_run_worker(Path(folder)))}\n")


if __name__ == "__main__":
    main()
