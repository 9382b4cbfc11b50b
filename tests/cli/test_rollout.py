"""`ibook rollout`: what each command does to the logs, and what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ibook_assets.cli import app
from ibook_assets.core.rollout import Entrant
from ibook_assets.core.settings import Settings
from ibook_assets.models.bundle import ModelBundle
from ibook_assets.stores.blobs import open_blobs
from ibook_assets.training.candidates import new_candidate, store_candidate
from tests.serving.harness import challenge, promote, promotions, small_bundle

WHY = ("--reason", "as agreed", "--actor", "ana@ibook.test")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A platform with a champion and a trained model that stands beside it as a shadow."""
    monkeypatch.setenv("IBOOK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IBOOK_ROLLOUT_METRICS_URL", "http://127.0.0.1:1/metrics")
    monkeypatch.chdir(tmp_path)
    found = Settings(home=tmp_path / "home")
    promote(found, small_bundle("fraud-v1", seed=1))
    trained(found, small_bundle("fraud-v2", seed=2))
    return found


def trained(settings: Settings, bundle: ModelBundle) -> None:
    candidate = new_candidate(bundle, git_sha="0" * 40, mlflow_run_id=None)
    store_candidate(open_blobs(settings.lake), bundle, candidate)
    challenge(settings, bundle, Entrant("shadow", 1.0))


def ibook(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["rollout", *arguments])


def told(*arguments: str) -> Any:
    answer = ibook(*arguments, "--json")
    assert answer.exit_code == 0, answer.output
    return json.loads(answer.stdout)


def refused(*arguments: str) -> str:
    answer = ibook(*arguments)
    assert (answer.exit_code, answer.stdout) == (1, ""), answer.output
    assert answer.stderr.startswith("error: ")
    return " ".join(answer.stderr.split())


@pytest.mark.usefixtures("settings")
def test_before_any_rollout_each_command_says_what_to_do() -> None:
    assert told("status", "fraud") is None
    assert "ibook rollout start fraud" in ibook("status", "fraud").stdout
    for command in ("pause", "resume", "abort"):
        assert "no rollout is on its way" in refused(command, "fraud", *WHY)
    assert "no trained fraud model v9" in refused(
        "start", "fraud", "--version", "v9", "--reason", "better"
    )


def test_a_rollout_is_begun_looked_at_held_and_aborted(settings: Settings) -> None:
    assert told("start", "fraud", *WHY)["state"] == "candidate"
    assert "is on its way (candidate, entry 1)" in refused("start", "fraud", *WHY)
    assert told("look", "fraud")["state"] == "shadow"
    seen = told("status", "fraud")
    assert (seen["state"], seen["share"], seen["version"]) == ("shadow", 1.0, "fraud-v2")
    assert seen["analysis"]["verdict"] == "inconclusive"
    assert [entry["state"] for entry in seen["entries"]] == ["candidate", "gated", "shadow"]
    assert "inconclusive: too little seen" in ibook("status", "fraud").stdout
    assert "inconclusive" in ibook("look", "fraud").stdout

    assert told("pause", "fraud", *WHY)["paused"] is True
    assert "shadow, paused" in ibook("status", "fraud").stdout
    assert told("look", "fraud")["note"].startswith("paused; inconclusive")
    assert told("resume", "fraud", *WHY)["paused"] is False

    assert told("abort", "fraud", *WHY)["state"] == "rejected"
    head = promotions(settings).require_current("fraud")
    assert (head.model_version, head.challengers, head.reason) == ("fraud-v1", (), "as agreed")
    assert told("status", "fraud")["state"] == "rejected"
    assert "fraud-v2 is rejected" in refused("abort", "fraud", *WHY)


def test_an_aborted_canary_is_rolled_back(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IBOOK_ROLLOUT_SHADOW_HOURS", "0")
    monkeypatch.setenv("IBOOK_ROLLOUT_SHARES", "0.2,0.5")
    told("start", "fraud", *WHY)
    assert told("look", "fraud")["state"] == "canary"
    (canary,) = promotions(settings).require_current("fraud").challengers
    assert (canary.stage, canary.share) == ("canary", 0.2)
    assert "did not tell its metrics" in told("look", "fraud")["note"]
    assert told("abort", "fraud", *WHY)["state"] == "rolled_back"
    assert promotions(settings).require_current("fraud").challengers == ()
