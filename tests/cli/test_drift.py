"""`ibook drift report`: two files, a verdict, and the pages people know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from typer.testing import CliRunner, Result

from ibook_assets.cli import app
from scripts import drift_samples

SAMPLE = Path("data/sample")
ROWS = 2_000


def asked(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["drift", "report", *map(str, arguments)])


def told(*arguments: str | Path) -> dict[str, Any]:
    result = asked(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def window(seed: int, rows: int = ROWS) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "amount": rng.lognormal(size=rows),
        "channel": rng.choice(["web", "app"], rows),
        "order_id": np.arange(rows) + seed * rows,
    }


def parquet(path: Path, columns: dict[str, Any]) -> Path:
    pyarrow.parquet.write_table(pa.table(columns), path)
    return path


def test_the_samples_have_drifted_and_their_report_is_written(tmp_path: Path) -> None:
    found = told("-o", tmp_path)
    assert found["state"] == "drifted"
    assert found["columns"][0]["name"] == "amount_cents"
    assert [Path(file).name for file in found["files"]] == [
        "decision.json",
        "evidently.html",
        "evidently.json",
    ]
    assert b"<html" in (tmp_path / "evidently.html").read_bytes()[:2_000].lower()
    assert json.loads((tmp_path / "evidently.json").read_text())["metrics"]
    assert json.loads((tmp_path / "decision.json").read_text())["state"] == "drifted"


def test_without_a_page_an_earlier_one_does_not_stay_beside_the_decision(tmp_path: Path) -> None:
    out = tmp_path / "out"
    current = parquet(tmp_path / "b.parquet", window(2))
    # A hundred rows are too few for a reference.
    for rows, pages in ((ROWS, {"evidently.html", "evidently.json"}), (100, set[str]())):
        reference = parquet(tmp_path / "a.parquet", window(1, rows))
        told("--reference", reference, "--current", current, "-o", out)
        assert {file.name for file in out.iterdir()} == {"decision.json", *pages}


def test_the_samples_are_what_the_simulator_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift_samples, "FOLDER", tmp_path)
    drift_samples.main()
    for name in ("drift_reference.csv", "drift_current.csv"):
        assert (tmp_path / name).read_bytes() == (SAMPLE / name).read_bytes()


def test_the_environment_names_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFT_REFERENCE_PATH", str(parquet(tmp_path / "a.parquet", window(1))))
    monkeypatch.setenv("DRIFT_CURRENT_PATH", str(parquet(tmp_path / "b.parquet", window(2))))
    found = told("-o", tmp_path, "--without", "order_id")
    assert (found["state"], found["reference_rows"]) == ("stable", ROWS)
    assert {column["name"] for column in found["columns"]} == {"amount", "channel"}
    assert found["left_out"] == [], "what was left out on purpose is no news"
    # What is named outright comes first.
    shifted = window(3)
    shifted["amount"] *= 3
    named = parquet(tmp_path / "c.parquet", shifted)
    assert told("-o", tmp_path, "--without", "order_id", "--current", named)["state"] == "drifted"


def test_an_exit_code_tells_a_nightly_job(tmp_path: Path) -> None:
    assert asked("-o", tmp_path, "--fail-on-drift").exit_code == 1
    same = SAMPLE / "drift_reference.csv"
    assert asked("-o", tmp_path, "--current", same, "--fail-on-drift").exit_code == 0


def test_nulls_infinities_and_unseen_categories_break_nothing(tmp_path: Path) -> None:
    odd = window(2)
    odd["amount"][:600] = np.nan
    odd["amount"][600:700] = np.inf
    odd["channel"] = [None if n % 3 else "kiosk" for n in range(ROWS)]
    odd["empty"] = pa.nulls(ROWS, pa.float64())
    reference = parquet(tmp_path / "a.parquet", window(1) | {"empty": np.ones(ROWS)})
    current = parquet(tmp_path / "b.parquet", odd)
    found = told("--reference", reference, "--current", current, "-o", tmp_path)
    moved = {column["name"]: column for column in found["columns"]}
    assert found["state"] == "drifted"
    assert all(moved[name]["drifted"] for name in ("amount", "channel", "empty"))
    assert moved["amount"]["unseen"] == pytest.approx(100 / ROWS)


def test_few_rows_are_no_verdict_and_no_failure(tmp_path: Path) -> None:
    few = parquet(tmp_path / "few.parquet", window(2, rows=20))
    reference = parquet(tmp_path / "a.parquet", window(1))
    result = asked("--reference", reference, "--current", few, "-o", tmp_path, "--fail-on-drift")
    assert result.exit_code == 0
    assert "insufficient data: 20 current rows of the 200 needed" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--current", "nowhere.csv"), "there is no file nowhere.csv"),
        (("--without", "user"), "has no column 'user'"),
        (("--current", "pyproject.toml"), "neither CSV nor Parquet"),
    ],
)
def test_what_cannot_be_compared_is_said(
    tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    result = asked(*arguments, "-o", tmp_path)
    assert result.exit_code == 1
    assert says in " ".join(result.stderr.split())


def test_files_without_a_common_column_are_named(tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    pyarrow.csv.write_csv(pa.table({"price": [1.0], "day": pa.array([0], pa.date32())}), other)
    result = asked("--current", other, "-o", tmp_path)
    assert result.exit_code == 1
    assert "no column in common" in result.stderr
