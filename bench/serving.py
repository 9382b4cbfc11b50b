"""ibook's server beside its peers: same model, orders, load generator and machine, in one run.

`python -m bench.serving` prints a table and writes reports/bench/serving.json; `--quick` takes a
minute. CPU per request, of a server's whole process tree, is what survives a busy machine; the rest
is as good as the cores that others left.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.process_tree import Instant, cpu_seconds, memory_mib, tree
from bench.serving_contenders import (
    Contender,
    NotStartedError,
    bodies_of,
    contenders,
    save_mlflow_model,
    started,
)
from bench.serving_load import Load
from bench.serving_stage import Stage, build_stage, fill, history
from tests.services.redis_server import RedisService

REPORT = Path("reports/bench/serving.json")
CONNECTIONS = 16
OPEN_CONNECTIONS = 256
OPEN_RATE = 2_000.0


@dataclass(frozen=True)
class Result:
    """One contender under one load."""

    contender: str
    loop: str
    """closed, or open with its rate."""
    load: Load
    cpu_us: float
    """CPU of the whole process tree per answer (microseconds)."""
    store_cpu_us: float
    """The same of Redis, where it is read."""
    memory_mib: float
    others_cores: float
    """Cores that were busy with other work meanwhile."""
    load_average: float


@dataclass(frozen=True)
class Plan:
    """How long and how often."""

    warm_seconds: float
    seconds: float
    rounds: int


def measure(
    contender: Contender, stage: Stage, plan: Plan, redis_pid: int | None
) -> Iterator[Result]:
    """Start `contender` and load it, closed and open in turn."""
    bodies = bodies_of(contender, stage)
    reads_redis = "redis" in contender.environment.get("IBOOK_ONLINE_URL", "")
    store = [redis_pid] if redis_pid is not None and reads_redis else []
    with started(contender, stage, bodies) as (pid, port):
        _generate(port, contender, bodies, plan.warm_seconds, None)
        for _ in range(plan.rounds):
            for rate in (None, OPEN_RATE):
                pids = tree(pid)
                before, began = (cpu_seconds(pids), cpu_seconds(store)), Instant.now()
                load = _generate(port, contender, bodies, plan.seconds, rate)
                own, stored = cpu_seconds(pids) - before[0], cpu_seconds(store) - before[1]
                known = own + stored + load.own_cpu_seconds
                answers = max(1, load.answers)
                yield Result(
                    contender.name,
                    "closed" if rate is None else f"open {rate:,.0f}/s",
                    load,
                    own / answers * 1e6,
                    stored / answers * 1e6,
                    memory_mib(pids),
                    Instant.now().cores_of_others(began, known),
                    os.getloadavg()[0],
                )


def _generate(
    port: int, contender: Contender, bodies: Path, seconds: float, rate: float | None
) -> Load:
    connections = CONNECTIONS if rate is None else OPEN_CONNECTIONS
    command = [sys.executable, "-m", "bench.serving_load", "--port", str(port)]
    command += ["--path", contender.path, "--bodies", str(bodies), "--seconds", str(seconds)]
    command += ["--connections", str(connections)]
    command += [] if rate is None else ["--rate", str(rate)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Load(**json.loads(done.stdout))


@contextmanager
def redis_of(folder: Path) -> Iterator[RedisService | None]:
    """A Redis that is running, None where it is not installed."""
    service = RedisService(folder)
    try:
        yield service.start()
    except FileNotFoundError:
        yield None
    finally:
        service.kill()


def summary(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The median round of each contender and loop, with every round beside it."""
    rows = []
    for name, loop in dict.fromkeys((r.contender, r.loop) for r in results):
        mine = [r for r in results if (r.contender, r.loop) == (name, loop)]
        rows.append(
            {
                "contender": name,
                "loop": loop,
                "per_second": median(r.load.per_second for r in mine),
                "p50_ms": median(r.load.p50_ms for r in mine),
                "p99_ms": median(r.load.p99_ms for r in mine),
                "failed_share": median(r.load.failed_share for r in mine),
                "cpu_us": median(r.cpu_us for r in mine),
                "store_cpu_us": median(r.store_cpu_us for r in mine),
                "memory_mib": max(r.memory_mib for r in mine),
                "generator_cpu_us": median(
                    r.load.own_cpu_seconds / max(1, r.load.answers) * 1e6 for r in mine
                ),
                "others_cores": median(r.others_cores for r in mine),
                "load_average": median(r.load_average for r in mine),
                "rounds": [asdict(r) for r in mine],
            }
        )
    return rows


def show(rows: Sequence[dict[str, Any]], missing: Mapping[str, str]) -> None:
    """Print the table, and who is missing."""
    head = ("server", "loop", "requests/s", "p50 ms", "p99 ms", "failed", "CPU µs", "MiB")
    table = Table(*head, "others' cores", title="One-row scoring, 300 trees of depth 6")
    for row in rows:
        cpu = f"{row['cpu_us']:.0f}"
        if row["store_cpu_us"]:
            cpu += f" + {row['store_cpu_us']:.0f}"
        table.add_row(
            row["contender"],
            row["loop"],
            f"{row['per_second']:,.0f}",
            f"{row['p50_ms']:.1f}",
            f"{row['p99_ms']:.1f}",
            f"{row['failed_share']:.2%}",
            cpu,
            f"{row['memory_mib']:.0f}",
            f"{row['others_cores']:.2f}",
        )
    console = Console(width=130)
    console.print(table)
    for name, why in missing.items():
        console.print(f"not measured: {name}: {why}")


def main() -> None:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round of each")
    parser.add_argument("--only", help="contenders whose name contains this")
    options = parser.parse_args()
    plan = Plan(0.5, 1.5, 1) if options.quick else Plan(1.0, 3.0, 2)
    results: list[Result] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ibook-bench-")))
        stage = build_stage(folder)
        redis = stack.enter_context(redis_of(folder))
        tables = history()
        fill(str(stage.home / "online-live"), tables)
        if redis:
            fill(redis.url, tables)
        save_mlflow_model(stage)
        everybody = contenders(stage, redis.url if redis else None)
        chosen = [c for c in everybody if options.only is None or options.only in c.name]
        missing = {c.name: f"needs {c.needs}" for c in chosen if c.needs}
        for contender in chosen:
            if contender.needs is None:
                try:
                    results += measure(contender, stage, plan, redis.pid if redis else None)
                except NotStartedError as error:
                    missing[contender.name] = str(error)
    rows = summary(results)
    show(rows, missing)
    report = {"rows": rows, "missing": missing}
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
