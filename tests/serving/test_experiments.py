"""An experiment end to end: a real server assigns, answers and ships; summaries find the effect."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ibook_assets.cli import app
from ibook_assets.core.assignment import bucket
from ibook_assets.core.experiments.catalog import EXPERIMENTS
from ibook_assets.core.rollout import Entrant
from ibook_assets.core.settings import Settings
from ibook_assets.models.bundle import ModelBundle
from ibook_assets.stores.blobs import open_blobs
from ibook_assets.stores.experiments import ExperimentReader
from tests.serving.harness import RunningServer, challenge, promote, running, small_bundle

AA = EXPERIMENTS["champion-aa"]
USERS = 1_400
"""More than the fourth look of `champion-aa` needs, in two requests."""


def summary_of(server: RunningServer, name: str = AA.id, **query: object) -> Any:
    return server.client.get(f"/experiments/{name}/summary", params=dict(query))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def ran(
    tmp_path_factory: pytest.TempPathFactory, bundle: ModelBundle
) -> tuple[Settings, list[dict[str, Any]]]:
    """A home whose server has answered, and what it answered; the treatment holds nothing."""
    settings = Settings(home=tmp_path_factory.mktemp("experiment"))
    promote(settings, bundle)
    treatment = small_bundle("fraud-v2", seed=2, threshold=1.1)
    challenge(settings, treatment, Entrant("treatment", share=0.5, experiment=AA.id))
    orders = [
        {"user_id": n, "event_id": 1, "amount": 20 + 4 * n, "transaction_id": f"t-{n}"}
        for n in range(USERS)
    ]
    answers = []
    environment = {"IBOOK_MAX_BODY_BYTES": "2000000"}
    with running(settings, environment=environment) as server:
        before = summary_of(server).json()
        assert (before["state"], before["verdict"]["decision"]) == ("running", "keep-running")
        for half in (orders[: USERS // 2], orders[USERS // 2 :]):
            answers += server.predict(*half, explain="false")
        # A user who comes again was exposed once.
        server.predict(*orders[:50], explain="false")
        approved = next(a for a in answers if a["decision"] == "approve")
        said = {"request_id": approved["request_id"], "outcome": "fraud"}
        kept = server.client.post(f"/experiments/{AA.id}/outcomes", json={"outcomes": [said]})
        assert kept.status_code == 202, kept.text
        # What is written goes to the lake before the server ends.
        assert server.terminate() == 0
    return settings, answers


def while_damaged(server: RunningServer) -> Any:
    """The answer while the promotion log's first entry cannot be read."""
    entry = Path(server.settings.lake) / "promotions" / "fraud" / "000000000001.json"
    sound = entry.read_bytes()
    entry.write_text("{}")
    try:
        return summary_of(server, windowHours=3)
    finally:
        entry.write_bytes(sound)


def test_the_summary_counts_what_was_answered(
    ran: tuple[Settings, list[dict[str, Any]]],
) -> None:
    settings, answers = ran
    with running(settings) as server:
        answer = summary_of(server, windowHours=2)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        again = summary_of(server, windowHours=2).json()
        # The answer is kept for a while: computed again it would be as of another moment.
        assert again == found
        damaged = while_damaged(server)
    assert (damaged.status_code, damaged.json()["title"]) == (500, "Damaged log")
    assert str(settings.home) not in damaged.text
    exposed = Counter(a["variant"] for a in answers)
    reviewed = Counter(a["variant"] for a in answers if a["decision"] == "review")
    arms = {arm["variant"]: arm for arm in found["arms"]}
    assert {name: arm["users"] for name, arm in arms.items()} == exposed
    assert {name: arm["events"] for name, arm in arms.items()} == {
        "control": reviewed["control"],
        "treatment": 0,
    }
    assert found["verdict"]["decision"] == "ship"
    assert found["fixed_horizon"]["p_value"] < 1e-6
    assert found["models"] == {"control": ["fraud-v1"], "treatment": ["fraud-v2"]}
    assert not found["sample_ratio"]["mismatch"]
    assert found["window"]["hours"] == 2
    assert sum(arm["users"] for arm in found["window"]["arms"]) == USERS
    assert found["plan"]["users"] == USERS
    assert found["left_out"] == {"outside_design": 0, "in_follow_up": 0, "switched": 0}


def test_assignment_is_the_hash_that_the_definition_names(
    ran: tuple[Settings, list[dict[str, Any]]],
) -> None:
    for user, answer in enumerate(ran[1]):
        treated = bucket(AA.salt, user) < AA.treatment_share
        assert answer["variant"] == (AA.treatment if treated else "control")


def test_a_reported_fraud_is_found_by_its_request(
    ran: tuple[Settings, list[dict[str, Any]]],
) -> None:
    # The same traffic under a definition that counts missed frauds, an hour later.
    missed = AA.model_copy(update={"metric": "fraud_missed_rate", "follow_up_hours": 0.5})
    found = ExperimentReader(open_blobs(ran[0].lake)).summary(
        missed, window_hours=24, now_us=time.time_ns() // 1_000 + 3_600_000_000
    )
    assert sum(arm.events for arm in found.arms) == 1
    # Fifty users came twice within their follow-up.
    assert sum(arm.answers for arm in found.arms) == USERS + 50


def test_the_command_says_the_same(
    ran: tuple[Settings, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IBOOK_HOME", str(ran[0].home))
    monkeypatch.setenv("COLUMNS", "200")
    runner = CliRunner()
    told = runner.invoke(app, ["experiment", "summary", AA.id, "--json"])
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert found["verdict"]["decision"] == "ship"
    assert sum(arm["users"] for arm in found["arms"]) == USERS
    shown = runner.invoke(app, ["experiment", "summary", AA.id])
    for words in ("ship", "review_rate is better", "control", "sample ratio", "8,137 users"):
        assert words in shown.stdout
    listed = json.loads(runner.invoke(app, ["experiment", "list", "--json"]).stdout)
    assert {row["experiment"]: row["ran"] for row in listed} == {
        name: "running" if name == AA.id else "not started" for name in EXPERIMENTS
    }
    refused = runner.invoke(app, ["experiment", "summary", "fees"])
    assert refused.exit_code == 1
    assert "champion-aa" in refused.stderr


def test_what_is_asked_wrongly_is_refused(served: RunningServer) -> None:
    unknown = summary_of(served, "fees")
    assert unknown.status_code == 404
    assert all(name in unknown.json()["detail"] for name in EXPERIMENTS)
    for query in ({"windowHours": "0"}, {"windowHours": "x"}, {"windowHours": "9" * 20}):
        answer = summary_of(served, **query)
        assert answer.status_code == 422, query
        assert "query.windowHours" in answer.json()["detail"]
    for query in ({"window": "3"}, {"windowHours": "1.5"}, {"windowHours": "-1"}):
        assert summary_of(served, **query).status_code == 422
    for name in ("a%2Fb", "x" * 65, "a%20b"):
        assert served.client.get(f"/experiments/{name}/summary").status_code in (404, 422)
