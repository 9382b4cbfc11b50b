"""`ibook demo`: the whole platform on one machine, from simulated orders to a scored request."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import dagster as dg
import httpx
from rich.panel import Panel
from rich.table import Table

from ibook_assets.cli.console import console
from ibook_assets.cli.materialise import materialise
from ibook_assets.cli.processes import child, free_port, wait_for
from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.settings import Settings
from ibook_assets.definitions import defs
from ibook_assets.defs.partitions import days_between
from ibook_assets.stores.blobs import open_blobs
from ibook_assets.stores.feature_days import feature_table
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.promotions import PromotionLog

START_SECONDS: Final = 120.0
"""How long a server may take until it answers."""

DAGSTER_PORT: Final = 3000
MLFLOW_PORT: Final = 5000


@dataclass(frozen=True, slots=True)
class Servers:
    """Addresses of what the demo started."""

    api: str
    dagster: str
    mlflow: str


def run(settings: Settings, *, days: int, stay: bool) -> None:
    """Materialise `days` days and what follows from them, serve, score one request.

    Args:
        settings: where state lives and what feeds the platform.
        days: daily partitions from `settings.start_date` on that exist at the end.
        stay: keep serving until Ctrl-C; otherwise everything stops after the scored request.
    """
    began = time.monotonic()
    lake = Lake(open_blobs(settings.lake, endpoint_url=settings.s3_endpoint_url))
    _materialise(settings, lake, days)
    console.print("[bold]3[/]  start the servers")
    with _servers(settings) as servers:
        request = _request_of_last_order(lake)
        _show(servers, request, _score(servers.api, request), seconds=time.monotonic() - began)
        if stay:
            _wait_for_interrupt()


def _materialise(settings: Settings, lake: Lake, days: int) -> None:
    logs = settings.home / "demo"
    graph = defs.resolve_asset_graph()
    daily = sorted(key for key in graph.materializable_asset_keys if graph.get(key).is_partitioned)
    once = sorted(graph.materializable_asset_keys - set(daily))
    catalogue = dg.AssetKey(["raw", "events"])
    keys = days_between(settings.start_date, settings.start_date + timedelta(days=days - 1))
    missing = sorted(set(keys) - _complete_days(lake))
    if missing:
        console.print(f"[bold]1[/]  simulate {len(missing)} days and compute their features")
        materialise([catalogue, *daily], log=logs / "days.log", days=(missing[0], missing[-1]))
    else:
        console.print(f"[bold]1[/]  all {days} days are there, nothing to recompute")
    if missing or PromotionLog(lake.blobs).current("fraud") is None:
        console.print("[bold]2[/]  train, evaluate, gate, promote, publish features")
        materialise([key for key in once if key != catalogue], log=logs / "model.log")
    else:
        console.print("[bold]2[/]  the promoted model has seen these days, nothing to train")


def _complete_days(lake: Lake) -> set[str]:
    """Days that have every feature view in its present definition."""
    return set.intersection(*(set(lake.partitions(feature_table(v))) for v in FEATURE_VIEWS))


@contextmanager
def _servers(settings: Settings) -> Iterator[Servers]:
    logs = settings.home / "demo"
    ports = [free_port(p) for p in (settings.port, DAGSTER_PORT, MLFLOW_PORT)]
    api, dagster, mlflow = (f"http://127.0.0.1:{port}" for port in ports)
    python = [sys.executable, "-m"]
    commands = {
        "api": [*python, "ibook_serving", "--port", str(ports[0])],
        "dagster": [
            *(*python, "dagster", "dev", "-w", "workspace.yaml"),
            *("-h", "127.0.0.1", "-p", str(ports[1])),
        ],
        "mlflow": mlflow_command(settings, ports[2]),
    }
    health = {
        "api": f"{api}/readyz",
        "dagster": f"{dagster}/server_info",
        "mlflow": f"{mlflow}/health",
    }
    with ExitStack() as stack, console.status("starting") as status:
        children = {
            name: stack.enter_context(child(name, command, log=logs / f"{name}.log"))
            for name, command in commands.items()
        }
        for name, process in children.items():
            status.update(f"waiting for {name}")
            wait_for(health[name], process, seconds=START_SECONDS)
        status.stop()
        yield Servers(api=api, dagster=dagster, mlflow=mlflow)


def mlflow_command(settings: Settings, port: int) -> list[str]:
    """Command line of the MLflow UI over the platform's tracking store, on loopback."""
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", settings.tracking_uri, "--workers", "1"),
    ]


def _request_of_last_order(lake: Lake) -> dict[str, Any]:
    """A scoring request of the newest order in the lake: the reference system's three fields."""
    day = lake.partitions("facts/transactions")[-1]
    columns = ["user_id", "event_id", "amount_cents"]
    last = lake.read("facts/transactions", [day], columns=columns).slice(0, 1).to_pylist()[0]
    amount = last["amount_cents"] / 100
    return {
        "requests": [{"user_id": last["user_id"], "event_id": last["event_id"], "amount": amount}]
    }


def _score(api: str, request: dict[str, Any]) -> dict[str, Any]:
    response = httpx.post(f"{api}/predict?explain=true", json=request, timeout=10)
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer


def _show(
    servers: Servers, request: dict[str, Any], answer: dict[str, Any], *, seconds: float
) -> None:
    prediction = answer["predictions"][0]
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("score", f"{prediction['score']:.4f}")
    table.add_row("decision", f"{prediction['decision']}, from {prediction['threshold']:.4f} on")
    table.add_row("model", prediction["model_version"])
    for reason in prediction.get("reasons", []):
        table.add_row("because", f"{reason['phrase']} ({reason['contribution']:+.3f})")
    console.print(Panel(table, title="a scored order", expand=False))
    links = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    links.add_row("Dagster", servers.dagster)
    links.add_row("MLflow", servers.mlflow)
    links.add_row("API", f"{servers.api}/docs")
    console.print(links)
    curl = (
        f"curl -s {servers.api}/predict?explain=true -H 'content-type: application/json' "
        f"-d '{json.dumps(request)}'"
    )
    console.print(curl, soft_wrap=True, highlight=False, markup=False)
    console.print(f"[green]ready after {seconds:.0f} s[/]")


def _wait_for_interrupt() -> None:
    console.print("serving; Ctrl-C stops everything")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        console.print("stopping")
