"""Messages a second that the realtime generator encodes on one core, beside the json module.

`python -m bench.realtime` prints a table and writes reports/bench/realtime.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from ibook_assets.core.messages import encode_rows, topic_of
from ibook_sim.realtime.payloads import bodies, http_requests
from ibook_sim.world import World, WorldConfig

REPORT = Path("reports/bench/realtime.json")
AIM = 50_000
"""Messages a second and core that each encoder should reach."""
URL = urlsplit("http://127.0.0.1:8000/predict")


def by_json(rows: pa.Table) -> list[bytes]:
    """The same orders, row by row with the standard library."""
    return [json.dumps({"requests": [_wire(row)]}).encode() for row in rows.to_pylist()]


def _wire(row: dict[str, Any]) -> dict[str, Any]:
    renamed = {
        "amount": row.pop("amount_cents") / 100,
        "checkout_seconds": row.pop("checkout_ms") / 1_000,
        "geo_distance_km": row.pop("geo_distance_m") / 1_000,
        "account_age_days": row.pop("account_age_s") / 86_400,
    }
    del row["occurred_ts"], row["known_ts"]
    return {k: v for k, v in (row | renamed).items() if v is not None}


def rate(rounds: int, rows: pa.Table, work: Callable[[pa.Table], list[bytes]]) -> float:
    """Messages a CPU second, best round."""
    best = 0.0
    for _ in range(rounds):
        began = time.process_time()
        made = work(rows)
        best = max(best, len(made) / (time.process_time() - began))
    return best


def main() -> None:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    pa.set_cpu_count(1)
    config = WorldConfig(orders_per_day=20_000, users=100_000)
    rows = World(config).transactions(config.start_date)
    topic = topic_of("transactions")
    found = {
        "scoring requests": rate(options.rounds, rows, lambda r: http_requests(bodies(r), URL)),
        "log messages": rate(options.rounds, rows, lambda r: encode_rows(topic, r)),
        "scoring bodies by json": rate(options.rounds, rows, by_json),
    }
    title = f"Encoded on one core ({rows.num_rows:,} orders, aim {AIM:,})"
    table = Table("what", "messages/s", title=title)
    for name, value in found.items():
        table.add_row(name, f"{value:,.0f}")
    Console().print(table)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
