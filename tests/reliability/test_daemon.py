"""A real daemon over the platform's own sensors: one retrain an episode, one alert a matter.

It is killed outright in between. Nothing of the platform is ticked by hand.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from ibook_assets.core.use_cases import FRAUD
from ibook_assets.defs.monitoring import drift_key
from ibook_assets.defs.retraining import EPISODE, UNTIL
from ibook_assets.stores.local_blobs import LocalBlobs
from ibook_assets.stores.promotions import PromotionLog
from tests.promotion_drafts import a_draft, stored_artefact
from tests.services.receiver import Receiver, receiving

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 150.0
"""For what a daemon does within half a minute on an idle machine."""
INSTANCE = """\
storage:
  sqlite:
    base_dir: {home}/history
run_monitoring:
  enabled: true
  poll_interval_seconds: 3
  start_timeout_seconds: 60
telemetry:
  enabled: false
"""


class Daemon:
    """`dagster-daemon run` of the platform, in a process group of its own."""

    def __init__(self, home: Path, hook: str) -> None:
        self._home = home
        self._environment = {
            **os.environ,
            "DAGSTER_HOME": str(home),
            "IBOOK_HOME": str(home / "state"),
            "IBOOK_ALERT_WEBHOOKS": f"ops=generic:{hook}",
            "IBOOK_WATCH_SERVER": "false",
            "PYTHONPATH": str(ROOT),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._home / "daemon.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    Path(sys.executable).with_name("dagster-daemon"),
                    "run",
                    "-m",
                    "ibook_assets.definitions",
                ],
                cwd=self._home,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """End it and everything it started, as a lost machine would."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder of an instance whose lake has a champion."""
    (tmp_path / "dagster.yaml").write_text(INSTANCE.format(home=tmp_path))
    blobs = LocalBlobs(str(tmp_path / "state" / "lake"))
    draft = a_draft("v1", artefact=stored_artefact(blobs))
    PromotionLog(blobs).promote(draft, expected_parent=None)
    return tmp_path


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(home)) as found:
        yield found


@pytest.fixture
def net() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def daemon(home: Path, net: Receiver) -> Iterator[Daemon]:
    found = Daemon(home, f"{net.url}/hook")
    yield found
    found.kill()


def wait_until(what: Callable[[], bool], home: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not what():
        if time.monotonic() > deadline:
            pytest.fail((home / "daemon.log").read_text()[-4_000:])
        time.sleep(0.2)


def drifted(instance: dg.DagsterInstance, day: str) -> None:
    metadata: dict[str, str | float | int] = {
        "day": day,
        "state": "stable",
        "drift_score": 0.7,
        "champion_version": "v1",
        "new_days": 3,
    }
    instance.report_runless_asset_event(
        dg.AssetMaterialization(asset_key=drift_key(FRAUD), partition=day, metadata=metadata)
    )


@pytest.mark.slow
@pytest.mark.timeout(3 * PATIENCE_SECONDS)
def test_a_killed_daemon_trains_once_an_episode_and_tells_everything_once(
    home: Path, instance: dg.DagsterInstance, daemon: Daemon, net: Receiver
) -> None:
    drifted(instance, "2026-03-15")
    daemon.start()

    def runs() -> list[dg.DagsterRun]:
        return [run for run in instance.get_runs() if EPISODE in run.tags]

    def told() -> set[tuple[str, str]]:
        return {(body["kind"], body["status"]) for body in net.bodies}

    wait_until(lambda: bool(runs()), home)
    daemon.kill()
    drifted(instance, "2026-03-16")
    daemon.start()
    # The lake has no facts, so that training fails, or its process was killed with the daemon.
    wait_until(lambda: {("drift", "firing"), ("training", "firing")} <= told(), home)
    (run,) = runs()
    assert run.status is dg.DagsterRunStatus.FAILURE
    assert run.tags[UNTIL] == "2026-03-15"
    ids = [body["id"] for body in net.bodies]
    assert len(ids) == len(set(ids))
    assert {name for name, _ in told()} == {"drift", "training", "promotion"}
