"""The platform's servers on this machine, as children: Dagster, the scoring server, MLflow."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import dagster as dg
from rich.table import Table

from ibook_assets.cli.console import console
from ibook_assets.cli.processes import Child, child, free_port, wait_for
from ibook_assets.core.settings import Settings

LOOPBACK: Final = "127.0.0.1"
DAGSTER_PORT: Final = 3000
MLFLOW_PORT: Final = 5000

START_SECONDS: Final = 120.0
"""How long a server may take until it answers."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that has been started, where it will answer and where it says that it does."""

    url: str
    ready: str
    process: Child

    def wait(self) -> None:
        """Return once it answers; StoreUnavailableError when it ends before, or takes too long."""
        wait_for(f"{self.url}{self.ready}", self.process, seconds=START_SECONDS)


def prepare_history() -> None:
    """Create Dagster's databases: two processes that both find none would disturb each other."""
    with dg.DagsterInstance.get() as instance:
        instance.get_runs_count()
        instance.get_asset_keys()
        instance.all_instigator_state()


@contextmanager
def dagster(logs: Path) -> Iterator[Server]:
    """Dagster's UI and daemon; not waited for."""
    port = free_port(DAGSTER_PORT)
    command = [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml"]
    command += ["-h", LOOPBACK, "-p", str(port)]
    with child("dagster", command, log=logs / "dagster.log") as process:
        yield Server(f"http://{LOOPBACK}:{port}", "/server_info", process)
        process.check_alive()


@contextmanager
def scoring(settings: Settings, logs: Path) -> Iterator[Server]:
    """The scoring server; not waited for."""
    port = free_port(settings.port)
    command = [sys.executable, "-m", "ibook_serving", "--port", str(port)]
    with child("api", command, log=logs / "api.log") as process:
        yield Server(f"http://{LOOPBACK}:{port}", "/readyz", process)


@contextmanager
def mlflow(settings: Settings, logs: Path) -> Iterator[Server]:
    """MLflow's UI; not waited for."""
    (settings.home / "mlflow").mkdir(parents=True, exist_ok=True)
    port = free_port(MLFLOW_PORT)
    with child("mlflow", mlflow_command(settings, port), log=logs / "mlflow.log") as process:
        yield Server(f"http://{LOOPBACK}:{port}", "/health", process)


def mlflow_command(settings: Settings, port: int) -> list[str]:
    """Command line of the MLflow UI over the platform's tracking store, on loopback."""
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(port)),
        *("--backend-store-uri", settings.tracking_uri, "--workers", "1"),
    ]


def show_links(links: Mapping[str, str]) -> None:
    """Print where people can look."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, address in links.items():
        table.add_row(name, address)
    console.print(table)


def wait_for_interrupt() -> None:
    """Return when somebody presses Ctrl-C."""
    console.print("serving; Ctrl-C stops everything")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        console.print("stopping")
