"""`realtime` and `replay` as people run them, and what gets into the log beside the requests."""

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from ibook_assets.core.errors import StoreUnavailableError
from ibook_sim.cli import app
from ibook_sim.datasets.export import write_catalogue, write_days, write_truth
from ibook_sim.realtime.events import feed
from ibook_sim.realtime.load import simulated
from ibook_sim.realtime.recording import Recording
from ibook_sim.realtime.running import run
from ibook_sim.realtime.schedule import arrivals
from ibook_sim.scenarios import scenario
from ibook_sim.world import World, WorldConfig, days_from
from tests.sim.small_world import ints

SHORT = ["--rps", "40", "--duration", "1s", "--seed", "3"]
SMALL = WorldConfig(users=2_000, events=40, orders_per_day=100)


class Kept:
    """A log that keeps what it is sent, and refuses orders without a buyer."""

    def __init__(self) -> None:
        self.parts: list[pa.Table] = []
        self.flushed = False

    def send(self, rows: pa.Table) -> int:
        self.parts.append(rows)
        return int((ints(rows, "user_id") < 0).sum())

    def flush(self) -> None:
        self.flushed = True


def test_an_offline_run_tells_what_was_asked_and_what_came(tmp_path: Path) -> None:
    out = tmp_path / "reports" / "run.html"
    done = CliRunner().invoke(
        app, ["realtime", "flash-sale", *SHORT, "--json", "-o", str(out)], env={"API_BASE_URL": ""}
    )
    found = json.loads(done.stdout)
    assert json.loads(out.with_suffix(".json").read_text()) == found
    assert "real-time run" in out.read_text()
    figures = found["realtime"]
    assert figures["scenario"] == "flash-sale"
    assert figures["target"] == "offline"
    assert figures["asked_rps"] == 40.0
    assert figures["requests"] == 40
    assert sum(figures["outcomes"].values()) == 40
    assert sum(figures["decisions"].values()) == 40
    assert figures["log"] is None
    # 40 orders may hold no fraud, and a busy machine may not keep the schedule.
    assert done.exit_code == (0 if found["passed"] else 1)
    assert {"rate", "latency", "errors", "accuracy", "revenue"} <= {
        check["name"] for check in found["checks"]
    }


def test_a_waiting_room_reports_the_time_in_it() -> None:
    arguments = ["realtime", *SHORT, "--admitted", "3", "--stay", "10ms", "--json"]
    done = CliRunner().invoke(app, arguments, env={"API_BASE_URL": ""})
    found = json.loads(done.stdout)
    assert "rate" not in {check["name"] for check in found["checks"]}
    figures = found["realtime"]
    assert figures["loop"] == "waiting room"
    assert figures["room_ms"]["max"] > figures["room_ms"]["p50"] > 0


def test_a_dry_run_sends_nothing() -> None:
    done = CliRunner().invoke(app, ["realtime", *SHORT, "--dry-run", "--api", "http://127.0.0.1:9"])
    assert done.exit_code == 0, done.output
    assert "40 orders are ready" in done.output


def test_recorded_days_are_replayed_faster(tmp_path: Path) -> None:
    days = days_from(SMALL.start_date, 2)
    rows = write_days(SMALL, days, tmp_path)["transactions"]
    write_truth(World(SMALL), days, tmp_path)
    write_catalogue(World(SMALL), days[-1], tmp_path)
    arguments = ["replay", str(tmp_path), "--day", str(days[0]), "--days", "2", "--json"]
    done = CliRunner().invoke(app, [*arguments, "--speed", "200000"], env={"API_BASE_URL": ""})
    figures = json.loads(done.stdout)["realtime"]
    assert figures["requests"] == rows
    assert figures["scenario"] == "replay"
    known = [
        ints(pq.read_table(path), "known_ts") for path in tmp_path.glob("transactions/*/*.parquet")
    ]
    span_us = np.concatenate(known).max() - np.concatenate(known).min()
    assert figures["asked_seconds"] == pytest.approx(span_us / 1e6 / 200_000, abs=2e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["realtime", "flash-sail"], "flash-sale"),
        (["realtime", "mix"], "realtime plays one world"),
        (["realtime", "replay"], "use `replay FOLDER"),
        (["realtime", "--duration", "soon"], "duration"),
        (["realtime", *SHORT, "--log"], "ibook sim"),
        (["realtime", *SHORT, "--api", "ftp://scoring"], "no address of a scoring API"),
        (["replay", "nowhere", "--day", "2026-01-01"], "does not exist"),
    ],
    ids=[
        "no such scenario",
        "a mix",
        "recorded days",
        "no duration",
        "no gateway",
        "no API",
        "no recording",
    ],
)
def test_what_cannot_be_run_is_explained(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(app, arguments, env={"API_BASE_URL": ""})
    assert done.exit_code == 2, done.output
    assert message in done.output.replace("\n", " ")


def test_ctrl_c_ends_a_run_with_its_figures() -> None:
    load = simulated(scenario("normal-traffic"), seed=3, rps=50.0, seconds=600.0)

    def interrupt(_: Recording, elapsed: float) -> None:
        if elapsed > 0.3:
            os.kill(os.getpid(), signal.SIGINT)

    done = asyncio.run(run(load, api=None, room=None, sink=None, watch=interrupt))
    figures = done.as_dict()
    assert figures["interrupted"]
    assert done.recording.seconds < load.seconds
    assert done.recording.answered.sum() == done.recording.issued == figures["requests"]


def test_every_order_reaches_the_log_once_as_if_it_happened_now(transactions: pa.Table) -> None:
    rows, log = transactions.slice(0, 200), Kept()
    fed = asyncio.run(feed(rows, arrivals(1_000.0, 0.2, seed=1), log, stop=asyncio.Event()))
    assert (fed.sent, fed.refused, log.flushed) == (200, 0, True)
    arrived = pa.concat_tables(log.parts)
    assert arrived["transaction_id"].to_pylist() == rows["transaction_id"].to_pylist()
    now_us = time.time_ns() // 1_000
    ago = ints(rows, "known_ts") - ints(rows, "occurred_ts")
    assert (ints(arrived, "occurred_ts") + ago <= now_us).all()
    assert np.ptp(ints(arrived, "occurred_ts") + ago) < 60_000_000


class Away(Kept):
    """A log that takes nothing."""

    def send(self, rows: pa.Table) -> int:
        msg = f"no broker takes {rows.num_rows} orders"
        raise StoreUnavailableError(msg)


def test_a_log_that_is_away_ends_the_run_as_what_it_is() -> None:
    load = simulated(scenario("normal-traffic"), seed=3, rps=50.0, seconds=600.0)
    with pytest.raises(StoreUnavailableError, match="no broker"):
        asyncio.run(run(load, api=None, room=None, sink=Away(), watch=lambda _, __: None))
