"""Looks at a canary while its prediction log grows: what each costs, in time and memory.

    python -m bench.rollout_looks            # ten million predictions, several minutes
    python -m bench.rollout_looks --quick    # 300,000, half a minute

A log of predictions is shipped in files of the recorder's size. A first look reads all of it; the
next ones go on from what it kept. Beside them, in the same run and on the same log, the same
answers by reading everything at once, as looks did before they kept anything (up to `--whole`
rows: it holds the log in memory). Each is measured in a process of its own; all must find the same
users. Prints a table and writes reports/bench/rollout_looks.json.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from bench.measured import peak_mib
from ibook_assets.core.analysis.comparing import canary_findings
from ibook_assets.core.analysis.objectives import LATENCY_BOUNDS, Objectives
from ibook_assets.core.analysis.units import Pairs, Requests, Users
from ibook_assets.core.arrow import as_mask, integers, nulls, pc
from ibook_assets.core.messages import PREDICTION_LOG
from ibook_assets.core.tables import PREDICTIONS
from ibook_assets.core.times import MINUTE_US, to_us
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.intake import Intake, LogRecord
from ibook_assets.stores.local_blobs import LocalBlobs
from ibook_assets.stores.log_files import LogFiles
from ibook_assets.stores.rollout_checkpoints import Watched
from ibook_assets.stores.rollout_data import first_orders
from ibook_assets.stores.served_days import ServedDays
from ibook_serving.provenance.shipping import FIRST_OWN_PARTITION, SHIP_ROWS

REPORT: Final = Path("reports/bench/rollout_looks.json")
SINCE: Final = datetime(2026, 3, 1, 8, tzinfo=UTC)
SINCE_US: Final = to_us(SINCE)
REQUESTS_PER_SECOND: Final = 2_000
SHARE: Final = 0.05
"""Of users that the canary answers."""
FEATURES: Final = 25
WATCHED: Final = Watched(
    use_case="fraud",
    decided=3,
    shadow=False,
    champion="fraud-v1",
    version="fraud-v2",
    sequence=2,
    since=SINCE,
)


@dataclass(frozen=True)
class Look:
    """What one look took, from an empty process on."""

    look: str
    log_rows: int
    users: int
    seconds: float
    cpu_seconds: float
    analysis_seconds: float
    """What became of the users: the same for all looks."""
    peak_mib: float
    idle_mib: float
    """Held before it began: Python and its libraries."""


def every_answer(blobs: Blobs, watched: Watched, *, until_us: int) -> Users:
    """First orders out of everything that the log holds before `until_us`, read at once."""
    rows = _firsts(_everything(blobs, watched, until_us=until_us, served=True))
    none = np.zeros(rows.num_rows, bool)
    challenged = as_mask(pc.equal(rows["model_version"], watched.version))
    held = as_mask(pc.equal(rows["decision"], "review"))
    known_us = integers(rows["known_ts"], null=0)
    return Users(known_us, challenged, np.asarray(rows["score"]), held, none, none)


def every_pair(blobs: Blobs, watched: Watched, *, until_us: int) -> Pairs:
    """The same of a shadow: each first order with what the shadow said of it."""
    by = ["request_id", "known_ts", "user_id"]
    answered = _firsts(_everything(blobs, watched, until_us=until_us, served=True))
    unseen = _everything(blobs, watched, until_us=until_us, served=False)
    rows = answered.join(
        unseen.select([*by, "score", "decision"]),
        keys=by,
        join_type="left outer",
        right_suffix="_shadow",
    ).sort_by("known_ts")
    return Pairs(
        integers(rows["known_ts"], null=0),
        np.asarray(rows["score"]),
        as_mask(pc.equal(rows["decision"], "review")),
        np.asarray(pc.fill_null(rows["score_shadow"], math.nan)),
        as_mask(pc.equal(rows["decision_shadow"], "review")),
    )


def _everything(blobs: Blobs, watched: Watched, *, until_us: int, served: bool) -> pa.Table:
    versions = [watched.version, *([watched.champion] if served else [])]
    wanted = (
        (pc.field("use_case") == watched.use_case)
        & (pc.field("record_sequence") >= watched.sequence)
        & (pc.field("known_ts") < until_us)
        & (pc.field("served") == served)
        & pc.field("model_version").isin(versions)
    )
    columns = (
        *("request_id", "variant", "known_ts", "user_id", "served", "model_version"),
        *("record_sequence", "use_case", "score", "decision"),
    )
    first_day = watched.since.date().isoformat()
    days = ServedDays(blobs, PREDICTIONS)
    return days.rows(lambda day: day >= first_day, columns=columns, wanted=wanted)


def _firsts(rows: pa.Table) -> pa.Table:
    _, first = np.unique(integers(rows["user_id"], null=-1), return_index=True)
    return rows.take(np.sort(first))


class Traffic:
    """Predictions of users who order as often as users do, at an even rate."""

    def __init__(self, users: int, seed: int = 5) -> None:
        self._rng = np.random.default_rng(seed)
        activity = np.cumsum(self._rng.lognormal(0, 1, users))
        self._activity = activity / activity[-1]
        self._constant: dict[str, Any] = {
            "use_case": "fraud",
            "served": True,
            "record_sequence": WATCHED.sequence,
            "artefact": "a" * 64,
            "definition": "b" * 16,
            "training_snapshot": "c" * 64,
            "store": "generation-7/version-41",
            "threshold": 0.5,
            "git_sha": "0" * 40,
        }

    def rows(self, start: int, count: int) -> pa.Table:
        """Predictions from number `start` on."""
        rng = self._rng
        users = np.searchsorted(self._activity, rng.random(count))
        canary = users % round(1 / SHARE) == 0
        known_us = SINCE_US + (np.arange(start, start + count) * 10**6) // REQUESTS_PER_SECOND
        scores = rng.beta(0.3, 12, count)
        found: dict[str, Any] = {
            **{name: pa.repeat(value, count) for name, value in self._constant.items()},
            "request_id": _hex(rng, count, 16),
            "variant": np.where(canary, "canary", "champion"),
            "known_ts": known_us,
            "transaction_id": np.arange(start, start + count),
            "user_id": users,
            "event_id": rng.integers(0, 2_000, count),
            "model_version": np.where(canary, WATCHED.version, WATCHED.champion),
            "features_as_of": known_us - 1_000,
            "vector": _binary(rng, count, 4 * FEATURES),
            "vector_sha256": _hex(rng, count, 8),
            "score": scores,
            "decision": np.where(scores >= 0.5, "review", "approve"),
            "latency_us": rng.integers(500, 9_000, count),
            "row": [f'{{"user_id":{user},"event_id":17,"amount_cents":12050}}' for user in users],
            "checksum": _hex(rng, count, 32),
        }
        columns = [
            nulls(count, column.type) if column.name not in found else found[column.name]
            for column in PREDICTIONS.columns
        ]
        return pa.table(dict(zip(PREDICTIONS.column_names, columns, strict=True))).cast(
            PREDICTIONS.schema
        )


def _binary(rng: np.random.Generator, count: int, size: int) -> pa.Array[Any]:
    data = rng.bytes(count * size)
    return pa.array([data[at : at + size] for at in range(0, len(data), size)], pa.binary())


def _hex(rng: np.random.Generator, count: int, size: int) -> pa.Array[Any]:
    data = rng.bytes(count * size)
    return pa.array([data[at : at + size].hex() for at in range(0, len(data), size)])


class Recorder:
    """Ships traffic to a lake."""

    def __init__(self, blobs: Blobs, traffic: Traffic) -> None:
        self._files = LogFiles(blobs)
        self._traffic = traffic
        self.shipped = 0

    def ship(self, until: int) -> None:
        """Ship files until the log has `until` rows."""
        while self.shipped < until:
            count = min(SHIP_ROWS, until - self.shipped)
            rows = self._traffic.rows(self.shipped, count)
            offsets = np.arange(self.shipped, self.shipped + count)
            times_ms = (integers(rows["known_ts"], null=0) // 1_000).tolist()
            records = [
                LogRecord(FIRST_OWN_PARTITION, offset, time_ms, None, None)
                for offset, time_ms in zip(offsets.tolist(), times_ms, strict=True)
            ]
            taken = Intake(rows, offsets, np.arange(count), [])
            self._files.create(PREDICTION_LOG, FIRST_OWN_PARTITION, records, taken)
            self.shipped += count


def kept(blobs: Blobs, until_us: int) -> Users:
    """What a look finds, going on from the one before."""
    return first_orders(blobs, WATCHED, until_us=until_us, maturity_days=60, now_us=until_us)


def whole(blobs: Blobs, until_us: int) -> Users:
    """What a look finds by reading everything."""
    return every_answer(blobs, WATCHED, until_us=until_us)


WAYS: Final[Mapping[str, Callable[[Blobs, int], Users]]] = {"kept": kept, "whole": whole}


def look(folder: Path, way: str, name: str, log_rows: int) -> Look:
    """One look at the log in `folder`, in this process."""
    idle = peak_mib()
    until_us = SINCE_US + log_rows * 10**6 // REQUESTS_PER_SECOND
    cpu, wall = time.process_time(), time.perf_counter()
    users = WAYS[way](LocalBlobs(folder), until_us)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = peak_mib()
    none = np.empty((0, 2), np.int64)
    requests = Requests((), none, none, dict.fromkeys(LATENCY_BOUNDS, none))
    began = time.perf_counter()
    canary_findings(users, requests, Objectives(), window_us=MINUTE_US)
    analysis = time.perf_counter() - began
    return Look(name, log_rows, len(users.known_us), wall, cpu, analysis, peak, idle)


def measured(folder: Path, way: str, name: str, log_rows: int) -> Look:
    """The same in a process of its own."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "bench.rollout_looks", "--look", str(folder), way, name),
            *("--rows", str(log_rows)),
        ],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found = Look(**json.loads(done.stdout.strip().splitlines()[-1]))
    Console().print(f"{found.look}, {log_rows:,} rows: {found.seconds:.2f} s", style="dim")
    return found


def measurements(rows: int, users: int, whole_rows: int) -> list[Look]:
    """All looks, while the log grows to `rows` and some files more."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        lake = Path(folder)
        recorder = Recorder(LocalBlobs(lake), Traffic(users))
        for size in sorted({min(rows, whole_rows), rows}):
            # Like a look at a step that nobody has looked at.
            for checkpoint in lake.glob("rollouts/*/answers/*"):
                checkpoint.unlink()
            recorder.ship(size)
            found.append(measured(lake, "kept", "first", recorder.shipped))
            recorder.ship(size + SHIP_ROWS)
            found.append(measured(lake, "kept", "one more file", recorder.shipped))
            found.append(measured(lake, "kept", "nothing new", recorder.shipped))
            minute = recorder.shipped + 60 * REQUESTS_PER_SECOND
            recorder.ship(minute)
            found.append(measured(lake, "kept", "a minute more", recorder.shipped))
            if size <= whole_rows:
                found.append(measured(lake, "whole", "everything at once", recorder.shipped))
                assert found[-1].users == found[-2].users, "both ways find the same users"
        (checkpoint,) = lake.glob("rollouts/*/answers/*")
        Console().print(f"kept between looks: {checkpoint.stat().st_size / 2**20:.1f} MiB")
    return found


def main() -> None:
    """Print the table and write the report, or be one look."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000, help="predictions of the step")
    parser.add_argument("--users", type=int, default=300_000)
    parser.add_argument("--whole", type=int, default=1_000_000, help="most rows read at once")
    parser.add_argument("--quick", action="store_true", help="300,000 predictions of 20,000 users")
    parser.add_argument("--look", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.look:
        folder, way, name = given.look
        print(json.dumps(asdict(look(Path(folder), way, name, given.rows))))
        return
    rows, users = (300_000, 20_000) if given.quick else (given.rows, given.users)
    found = measurements(rows, users, given.whole)
    table = Table("look", "rows", "users", "seconds", "CPU", "analysis", "peak MiB")
    for one in found:
        table.add_row(
            one.look,
            f"{one.log_rows:,}",
            f"{one.users:,}",
            f"{one.seconds:.2f}",
            f"{one.cpu_seconds:.2f}",
            f"{one.analysis_seconds:.2f}",
            f"{one.peak_mib:,.0f}",
        )
    Console().print(table)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps({"looks": [asdict(one) for one in found]}, indent=1))


if __name__ == "__main__":
    main()
