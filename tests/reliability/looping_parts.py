"""What the loop under kills is made of: its settings, Dagster's daemon, those who ask."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ibook_assets.core.settings import Settings
from tests.reliability.asking import Client
from tests.serving.harness import free_port

JOB_FILE: Final = Path(__file__).with_name("looping_job.py")
CLIENTS: Final = 2
REQUESTS_PER_SECOND: Final = 40
_SECONDS: Final = 1 / 3_600

INSTANCE: Final = """
run_monitoring:
  enabled: true
  poll_interval_seconds: 2
run_retries:
  enabled: true
  max_retries: 40
  retry_on_asset_or_op_failure: false
run_queue:
  dequeue_interval_seconds: 1
telemetry:
  enabled: false
"""


def settings_of(home: Path) -> Settings:
    """A small world that drifts, and rollouts that take seconds."""
    return Settings(
        home=home,
        port=free_port(),
        sim_users=6_000,
        sim_events=30,
        sim_orders_per_day=1_200,
        sim_drift_level=0.7,
        sim_drift_from="2026-01-31",
        sim_drift_axes="covariate",
        label_maturity_days=5,
        tuning_trials=1,
        task_retries=0,
        retraining_cooldown_hours=0,
        retraining_retry_minutes=5,
        rollout_shadow_hours=3 * _SECONDS,
        rollout_watch_hours=3 * _SECONDS,
        rollout_shares="0.4",
        rollout_minimum_units=60,
        rollout_window_seconds=2,
        rollout_settle_seconds=6,
        rollout_look_seconds=1,
        prediction_ship_seconds=1,
        api_processes=2,
    )


def environment(settings: Settings, crashes: Sequence[str]) -> dict[str, str]:
    """Variables of all processes of the loop."""
    told = settings.model_dump(include=settings.model_fields_set)
    variables = {f"IBOOK_{name.upper()}": str(value) for name, value in told.items()}
    return {
        **os.environ,
        **variables,
        "DAGSTER_HOME": str(settings.home / "dagster"),
        "IBOOK_LOOP_CRASHES": ",".join(crashes),
    }


def command(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name(arguments[0])), *arguments[1:]]


@dataclass
class Daemon:
    """Dagster's daemon, which is killed and started again."""

    environment: Mapping[str, str]
    log: Path
    job_file: Path = JOB_FILE
    _process: subprocess.Popen[bytes] | None = None
    _orphans: set[int] = field(default_factory=set)

    def start(self) -> None:
        """Start it; its code server comes up with it."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command("dagster-daemon", "run", "-f", str(self.job_file)),
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        """SIGKILL; its code server, and the runs below that, live on for a while."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        self._orphans |= {int(pid) for pid in children.read_text().split()}
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """SIGTERM, and an end of what earlier daemons left."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(timeout=60)
        for pid in self._orphans:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


@contextmanager
def asking(port: int, users: Sequence[int]) -> Iterator[list[Client]]:
    """Clients that ask about one order at a time while the block runs."""
    stop = threading.Event()
    rng = random.Random(1)
    bodies = [
        (
            (i,),
            json.dumps(
                {
                    "requests": [
                        {
                            "user_id": user,
                            "event_id": i % 5,
                            "amount": rng.randint(500, 20_000) / 100,
                        }
                    ]
                }
            ).encode(),
        )
        for i, user in enumerate(users)
    ]
    every = CLIENTS / REQUESTS_PER_SECOND
    clients = [Client(port, bodies, every, stop, seed) for seed in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        yield clients
    finally:
        stop.set()
        for client in clients:
            client.join()
