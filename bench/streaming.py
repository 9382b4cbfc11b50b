"""The stream: how soon an event counts in the online features, and how quickly a worker catches up.

    python -m bench.streaming --rate 2000 --seconds 30

Everything runs on this machine at once: the broker, the gateway, the product's own worker and sink
(`ibook stream …`), the store and the reader. Events come on a schedule (open loop), so a latency is
counted from when its event was due. Accounts have a year of history in the store.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.online_store import REPORT as STORES_REPORT
from bench.streaming_backlog import Throughput, apply, fill, read
from bench.streaming_latency import Latency, measure
from bench.streaming_stage import broker_in, brokers, stage_on, stores
from tests.services.brokers import BrokerService

REPORT: Final = Path("reports/bench/streaming.json")


def latencies(
    kinds: Sequence[type[BrokerService]], names: Sequence[str], *, rate: int, seconds: int
) -> list[Latency]:
    """Every store on every broker, each on a broker and a store of its own."""
    found = []
    for kind in kinds:
        for name in names:
            with tempfile.TemporaryDirectory(prefix="ibook-bench-") as folder:
                place = Path(folder)
                with (
                    broker_in(kind, place / "broker") as broker,
                    stage_on(broker, name, place / "home") as stage,
                ):
                    found.append(measure(stage, rate=rate, seconds=seconds))
    return found


def throughputs(
    kinds: Sequence[type[BrokerService]], names: Sequence[str], rows: int
) -> list[Throughput]:
    """On every broker one log, that is filled, read bare, and applied to each store."""
    found = []
    for kind in kinds:
        with tempfile.TemporaryDirectory(prefix="ibook-bench-") as folder:
            place = Path(folder)
            with broker_in(kind, place / "broker") as broker:
                found.append(fill(broker, rows))
                sent = found[-1].rows
                found += [read(broker, sent, decoding=decoding) for decoding in (False, True)]
                for name in names:
                    with stage_on(broker, name, place / name) as stage:
                        found.append(apply(stage, sent))
    return found


def show_latencies(found: Sequence[Latency]) -> None:
    """One line a run."""
    first = found[0]
    title = f"Event to online feature, {first.asked_rate:,} events/s, {os.cpu_count()} cores"
    table = Table(title=title)
    for name in (
        "broker",
        "store",
        "events/s",
        "orders",
        "p50",
        "p95",
        "p99",
        "max",
        "sender late",
    ):
        table.add_column(name, justify="left" if name in {"broker", "store"} else "right")
    table.add_column("cores of each process, and of what else ran")
    for m in found:
        ms = [f"{v:,.0f}" for v in (m.p50_ms, m.p95_ms, m.p99_ms, m.max_ms, m.lag_p99_ms)]
        cores = ", ".join(f"{name} {share:.2f}" for name, share in m.cores.items())
        rate = f"{m.rate:,.0f}" + ("" if m.valid else " INVALID")
        table.add_row(m.broker, m.store, rate, f"{m.samples:,}", *ms, cores)
    Console(width=150).print(table)
    print(
        "milliseconds, from when an event was due; 'sender late' is the p99 of the sender's delay"
    )


def show_throughputs(found: Sequence[Throughput]) -> None:
    """One line a contender."""
    table = Table("broker", "contender", "rows", "rows/s", "CPU µs/row", title="A log to catch up")
    for m in found:
        speed, cpu = f"{m.rows_per_s:,.0f}", f"{m.cpu_us_per_row:.1f}"
        table.add_row(m.broker, m.contender, f"{m.rows:,}", speed, cpu)
    Console(width=150).print(table)


def bytes_per_user() -> list[dict[str, Any]]:
    """What `bench.online_store` has found last; empty when it has not run."""
    if not STORES_REPORT.exists():
        return []
    names = ("store", "users", "record_bytes_per_user", "order_bytes", "view_bytes")
    return [{name: m[name] for name in names} for m in json.loads(STORES_REPORT.read_text())]


def main() -> None:
    """Measure both and write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=int, default=2_000, help="events a second")
    parser.add_argument("--seconds", type=int, default=30, help="of each latency run")
    parser.add_argument("--rows", type=int, default=200_000, help="to catch up; 0 for none")
    parser.add_argument("--brokers", nargs="*", default=["kafka", "development"])
    parser.add_argument("--stores", nargs="*", default=["lmdb", "redis"])
    asked = parser.parse_args()
    kinds = [k for k in brokers() if any(word in k.name.lower() for word in asked.brokers)]
    names = [name for name in stores() if name.lower() in asked.stores]
    found = latencies(kinds, names, rate=asked.rate, seconds=asked.seconds)
    show_latencies(found)
    caught_up = throughputs(kinds, names, asked.rows) if asked.rows else []
    if caught_up:
        show_throughputs(caught_up)
    users = bytes_per_user()
    for m in users:
        print(
            f"{m['store']}, by bench.online_store: {m['record_bytes_per_user']:,.0f} bytes per "
            f"user in records, {m['order_bytes']:,.0f} per order, {m['view_bytes']:,.0f} per view"
        )
    report = {
        "cores": os.cpu_count(),
        "latency": [asdict(m) for m in found],
        "throughput": [asdict(m) for m in caught_up],
        "bytes": users,
    }
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"written to {REPORT}")


if __name__ == "__main__":
    main()
