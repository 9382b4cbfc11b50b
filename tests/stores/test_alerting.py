"""The outbox of alerts against a real receiver: stored first, delivered at least once, visible."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from ibook_assets.core.alerts import Alert, Destination, parse_destinations, runbook_url
from ibook_assets.core.errors import ContractError
from ibook_assets.stores import alerting
from ibook_assets.stores.alerting import AlertOutbox, Entry
from ibook_assets.stores.local_blobs import LocalBlobs
from tests.services.receiver import Receiver, receiving

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
TOKEN = "T000/B000/" + "secret" * 2


class Platform:
    """An outbox with a clock of its own, and destinations."""

    def __init__(self, folder: Path) -> None:
        self.now = START
        self.folder = folder
        self.outbox = AlertOutbox(LocalBlobs(folder), clock=lambda: self.now)

    def deliver(self, *destinations: Destination) -> int:
        return self.outbox.deliver(destinations, seconds=30)

    def later(self, **by: float) -> None:
        self.now += timedelta(**by)

    @property
    def newest(self) -> Entry:
        return self.outbox.entries()[0]


def alert(number: int = 1, **changed: Any) -> Alert:
    fields: dict[str, Any] = {
        "kind": "run",
        "severity": "error",
        "status": "firing",
        "subject": "training",
        "summary": f"Run {number} failed.",
        "runbook_url": runbook_url("run"),
        "dedup_key": f"run/{number}",
        "event": str(number),
        "at": START + timedelta(seconds=number),
    }
    return Alert.model_validate(fields | changed)


def to(receiver: Receiver, name: str = "ops", kind: str = "generic") -> Destination:
    (found,) = parse_destinations(
        SecretStr(f"{name}={kind}:{receiver.url}/{TOKEN}"), SecretStr("routingrouting")
    )
    return found


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform(tmp_path / "lake")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


def test_an_alert_is_delivered_once_to_each_destination(
    platform: Platform, receiver: Receiver
) -> None:
    both = (to(receiver, "ops"), to(receiver, "audit", "slack"))
    assert platform.outbox.record(alert(), both)
    assert platform.deliver(*both) == 2
    platform.later(days=1)
    assert platform.deliver(*both) == 0
    assert len(receiver.bodies) == 2
    assert {"blocks" in body for body in receiver.bodies} == {True, False}
    assert {headers["idempotency-key"] for headers in receiver.headers} == {alert().id}
    assert platform.newest.undelivered == {}


def test_raising_the_same_event_again_changes_nothing(
    platform: Platform, receiver: Receiver
) -> None:
    raised = [platform.outbox.record(alert(), [to(receiver)]) for _ in range(3)]
    assert raised == [True, False, False]
    assert platform.deliver(to(receiver)) == 1


def test_an_open_matter_is_told_once_until_it_is_closed(
    platform: Platform, receiver: Receiver
) -> None:
    story = [
        alert(1, dedup_key="k"),
        alert(2, dedup_key="k"),
        alert(3, dedup_key="k", status="resolved"),
        alert(4, dedup_key="k", status="resolved"),
        alert(5, dedup_key="k"),
    ]
    assert [platform.outbox.record(a, [to(receiver)]) for a in story] == [1, 0, 1, 0, 1]
    # All of it read again, as after a lost cursor, is no news.
    assert not any(platform.outbox.record(a, [to(receiver)]) for a in story)
    platform.deliver(to(receiver))
    assert receiver.statuses == ["firing", "resolved", "firing"]
    assert [a.event for a in platform.outbox.open_alerts()] == ["5"]


def test_a_server_error_is_tried_again_after_pauses_that_double(
    platform: Platform, receiver: Receiver
) -> None:
    receiver.will_answer(500, 503)
    platform.outbox.record(alert(), [to(receiver)])
    assert platform.deliver(to(receiver)) == 0
    seen = platform.newest.undelivered["ops"]
    assert (seen.state, seen.attempts) == ("waiting", 1)
    assert seen.answer.startswith("500 ")
    platform.later(seconds=29)
    platform.deliver(to(receiver))
    assert len(receiver.bodies) == 1
    platform.later(seconds=1)
    platform.deliver(to(receiver))
    assert platform.newest.undelivered["ops"].due == platform.now + timedelta(seconds=60)
    platform.later(seconds=60)
    assert platform.deliver(to(receiver)) == 1
    assert len(receiver.bodies) == 3


def test_a_receiver_that_asks_for_patience_gets_it(platform: Platform, receiver: Receiver) -> None:
    receiver.will_answer(429, retry_after="600")
    platform.outbox.record(alert(), [to(receiver)])
    platform.deliver(to(receiver))
    assert platform.newest.undelivered["ops"].due == platform.now + timedelta(seconds=600)


def test_a_refused_connection_is_tried_again(platform: Platform) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    nobody = to(Receiver(url=f"http://127.0.0.1:{port}"))
    platform.outbox.record(alert(), [nobody])
    assert platform.deliver(nobody) == 0
    assert "ConnectError" in platform.newest.undelivered["ops"].answer
    platform.later(minutes=1)
    with receiving(port) as receiver:
        assert platform.deliver(to(receiver)) == 1
        assert receiver.bodies[0]["summary"] == "Run 1 failed."


@pytest.mark.parametrize(
    ("status", "headers"), [(404, {}), (302, {"location": "https://elsewhere.example.org/x"})]
)
def test_a_permanent_refusal_is_visible_and_not_sent_for_ever(
    platform: Platform, receiver: Receiver, status: int, headers: dict[str, str]
) -> None:
    receiver.will_answer(status, body=b"no_service", **headers)
    platform.outbox.record(alert(), [to(receiver)])
    for _ in range(5):
        platform.deliver(to(receiver))
        platform.later(hours=2)
    assert len(receiver.bodies) == 1
    seen = platform.newest.undelivered["ops"]
    assert (seen.state, seen.answer[:3]) == ("refused", str(status))
    platform.later(days=3)
    platform.deliver(to(receiver))
    assert platform.outbox.pending() == []
    assert [e.undelivered["ops"].state for e in platform.outbox.entries(unsettled=True)] == [
        "refused"
    ]


def test_a_mended_address_gets_what_was_refused(platform: Platform, receiver: Receiver) -> None:
    receiver.will_answer(404)
    platform.outbox.record(alert(), [to(receiver)])
    platform.deliver(to(receiver))
    (mended,) = parse_destinations(SecretStr(f"ops=generic:{receiver.url}/mended"))
    assert platform.deliver(mended) == 1
    assert receiver.paths[-1] == "/mended"
    assert platform.newest.undelivered == {}


def test_what_nobody_takes_for_days_is_given_up_visibly(platform: Platform) -> None:
    nobody = to(Receiver(url="http://127.0.0.1:1"))
    platform.outbox.record(alert(), [nobody])
    states = []
    for _ in range(4):
        platform.deliver(nobody)
        states.append(platform.newest.undelivered["ops"].state)
        platform.later(days=1, seconds=1)
    assert states == ["waiting", "waiting", "waiting", "given_up"]
    assert platform.outbox.pending() == []
    assert len(platform.outbox.entries(unsettled=True)) == 1


def test_a_destination_that_is_gone_from_the_settings_is_shown_as_that(platform: Platform) -> None:
    platform.outbox.record(alert(), [to(Receiver(url="http://127.0.0.1:1"))])
    platform.later(days=4)
    platform.deliver()
    assert "no destination of that name" in platform.newest.undelivered["ops"].answer


def test_what_closes_a_matter_never_overtakes_what_opened_it(
    platform: Platform, receiver: Receiver
) -> None:
    receiver.will_answer(500)
    platform.outbox.record(alert(1, dedup_key="k"), [to(receiver)])
    platform.outbox.record(alert(2, dedup_key="k", status="resolved"), [to(receiver)])
    platform.deliver(to(receiver))
    platform.later(seconds=10)
    platform.deliver(to(receiver))
    assert receiver.statuses == ["firing"]
    platform.later(seconds=30)
    platform.deliver(to(receiver))
    assert receiver.statuses == ["firing", "firing", "resolved"]


def test_an_alert_that_a_receiver_chokes_on_does_not_hold_up_the_others(
    platform: Platform, receiver: Receiver
) -> None:
    receiver.will_answer(500)
    for number in (1, 2):
        platform.outbox.record(alert(number), [to(receiver)])
    assert platform.deliver(to(receiver)) == 0
    assert len(receiver.bodies) == 1
    platform.later(seconds=1)
    assert platform.deliver(to(receiver)) == 1
    assert receiver.bodies[-1]["event"] == "2"


def test_a_receiver_that_hangs_costs_a_bounded_time_and_holds_up_nobody_else(
    platform: Platform, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerting, "ATTEMPT_SECONDS", 0.2)
    with socket.socket() as silent:
        # Takes connections in its backlog and never says a word.
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        hanging = to(Receiver(url=f"http://127.0.0.1:{silent.getsockname()[1]}"), "mute")
        for number in range(1, 4):
            platform.outbox.record(alert(number), [hanging, to(receiver)])
        assert platform.deliver(hanging, to(receiver)) == 3
    states = [entry.undelivered["mute"] for entry in platform.outbox.entries()]
    assert [s.attempts for s in states] == [0, 0, 1]
    assert states[-1].answer == "no answer within 0.2 s"


def test_neither_logs_nor_records_show_a_secret(
    platform: Platform, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    pager = to(receiver, "pager", "pagerduty")
    with caplog.at_level(logging.DEBUG):
        for number, destination in enumerate((to(receiver), pager), 1):
            key = "routingrouting" if destination is pager else "key"
            receiver.will_answer(400, body=f"no {key} at /{TOKEN}".encode())
            platform.outbox.record(alert(number), [destination])
            platform.deliver(destination)
    stored = " ".join(p.read_text() for p in platform.folder.rglob("*.json"))
    for shown in (caplog.text, stored, repr(platform.newest)):
        assert "secretsecret" not in shown
        assert "routingrouting" not in shown
    assert "400 Bad Request no *** at /***" in stored


def test_old_alerts_are_forgotten_unless_they_are_open(
    platform: Platform, receiver: Receiver
) -> None:
    platform.outbox.record(alert(1), [to(receiver)])
    platform.outbox.record(alert(2, status="notice"), [to(receiver)])
    platform.deliver(to(receiver))
    platform.later(days=31)
    platform.deliver(to(receiver))
    assert [entry.alert.event for entry in platform.outbox.entries()] == ["1"]
    assert len(list(platform.folder.rglob("*.json"))) == 2


def test_a_damaged_alert_is_named_and_the_others_are_sent(
    platform: Platform, receiver: Receiver
) -> None:
    for number in (1, 2):
        platform.outbox.record(alert(number), [to(receiver)])
    damaged = platform.folder / "alerts" / "log" / f"{alert(1).id}.json"
    damaged.write_text("{}")
    with pytest.raises(ContractError, match=damaged.name):
        platform.deliver(to(receiver))
    assert [body["event"] for body in receiver.bodies] == ["2"]


def _raise_and_die(folder: Path, url: str, step: str) -> None:
    """Raise an alert and be killed before, or right after, it is sent."""
    blobs = LocalBlobs(folder)
    outbox = AlertOutbox(blobs)
    destination = to(Receiver(url=url))
    outbox.record(alert(at=datetime.now(UTC)), [destination])
    if step == "sent":
        blobs.put = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        outbox.deliver([destination], seconds=30)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("step", "copies"), [("stored", 1), ("sent", 2)])
def test_a_killed_process_loses_no_alert(
    platform: Platform, receiver: Receiver, step: str, copies: int
) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=_raise_and_die, args=(platform.folder, receiver.url, step)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    platform.now = datetime.now(UTC)
    assert platform.deliver(to(receiver)) == 1
    assert platform.deliver(to(receiver)) == 0
    assert len(receiver.bodies) == copies
    # A receiver knows the second copy by its id.
    assert len({json.dumps(body) for body in receiver.bodies}) == 1
