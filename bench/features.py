"""Features side by side: our engine, DuckDB's windows, Polars and Feast, values compared.

    python -m bench.features --rows 1000000 10000000

Each contender runs alone in a process, on one thread, from Parquet files to an Arrow table.
Ratios of CPU time are what to look at: they hold on a busy machine, seconds do not.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from bench.lake import write_days
from bench.measured import Measurement, run
from bench.orders import write
from bench.views import COUNTS_AND_SUMS, VIEWS

REPORT = Path("reports/bench/features.json")
_FEAST_ROWS = 100_000
_DAY_ROWS = 5_400_000


def require_same(ours: Path, theirs: Path) -> None:
    """SystemExit unless both files hold the same bits (their null is our NaN)."""
    left, right = (pq.read_table(path).sort_by("transaction_id") for path in (ours, theirs))
    for name in left.column_names[2:]:
        a, b = (np.asarray(t[name].cast(pa.float32()), np.float32) for t in (left, right))
        if not np.array_equal(a.view(np.uint32), b.view(np.uint32)):
            different = int((a.view(np.uint32) != b.view(np.uint32)).sum())
            sys.exit(f"{theirs.stem}: {name} differs from ours in {different} of {a.size} rows")


def compare_whole(folder: Path, rows: int) -> list[Measurement]:
    """Every view over all rows."""
    data = write(folder, rows)
    found = []
    for name in VIEWS:
        ours, theirs = folder / "ours.parquet", folder / "duckdb.parquet"
        found.append(run("bench.peers.ours", [name, str(data), str(ours)]))
        found.append(run("bench.peers.duckdb_peer", [name, str(data), str(theirs)]))
        require_same(ours, theirs)
        if name == COUNTS_AND_SUMS.name:
            theirs = folder / "polars.parquet"
            found.append(run("bench.peers.polars_peer", [str(data), str(theirs)]))
            require_same(ours, theirs)
    return found


def compare_day(folder: Path) -> list[Measurement]:
    """One day's increment on a lake of 60."""
    write_days(folder / "lake", _DAY_ROWS)
    found = []
    for name in VIEWS:
        ours = folder / "ibook.parquet"
        for contender in ("ibook", "sql", "sql-semi-join"):
            out = folder / f"{contender}.parquet"
            arguments = [contender, name, str(folder / "lake"), str(out)]
            found.append(run("bench.peers.day", arguments))
            require_same(ours, out)
    return found


def compare_feast(folder: Path) -> list[Measurement]:
    """Feast in an environment of its own: its requirements conflict with ours."""
    data = write(folder, _FEAST_ROWS)
    ours = folder / "feast_input.parquet"
    measured = run("bench.peers.ours", [COUNTS_AND_SUMS.name, str(data), str(ours)])
    users = pq.read_table(data / "transactions.parquet", columns=["user_id"])["user_id"]
    pq.write_table(pq.read_table(ours).append_column("user_id", users), ours)
    script = Path(__file__).parent / "peers" / "feast_peer.py"
    command = ["uv", "run", "--isolated", "--no-project", "--python", "3.11", "--with", "feast"]
    done = subprocess.run(
        [*command, "python", str(script), str(ours)], stdout=subprocess.PIPE, text=True, check=True
    )
    return [measured, Measurement(**json.loads(done.stdout.strip().splitlines()[-1]))]


def measure_card(folder: Path, path: Path) -> list[Measurement]:
    """Our features over somebody else's 815,100 payments, compiled and from a cold cache."""
    return [
        run("bench.peers.card", [str(path), str(folder / "card.parquet")]),
        run(
            "bench.peers.card",
            [str(path), str(folder / "card.parquet"), "--cold"],
            env={"NUMBA_CACHE_DIR": str(folder / "cold")},
        ),
    ]


def show(found: Sequence[Measurement]) -> None:
    """The measurements as a table, peers as multiples of the ibook line above them."""
    table = Table(title="Features, one thread each")
    for name in ("what", "contender", "rows", "features", "CPU s", "rows/s", "peak MiB", "ratio"):
        table.add_column(name, justify="left" if name in {"what", "contender"} else "right")
    ours = found[0]
    for m in found:
        if m.contender == "ibook":
            ours = m
        table.add_row(
            m.what,
            m.contender,
            f"{m.rows:,}",
            str(m.features),
            f"{m.cpu_seconds:.2f}",
            f"{m.rows / m.cpu_seconds:,.0f}",
            f"{m.peak_mib:,.0f}",
            f"{m.cpu_seconds / ours.cpu_seconds:.1f}x",
            end_section=m is found[-1],
        )
    Console(width=120).print(table)


def main() -> None:
    """Run what is asked for and write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="*", default=[1_000_000], help="whole runs")
    parser.add_argument("--no-day", action="store_true", help="leave out the day's increment")
    parser.add_argument("--no-feast", action="store_true", help="leave out Feast (downloads it)")
    parser.add_argument("--card", type=Path, help="the Handbook's transactions.parquet")
    asked = parser.parse_args()
    found: list[Measurement] = []
    with tempfile.TemporaryDirectory(prefix="ibook-bench-") as name:
        folder = Path(name)
        for rows in asked.rows:
            found += compare_whole(folder, rows)
        if not asked.no_day:
            found += compare_day(folder)
        if not asked.no_feast:
            found += compare_feast(folder)
        if asked.card:
            found += measure_card(folder, asked.card)
    show(found)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": platform.processor(), "measurements": [asdict(m) for m in found]}
    REPORT.write_text(json.dumps(report, indent=1))
    print(f"written to {REPORT}")


if __name__ == "__main__":
    main()
