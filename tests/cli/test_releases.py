"""Release numbers on the command line: shown by `history`, taken wherever a version is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ibook_assets.cli import app
from ibook_assets.core.rollout import Entrant
from ibook_assets.core.settings import Settings
from ibook_assets.stores.blobs import open_blobs
from ibook_assets.training.candidates import new_candidate, store_candidate
from tests.serving.harness import challenge, promote, promotions, small_bundle

WHY = ("--reason", "as agreed", "--actor", "ana@ibook.test")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A platform that has had three champions, with a shadow beside the last; MLflow is away."""
    monkeypatch.setenv("IBOOK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IBOOK_MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    found = Settings(home=tmp_path / "home")
    first = small_bundle("fraud-v1", seed=1, rounds=2)
    promote(found, first)
    store_candidate(
        open_blobs(found.lake), first, new_candidate(first, git_sha="0" * 40, mlflow_run_id=None)
    )
    promote(found, small_bundle("fraud-v2", seed=2, rounds=2))
    promote(found, small_bundle("fraud-v2b", seed=2, rounds=2, threshold=0.4))
    challenge(found, small_bundle("fraud-v3", seed=3, rounds=2), Entrant("shadow"))
    return found


def ibook(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def refused(*arguments: str) -> str:
    answer = ibook(*arguments)
    assert (answer.exit_code, answer.stdout) == (1, ""), answer.output
    return " ".join(answer.stderr.split())


def test_history_tells_the_release_and_the_files_of_each_model(settings: Settings) -> None:
    told = json.loads(ibook("history", "fraud", "--json").stdout)
    assert [entry["releases"] for entry in told] == [
        {"fraud-v1": "v1.0.0"},
        {"fraud-v2": "v1.1.0"},
        {"fraud-v2b": "v1.1.1"},
        {"fraud-v2b": "v1.1.1"},
    ]
    assert set(told[3]["artefacts"]) == {"fraud-v2b", "fraud-v3"}
    for entry, record in zip(told, promotions(settings).history("fraud"), strict=True):
        for model in record.models:
            place = Path(entry["artefacts"][model.model_version])
            assert place == Path(settings.lake, model.artefact.uri)
            assert {file.name for file in place.iterdir()} == set(model.artefact.sha256)
    shown = ibook("history", "fraud").stdout
    assert [shown.count(number) for number in ("v1.0.0", "v1.1.0", "v1.1.1")] == [1, 1, 2]


def test_a_rollback_goes_to_a_release(settings: Settings) -> None:
    answer = ibook("rollback", "fraud", "--to", "v1.1.0", "--json", *WHY)
    assert answer.exit_code == 0, answer.output
    (entry,) = json.loads(answer.stdout)
    assert (entry["action"], entry["restores"]) == ("rollback", 2)
    assert entry["releases"] == {"fraud-v2": "v1.1.0"}
    assert "MLflow's champion alias was not moved" in answer.stderr
    assert promotions(settings).require_current("fraud").model_version == "fraud-v2"


@pytest.mark.usefixtures("settings")
def test_a_trained_model_may_be_named_by_its_release() -> None:
    assert "no trained fraud model fraud-v2b; trained versions: ['fraud-v1']" in refused(
        "promote", "fraud", "--version", "v1.1.1", *WHY
    )
    said = refused("rollout", "start", "fraud", "--version", "v1.0.0", *WHY)
    assert "shadow fraud-v3 stands beside the champion" in said, "fraud-v1 is trained"


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize(
    "command",
    [
        ["promote", "fraud", "--version", "v2.0.0", *WHY],
        ["rollback", "fraud", "--to", "v2.0.0", *WHY],
        ["rollout", "start", "fraud", "--version", "v2.0.0", *WHY],
        ["card", "fraud", "v2.0.0"],
    ],
    ids=lambda command: command[0],
)
def test_an_unknown_release_is_refused_with_those_there_are(command: list[str]) -> None:
    assert refused(*command) == (
        "error: fraud: no champion was ever release v2.0.0; releases are: v1.0.0 (fraud-v1), "
        "v1.1.0 (fraud-v2), v1.1.1 (fraud-v2b)"
    )
