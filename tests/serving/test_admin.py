"""The admin routes: who may, what they show, and switches that hold or say why they do not."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ibook_assets.core.rollout import Entrant, withdrawing
from ibook_assets.core.settings import Settings
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.models.bundle import ModelBundle
from tests.serving.harness import (
    ADMIN_KEY,
    WHO,
    RunningServer,
    challenge,
    promote,
    promotions,
    running,
    small_bundle,
)

KEY = {"x-api-key": ADMIN_KEY}
CANARY = Entrant("canary", 0.3)


@pytest.fixture(scope="session")
def third() -> ModelBundle:
    return small_bundle("fraud-v3", seed=3)


@pytest.fixture
def server(
    settings: Settings, bundle: ModelBundle, next_bundle: ModelBundle
) -> Iterator[RunningServer]:
    """A server of fraud-v2, before which fraud-v1 served."""
    promote(settings, bundle)
    promote(settings, next_bundle)
    with running(settings, environment={"IBOOK_ADMIN_KEY": ADMIN_KEY}) as found:
        yield found


def switch(server: RunningServer, version: str, target: str, **more: object) -> httpx.Response:
    body = {"version": version, "target": target, **more}
    return server.client.post("/admin/switch-model", json=body, headers=KEY)


def switched(server: RunningServer, version: str, target: str, **more: object) -> dict[str, Any]:
    answer = switch(server, version, target, **more)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def refused(answer: httpx.Response, status: int) -> str:
    """The detail of a problem document that names nothing of this machine."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert "/tmp" not in answer.text
    assert ADMIN_KEY not in answer.text
    return str(answer.json()["detail"])


def models(server: RunningServer) -> dict[str, Any]:
    answer = server.client.get("/admin/models", headers=KEY)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def states(server: RunningServer) -> list[tuple[str, str, float | None]]:
    return [(m["version"], m["state"], m["share"]) for m in models(server)["models"]]


def numbered(server: RunningServer) -> dict[str, str | None]:
    return {m["version"]: m["release"] for m in models(server)["models"]}


def test_models_shows_the_record_and_what_this_process_made_of_it(
    server: RunningServer, third: ModelBundle
) -> None:
    settings = server.settings
    record = challenge(settings, third, CANARY)
    assert server.client.post("/admin/reload", headers=KEY).json()["swapped"]
    found = models(server)
    assert [
        (m["version"], m["state"], m["share"], m["record_sequence"]) for m in found["models"]
    ] == [
        ("fraud-v2", "champion", 0.7, 2),
        ("fraud-v3", "canary", 0.3, 3),
        ("fraud-v1", "archived", None, 2),
    ]
    canary = found["models"][1]
    assert (canary["actor"], canary["reason"]) == (WHO["actor"], WHO["reason"])
    assert canary["since"] == record.promoted_at.isoformat().replace("+00:00", "Z")
    assert record.challengers[0].model.artefact.uri.endswith(canary["artefact"])
    assert canary["gate"] == {"passed": True, "champion_version": "fraud-v2", "rules": []}
    assert (found["record_sequence"], found["served_sequence"]) == (3, 3)
    assert [(lane["variant"], lane["version"]) for lane in found["loaded"]] == [
        ("champion", "fraud-v2"),
        ("canary", "fraud-v3"),
    ]
    assert (found["process"], found["refusals"]) == (server.api_processes()[0], [])
    loads = server.events("loaded")
    assert [line["version"] for line in loads if line["what"] == "model"] == [
        "fraud-v2",
        "fraud-v2 beside fraud-v3",
    ]


def test_switching_everybody_promotes_rolls_back_or_withdraws(
    server: RunningServer, third: ModelBundle
) -> None:
    settings = server.settings
    challenge(settings, third, CANARY)
    said = switched(server, "fraud-v3", "all", reason="it is better", actor="ana@ibook.test")
    assert said == {
        "changed": True,
        "entry": "promote of fraud-v3",
        "record_sequence": 4,
        "model_version": "fraud-v3",
    }
    assert {p["model_version"] for p in server.predict()} == {"fraud-v3"}, "served on answering"
    newest = promotions(settings).require_current(FRAUD.name)
    assert (newest.actor, newest.reason) == ("ana@ibook.test (admin api)", "it is better")

    assert switched(server, "fraud-v3", "all")["changed"] is False
    said = switched(server, "fraud-v1", "all")
    assert (said["entry"], said["record_sequence"]) == ("rollback of fraud-v1", 5)
    assert server.predict()[0]["model_version"] == "fraud-v1"
    newest = promotions(settings).require_current(FRAUD.name)
    assert (newest.actor, newest.reason) == ("admin api", "switched all to fraud-v1")

    switched(server, "fraud-v2", "treatment", share=1.0)
    assert server.predict()[0]["variant"] == "canary"
    said = switched(server, "fraud-v1", "all")
    assert (said["changed"], said["record_sequence"]) == (True, 7)
    assert server.predict()[0]["variant"] == "champion"
    assert states(server)[0] == ("fraud-v1", "champion", 1.0)
    actions = [r.action for r in promotions(settings).history(FRAUD.name)]
    assert actions[3:] == ["promote", "rollback", "challenge", "challenge"]


def test_a_release_number_names_its_model(server: RunningServer, third: ModelBundle) -> None:
    challenge(server.settings, third, CANARY)
    assert numbered(server) == {"fraud-v1": "v1.0.0", "fraud-v2": "v1.1.0", "fraud-v3": None}
    said = switched(server, "v1.0.0", "all")
    assert (said["entry"], said["model_version"]) == ("rollback of fraud-v1", "fraud-v1")
    assert switched(server, "v1.0.0", "all")["changed"] is False
    unknown = refused(switch(server, "v1.2.0", "all"), 404)
    assert "releases are: v1.0.0 (fraud-v1), v1.1.0 (fraud-v2)" in unknown
    for malformed in ("v1.0", "1.0.0", "v1.0.0\n", "v0.1.0", "v1.00.0"):
        assert switch(server, malformed, "all").status_code == 422, malformed
    assert numbered(server)["fraud-v2"] == "v1.1.0", "kept by a model that serves no more"


def test_switching_a_share_starts_a_canary_or_joins_the_experiment(
    server: RunningServer, third: ModelBundle
) -> None:
    settings = server.settings
    assert switched(server, "fraud-v1", "treatment")["record_sequence"] == 3
    assert states(server)[:2] == [("fraud-v2", "champion", 0.95), ("fraud-v1", "canary", 0.05)]
    assert switched(server, "fraud-v1", "treatment")["changed"] is False, "keeps its share"
    switched(server, "fraud-v1", "treatment", share=0.5)
    assert states(server)[1] == ("fraud-v1", "canary", 0.5)
    switched(server, "fraud-v2", "all")

    challenge(settings, third, Entrant("treatment", 0.2, experiment="exp-1"))
    said = switched(server, "fraud-v3", "treatment", share=0.4)
    assert said["entry"] == "challenge of fraud-v2 by treatment fraud-v3 (0.4)"
    newest = promotions(settings).require_current(FRAUD.name)
    assert (newest.experiment, newest.salt) == ("exp-1", "exp-1")
    assert models(server)["experiment"] == "exp-1"


def test_what_cannot_be_switched_to_is_refused_and_nothing_is_written(
    server: RunningServer, third: ModelBundle
) -> None:
    settings = server.settings
    log = promotions(settings)
    entered = challenge(settings, third, CANARY)
    assert "canary is fraud-v3 already" in refused(switch(server, "fraud-v1", "treatment"), 409)
    log.challenge(withdrawing(entered, None, **WHO), expected_parent=entered.sha256)
    assert "fraud-v2 is the champion" in refused(switch(server, "fraud-v2", "treatment"), 409)
    assert "never the champion" in refused(switch(server, "fraud-v3", "all"), 409)
    said = refused(switch(server, "fraud-v9", "all"), 404)
    assert "known are ['fraud-v2', 'fraud-v3', 'fraud-v1']" in said
    before = log.history(FRAUD.name)
    assert [record.sequence for record in before] == [1, 2, 3, 4]

    artefact = before[0].model.artefact
    damaged = Path(settings.lake) / artefact.uri / "model.ubj"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + b"!")
    for target in ("all", "treatment"):
        assert "its record says" in refused(switch(server, "fraud-v1", target), 409)
    assert log.history(FRAUD.name) == before
    damaged.write_bytes(whole)
    assert switched(server, "fraud-v1", "all")["model_version"] == "fraud-v1"


def test_a_challenger_that_cannot_be_had_refuses_the_record_and_all_stays(
    server: RunningServer, third: ModelBundle
) -> None:
    record = challenge(server.settings, third, CANARY)
    damaged = Path(server.settings.lake) / record.challengers[0].model.artefact.uri / "model.ubj"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[1:])
    assert "was refused" in refused(server.client.post("/admin/reload", headers=KEY), 409)
    found = models(server)
    assert (found["record_sequence"], found["served_sequence"]) == (3, 2)
    (refusal,) = found["refusals"]
    assert refusal["name"] == "fraud-v2 beside fraud-v3"
    assert "model.ubj has sha256" in refusal["reason"]
    assert server.predict()[0]["variant"] == "champion"
    damaged.write_bytes(whole)
    assert server.client.post("/admin/reload", headers=KEY).json()["record_sequence"] == 3


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/admin/models"), ("POST", "/admin/switch-model"), ("POST", "/admin/reload")],
)
def test_every_admin_route_needs_the_key(served: RunningServer, method: str, path: str) -> None:
    body = json.dumps({"version": "fraud-v1", "target": "all"}).encode()
    for wrong in (None, "", "wrong", ADMIN_KEY[:-1], ADMIN_KEY + "x", "ä" * 40, "x" * 8_000):
        headers = {} if wrong is None else {b"x-api-key": wrong.encode("latin-1")}
        answer = served.client.request(method, path, content=body, headers=headers)
        assert "x-api-key" in refused(answer, 401)


HOSTILE = ("../../x", "%2e%2e", "a/b", "", "x" * 65, "a\n", "fraud-v1\u0000", "x" * 60_000)


@pytest.mark.parametrize(
    "change",
    [
        *({"version": version} for version in HOSTILE),
        {"target": "everybody"},
        {"target": "treatment", "share": 1.5},
        {"target": "treatment", "share": "all"},
        {"share": 0.5},
        {"actor": "ana <ana@ibook.test>"},
        {"actor": "x" * 65},
        {"reason": "   "},
        {"reason": "\x1b[2J"},
        {"reason": "x" * 501},
        {"sequence": 3},
    ],
    ids=lambda change: str(change)[:40],
)
def test_a_hostile_switch_is_refused_by_its_field(
    served: RunningServer, change: dict[str, object]
) -> None:
    body: dict[str, object] = {"version": "fraud-v1", "target": "all"}
    answer = served.client.post("/admin/switch-model", json=body | change, headers=KEY)
    assert answer.status_code == 422, answer.text
    assert f"$.{next(reversed(change))}" in answer.text


@pytest.mark.parametrize("path", ["/admin/models/../switch-model", "/admin/%2e%2e/models"])
def test_odd_admin_paths_are_not_found(served: RunningServer, path: str) -> None:
    with socket.create_connection(("127.0.0.1", served.client.base_url.port or 0)) as raw:
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nx-api-key: {ADMIN_KEY}\r\n"
        raw.sendall(f"{head}Connection: close\r\n\r\n".encode())
        raw.settimeout(10)
        answer = b"".join(iter(lambda: raw.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 404")


def test_without_a_key_the_admin_routes_are_closed_and_before_a_promotion_empty(
    settings: Settings,
) -> None:
    with running(settings) as server:
        for path in ("/admin/models", "/admin/switch-model", "/admin/reload"):
            method = "GET" if path == "/admin/models" else "POST"
            answer = server.client.request(method, path, headers=KEY)
            assert "IBOOK_ADMIN_KEY" in refused(answer, 403)
    with running(settings, environment={"IBOOK_ADMIN_KEY": ADMIN_KEY}) as server:
        found = models(server)
        assert (found["record_sequence"], found["served_sequence"]) == (None, None)
        assert (found["models"], found["loaded"]) == ([], [])
        assert "no fraud model has been promoted" in refused(switch(server, "x", "all"), 503)
