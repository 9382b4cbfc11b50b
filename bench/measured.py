"""One measurement: a contender in a process of its own, on one thread, Parquet in, Arrow out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

_ONE_THREAD = {
    "POLARS_MAX_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "ARROW_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Measurement:
    """What a contender took, from files to a table in memory."""

    contender: str
    what: str
    rows: int
    features: int
    cpu_seconds: float
    wall_seconds: float
    peak_mib: float


def peak_mib() -> float:
    """Most memory this process ever held (MiB); getrusage would include its parent's."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def measure(work: Callable[[], pa.Table], *, contender: str, what: str, out: Path) -> None:
    """Run `work`, store its table in `out`, print the Measurement as JSON."""
    pa.set_cpu_count(1)
    cpu, wall = time.process_time(), time.perf_counter()
    table = work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = peak_mib()
    out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, out, compression="lz4")
    found = Measurement(contender, what, table.num_rows, table.num_columns - 2, cpu, wall, peak)
    print(json.dumps(asdict(found)))


def run(module: str, arguments: Sequence[str], env: Mapping[str, str] | None = None) -> Measurement:
    """The measurement that `python -m module` prints last."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | _ONE_THREAD | dict(env or {}),
    )
    return Measurement(**json.loads(done.stdout.strip().splitlines()[-1]))
