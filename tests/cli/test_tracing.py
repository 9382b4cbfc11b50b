"""`ibook trace`, `replay` and `lineage`: what they print, and how they end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ibook_assets.cli import app
from ibook_assets.core.predictions import Trace
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.local_blobs import LocalBlobs
from tests.serving.harness import small_bundle
from tests.stores.test_replay import land, learnt_from, logged, promoted


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IBOOK_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def traces(home: Path) -> list[Trace]:
    """Six predictions in the log's files, of a model with a manifest."""
    lake = Lake(LocalBlobs(str(home / "lake")))
    manifest = learnt_from(lake, "2026-01-01", "2026-01-02")
    model, artefact = promoted(home, small_bundle("fraud-v1", seed=1), manifest.snapshot_id)
    found = logged(model, artefact, 6)
    land(lake, *found)
    return found


def ibook(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_a_trace_is_shown_with_where_it_comes_from(traces: list[Trace]) -> None:
    (document,) = json.loads(ibook("trace", "r-1", "--json").stdout)
    assert document["score"] == traces[1].score
    assert document["origin"]["record"]["sequence"] == 1
    assert document["origin"]["partitions"][0]["table"] == "facts/transactions"
    shown = ibook("trace", "r-1").stdout
    assert "2026-01-01 to 2026-01-02, 2 files" in shown
    assert "entry 1: promote by test" in shown
    assert "no, a shadow's" not in shown


def test_replay_counts_what_is_reproduced(traces: list[Trace]) -> None:
    answer = ibook("replay", "--all", "--json")
    assert answer.exit_code == 0, answer.output
    report = json.loads(answer.stdout)
    reproduced = len(traces)
    assert (report["predictions"], report["reproduced"], report["faults"]) == (6, reproduced, [])
    assert report["variants"] == {"champion": 3, "shadow": 3}
    assert report["snapshots"][0]["files"] == 2
    assert json.loads(ibook("replay", "--all", "--limit", "2", "--json").stdout)["predictions"] == 2
    assert json.loads(ibook("replay", "r-0", "r-5", "--json").stdout)["predictions"] == 2
    shown = ibook("replay", "--day", "2026-05-28").stdout
    assert "6 of 6 scores reproduced bit for bit" in shown
    assert "2 partitions verified" in shown


def test_replay_fails_and_names_what_was_changed(home: Path, traces: list[Trace]) -> None:
    stored = home / "lake" / f"promoted/fraud/{traces[0].artefact}/model.ubj"
    content = bytearray(stored.read_bytes())
    content[50] ^= 1
    stored.write_bytes(content)
    answer = ibook("replay", "--all")
    assert answer.exit_code == 1
    assert "0 of 6 scores reproduced" in answer.stdout
    assert "model.ubj" in answer.stderr
    assert "(and 5 more)" in answer.stderr
    (fault, *_) = json.loads(ibook("replay", "r-0", "--json").stdout)["faults"]
    assert (fault["culprit"], fault["request_id"]) == ("artefact", "r-0")


def test_a_changed_partition_fails_though_every_score_is_reproduced(
    home: Path, traces: list[Trace]
) -> None:
    (place,) = (home / "lake/facts/transactions/dt=2026-01-02").glob("*.parquet")
    place.write_bytes(place.read_bytes() + b"x")
    answer = ibook("replay", "--all")
    assert answer.exit_code == 1
    assert f"{len(traces)} of {len(traces)} scores reproduced" in answer.stdout
    assert "facts/transactions/2026-01-02" in answer.stderr


def test_lineage_leads_from_a_partition_to_requests_and_back(traces: list[Trace]) -> None:
    (reached,) = json.loads(
        ibook("lineage", "--partition", "raw/transactions/2026-01-02", "--json").stdout
    )
    assert reached["snapshot"] == traces[0].training_snapshot
    assert reached["models"][0]["predictions"] == 6
    shown = ibook("lineage", "--partition", "raw/transactions/2026-01-02").stdout
    assert "6 predictions, such as r-" in shown
    assert "No training snapshot rests on" in ibook("lineage", "--partition", "raw/x/y").stdout
    (document,) = json.loads(ibook("lineage", "--request", "r-2", "--json").stdout)
    assert document["training_snapshot"] == reached["snapshot"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("trace", "nobody"), "no trace of request nobody"),
        (("trace", "../etc"), "request id '../etc' is not allowed"),
        (("replay",), "name request ids, or give --day"),
        (("replay", "r-1", "--all"), "name request ids, or give --day"),
        (("replay", "--day", "2020-01-01"), "the lake has no predictions of 2020-01-01"),
        (("lineage",), "give --partition"),
        (("lineage", "--partition", "nothing"), "names no table"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_answered_is_said(home: Path, arguments: tuple[str, ...], says: str) -> None:
    answer = ibook(*arguments)
    assert answer.exit_code == 1
    assert says in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (home / "traces").exists(), "looking makes no store"
