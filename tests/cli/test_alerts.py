"""`ibook alerts`: destinations are really asked, and what they say decides the exit code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ibook_assets.cli import app
from ibook_assets.core.alerts import Alert, parse_destinations, runbook_url
from ibook_assets.core.settings import Settings
from ibook_assets.stores.alerting import AlertOutbox
from ibook_assets.stores.local_blobs import LocalBlobs
from tests.services.receiver import Receiver, receiving

FORMATS = ("generic", "slack", "pagerduty")
SECRET = "T000/B000/" + "secret" * 2


def ibook(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["alerts", *arguments])


@pytest.fixture
def receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("IBOOK_HOME", str(tmp_path))
    monkeypatch.setenv("IBOOK_PAGERDUTY_ROUTING_KEY", "routingrouting")
    with receiving() as found:
        terms = [
            f"{kind}={kind}:{found.url}/{SECRET}" for kind in ("generic", "slack", "pagerduty")
        ]
        monkeypatch.setenv("IBOOK_ALERT_WEBHOOKS", ",".join(terms))
        yield found


def test_a_test_alert_reaches_every_destination(receiver: Receiver) -> None:
    answer = ibook("test", "--json")
    assert answer.exit_code == 0, answer.output
    states = {name: told["state"] for name, told in json.loads(answer.stdout).items()}
    assert states == dict.fromkeys(FORMATS, "delivered")
    assert receiver.bodies[0]["kind"] == "test"
    assert [body.get("event_action") for body in receiver.bodies[2:]] == ["trigger", "resolve"]
    assert json.loads(ibook("list", "--json").stdout) == []


def test_what_came_back_is_shown_without_secrets(receiver: Receiver) -> None:
    receiver.will_answer(404, 403, 400, body=f"no {SECRET} routingrouting".encode())
    answer = ibook("test", "--json")
    assert answer.exit_code == 1
    told = json.loads(answer.stdout)
    assert told["generic"]["answer"] == "404 Not Found no *** routingrouting"
    assert told["pagerduty"]["answer"] == "400 Bad Request no *** ***"
    receiver.will_answer(404, body=SECRET.encode())
    answer = ibook("test")
    assert answer.exit_code == 1
    assert "refused" in answer.stdout
    assert "secretsecret" not in answer.output


def test_without_destinations_it_says_what_to_set(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IBOOK_ALERT_WEBHOOKS")
    answer = ibook("test")
    assert answer.exit_code == 1
    assert "IBOOK_ALERT_WEBHOOKS" in answer.stderr
    assert receiver.bodies == []


def test_alerts_are_listed_with_their_deliveries(receiver: Receiver) -> None:
    settings = Settings()
    outbox = AlertOutbox(LocalBlobs(settings.lake))
    destinations = parse_destinations(settings.alert_webhooks, settings.pagerduty_routing_key)
    raised = Alert(
        kind="run",
        severity="error",
        status="firing",
        subject="training",
        summary="The run of training [failed].",
        runbook_url=runbook_url("run"),
        dedup_key="run/training",
        event="1",
        at=datetime.now(UTC),
    )
    outbox.record(raised, destinations[:1])
    receiver.will_answer(500)
    outbox.deliver(destinations, seconds=10)
    (told,) = json.loads(ibook("list", "--json", "--unsettled").stdout)
    assert told["open"] is True
    assert told["deliveries"]["generic"]["state"] == "waiting"
    shown = " ".join(ibook("list").stdout.split())
    assert "open" in shown
    assert "secretsecret" not in shown
