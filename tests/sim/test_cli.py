"""The command line: what it writes, its JSON, and its answers to bad input."""

import json
import sys
from pathlib import Path
from subprocess import run

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from ibook_sim.cli import app

SMALL = ["--users", "2000", "--events", "40", "--orders-per-day", "100"]


def test_world_writes_a_partition_a_day(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["world", "--days", "2", "--out", str(tmp_path), *SMALL])
    assert done.exit_code == 0, done.output
    files = sorted((tmp_path / "transactions").rglob("*.parquet"))
    assert [f.parent.name for f in files] == ["dt=2026-01-01", "dt=2026-01-02"]
    assert (tmp_path / "truth/orders/dt=2026-01-01/part.parquet").exists()
    assert pq.read_table(tmp_path / "events/part.parquet").num_rows > 0
    assert not list(tmp_path.rglob("*.tmp"))


def test_describe_prints_one_json_document() -> None:
    done = CliRunner().invoke(app, ["describe", "--days", "5", "--json", *SMALL])
    assert done.exit_code == 0, done.output
    seen = json.loads(done.stdout)
    assert seen["days"] == 5
    assert sum(seen["orders_by_category"].values()) == seen["orders"]
    assert sum(seen["fraud_by_archetype"].values()) == seen["fraud_orders"]


def test_describe_shows_a_summary() -> None:
    done = CliRunner().invoke(app, ["describe", "--days", "5", *SMALL])
    assert done.exit_code == 0, done.output
    assert "oracle average precision" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--users", "5"], "greater than or equal to 100"),
        (["--users", "100", "--orders-per-day", "90000"], "raise users"),
        (["--events", "1"], "greater than or equal to 10"),
    ],
    ids=["too few users", "too many orders for the users", "too few events"],
)
def test_an_impossible_world_is_explained(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["describe", "--days", "2", *arguments])
    assert done.exit_code == 2
    assert message in done.output


def test_the_simulator_imports_no_orchestrator_or_plotting() -> None:
    code = (
        "import sys, ibook_sim.cli; "
        "print([m for m in ('dagster', 'mlflow', 'matplotlib', 'optuna') if m in sys.modules])"
    )
    done = run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
