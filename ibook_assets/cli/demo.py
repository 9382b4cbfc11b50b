"""`ibook demo`: the whole platform on one machine, from simulated orders to a scored request."""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

import dagster as dg
import httpx
from rich.panel import Panel
from rich.table import Table

from ibook_assets.cli.console import console
from ibook_assets.cli.demo_stream import show, streaming
from ibook_assets.cli.local_servers import (
    dagster,
    mlflow,
    prepare_history,
    scoring,
    show_links,
    wait_for_interrupt,
)
from ibook_assets.cli.materialise import keys_of, materialise
from ibook_assets.core.errors import ContractError
from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import TRANSACTIONS
from ibook_assets.core.times import from_us
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.defs.partitions import (
    FACTS,
    FEATURES,
    MONITORING,
    RAW,
    SERVING,
    TRUTH,
    days_between,
)
from ibook_assets.defs.sources import source_of
from ibook_assets.stores.blobs import open_blobs
from ibook_assets.stores.feature_days import featured_days
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.promotions import PromotionLog
from ibook_assets.stores.skew_days import FEATURE_LOG_TABLE, SKEW_TABLE

_SAME_NAME: Final = (
    *("user_id", "event_id", "promoter_id", "card_id", "device_id", "ip_id"),
    *("quantity", "tier", "channel", "declines", "avs_match", "device_accounts"),
)
"""Fields of a scoring request that are columns of the facts."""

_SCALED: Final = {
    "amount": ("amount_cents", 100),
    "checkout_seconds": ("checkout_ms", 1_000),
    "geo_distance_km": ("geo_distance_m", 1_000),
    "account_age_days": ("account_age_s", 86_400),
}
"""Fields in people's units: the column behind them and how many of its units make one."""


def run(settings: Settings, *, days: int, stay: bool) -> None:
    """Materialise `days` days and what follows from them, serve, score one request.

    Args:
        settings: where state lives and what feeds the platform.
        days: daily partitions from `settings.start_date` on that exist at the end.
        stay: keep serving until Ctrl-C; otherwise everything stops after the scored request.
    """
    began = time.monotonic()
    # Children find the instance that `make dev` uses, as the demo itself does.
    os.environ.setdefault("DAGSTER_HOME", str(Path.cwd()))
    lake = Lake(open_blobs(settings.lake, endpoint_url=settings.s3_endpoint_url))
    prepare_history()
    logs = settings.home / "demo"
    # Servers come up beside the materialisation; the scoring server answers 503 until it ends.
    with ExitStack() as running:
        graph = running.enter_context(dagster(logs))
        api = running.enter_context(scoring(settings, logs))
        tracking = running.enter_context(mlflow(settings, logs))
        console.print(f"watch the graph at {graph.url} (it takes some seconds to come up)")
        is_new = _compute_history(settings, lake, days)
        streamed_day = settings.start_date + timedelta(days=days)
        stream = None
        if streamed_day.isoformat() not in lake.partitions(SKEW_TABLE):
            stream = running.enter_context(streaming(settings, streamed_day, _LANDED))
        _train(settings, lake, is_new=is_new)
        if stream is None:
            console.print(f"[bold]3[/]  the events of {streamed_day} were streamed and landed")
        else:
            console.print(f"[bold]3[/]  what was streamed and landed meanwhile, {streamed_day}")
            show(stream.finish())
        console.print("[bold]4[/]  score an order")
        api.wait()
        tracking.wait()
        request = _request_of_next_order(settings, lake)
        _show_answer(_score(api.url, request))
        show_links({"Dagster": graph.url, "MLflow": tracking.url, "API": f"{api.url}/docs"})
        _show_curl(api.url, request)
        console.print(f"[green]ready after {time.monotonic() - began:.0f} s[/]")
        if stay:
            wait_for_interrupt()


_CATALOGUE: Final = dg.AssetKey([RAW, "events"])
_VECTORS: Final = dg.AssetKey(FEATURE_LOG_TABLE.split("/"))
_HISTORY: Final = [key for key in keys_of(RAW, TRUTH, FACTS, FEATURES) if key != _VECTORS]
"""What the days before the stream have."""
_LANDED: Final = [key for key in keys_of(RAW, FACTS, FEATURES, MONITORING) if key != _CATALOGUE]
"""What the streamed day has."""


def _compute_history(settings: Settings, lake: Lake, days: int) -> bool:
    """Materialise the days that are missing; whether there were any."""
    keys = days_between(settings.start_date, settings.start_date + timedelta(days=days - 1))
    missing = sorted(set(keys).difference(featured_days(lake)))
    if missing:
        console.print(f"[bold]1[/]  simulate {len(missing)} days and compute their features")
        log = settings.home / "demo" / "days.log"
        materialise(_HISTORY, log=log, days=(missing[0], missing[-1]))
    else:
        console.print(f"[bold]1[/]  all {days} days are there, nothing to recompute")
    return bool(missing)


def _train(settings: Settings, lake: Lake, *, is_new: bool) -> None:
    """Train on new history and promote; nothing where a promoted model has seen it."""
    if is_new or PromotionLog(lake.blobs).current(FRAUD.name) is None:
        console.print("[bold]2[/]  train, evaluate, gate, promote, publish; stream the next day")
        log = settings.home / "demo" / "model.log"
        materialise(keys_of(FRAUD.name, SERVING), log=log)
    else:
        console.print("[bold]2[/]  the promoted model has seen these days, nothing to train")


def _request_of_next_order(settings: Settings, lake: Lake) -> dict[str, Any]:
    """A scoring request of the first order after the lake's last day, with all that is known."""
    last = date.fromisoformat(lake.partitions("facts/transactions")[-1])
    orders = source_of(settings).delivery(TRANSACTIONS, last + timedelta(days=1)).rows
    if orders.num_rows == 0:
        msg = f"the source has no order after {last}; take a smaller --days, so that one is left"
        raise ContractError(msg)
    order = orders.slice(0, 1).to_pylist()[0]
    request = {name: order[name] for name in _SAME_NAME if order[name] is not None}
    request |= {
        name: order[column] / scale
        for name, (column, scale) in _SCALED.items()
        if order[column] is not None
    }
    request["occurred_at"] = from_us(order["occurred_ts"]).isoformat()
    return {"requests": [request]}


def _score(api: str, request: dict[str, Any]) -> dict[str, Any]:
    response = httpx.post(f"{api}/predict?explain=true", json=request, timeout=10)
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer


def _show_answer(answer: dict[str, Any]) -> None:
    prediction = answer["predictions"][0]
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("score", f"{prediction['score']:.4f}")
    table.add_row("decision", f"{prediction['decision']} (from {prediction['threshold']:.4f})")
    table.add_row("model", prediction["model_version"])
    table.add_row("features as of", prediction["features_as_of"])
    for reason in prediction["reasons"]:
        table.add_row("because", f"{reason['phrase']} ({reason['contribution']:+.3f})")
    console.print(Panel(table, title="the next order, scored", expand=False))


def _show_curl(api: str, request: dict[str, Any]) -> None:
    address = f"'{api}/predict?explain=true'"
    body = f"-H 'content-type: application/json' -d '{json.dumps(request)}'"
    console.print(f"curl -s {address} {body}", soft_wrap=True, highlight=False, markup=False)
