"""Starting, swapping, dying and stopping, with real processes under real requests."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest

from ibook_assets.core.settings import Settings
from ibook_assets.models.bundle import ModelBundle
from tests.serving.damage import publish_damaged_history, publish_damaged_model
from tests.serving.harness import (
    ORDER,
    RunningServer,
    eventually,
    promote,
    running,
    small_bundle,
)
from tests.serving.history import later, publish_history


@dataclass
class Load:
    """Requests sent by a thread, one after the other, until told to stop."""

    versions: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@contextmanager
def load(url: str) -> Iterator[Load]:
    """Keep asking `url` for batches of three while the block runs."""
    report, stop = Load(), threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=10) as client:
            while not stop.is_set():
                answer = client.post("/predict", json={"requests": [ORDER] * 3})
                if answer.status_code != 200:
                    report.failures.append(answer.text)
                    continue
                served = {p["model_version"] for p in answer.json()["predictions"]}
                report.versions += served if len(served) == 1 else ["mixed"]

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield report
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_from_no_model_to_promoted_to_replaced_to_tampered_without_a_restart(
    settings: Settings, bundle: ModelBundle, next_bundle: ModelBundle
) -> None:
    with running(settings, processes=2) as server:
        assert "no fraud model is promoted yet" in server.outputs[0]
        started_with = server.api_processes()
        health = server.client.get("/healthz")
        assert (health.status_code, health.json()["detail"]) == (503, "no_promoted_model")
        unready = server.client.post("/predict", json={"requests": [ORDER]})
        assert unready.status_code == 503
        assert unready.headers["content-type"] == "application/problem+json"
        assert "make demo" in unready.json()["detail"]
        assert server.client.get("/readyz").status_code == 503
        assert server.client.post("/admin/reload").status_code == 403, "no key: closed"

        promote(settings, bundle)
        eventually(lambda: server.versions() == {"fraud-v1"}, what="serving the first model")

        with load(server.url) as report:
            eventually(lambda: "fraud-v1" in report.versions, what="load on the first model")
            promote(settings, next_bundle)
            eventually(lambda: server.versions() == {"fraud-v2"}, what="serving the second model")
            eventually(
                lambda: set(report.versions[-20:]) == {"fraud-v2"}, what="load on the second model"
            )
        assert report.failures == []
        assert set(report.versions) == {"fraud-v1", "fraud-v2"}

        first = publish_history(settings)
        eventually(
            lambda: server.asked_anew("online_snapshot") == {first.snapshot_id},
            what="the first history",
        )
        assert server.predict(ORDER)[0]["degraded"] == []
        second = publish_history(settings, as_of_us=later(hours=1))
        eventually(
            lambda: server.asked_anew("online_snapshot") == {second.snapshot_id},
            what="the second history",
        )

        publish_damaged_model(settings, small_bundle("fraud-v3", seed=3))
        publish_damaged_history(settings, as_of_us=later(hours=2))
        eventually(lambda: len(_refusals(server)) == 2, what="refusing changed files")
        readiness = server.readiness()
        assert (readiness["ready"], readiness["model_version"]) == (True, "fraud-v2")
        assert readiness["online_snapshot"] == second.snapshot_id
        for refusal in readiness["refusals"]:
            assert "sha256" in refusal["reason"]
            assert str(settings.home) not in refusal["reason"]
        assert server.predict(ORDER)[0]["model_version"] == "fraud-v2"

        promote(settings, small_bundle("fraud-v4", seed=4))
        eventually(lambda: server.versions() == {"fraud-v4"}, what="serving the fourth model")
        # Only one of them is asked, and the other may still be about to.
        eventually(lambda: _refusals(server) == {"online_store"}, what="forgetting the third")
        assert server.api_processes() == started_with, "nothing was restarted"


def _refusals(server: RunningServer) -> set[str]:
    return {r["what"] for r in server.readiness()["refusals"]}


def test_a_killed_api_process_is_replaced_and_sigterm_answers_what_is_in_flight(
    settings: Settings, bundle: ModelBundle
) -> None:
    promote(settings, bundle)
    with running(settings, processes=2) as server:
        before = server.api_processes()
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        eventually(
            lambda: bool(server.asked_anew("process") - {*before}),
            what="answers from a new process",
        )
        assert len(server.api_processes()) == 2
        assert before[0] not in server.api_processes()
        assert server.events("API process died; starting another")[0]["exit_code"] == -9
        assert server.versions() == {"fraud-v1"}

        connections = [_ask_much(server) for _ in range(4)]
        eventually(lambda: _received(server, 4), what="requests in flight")
        assert server.terminate() == 0
        for connection in connections:
            with closing(connection):
                answer = connection.getresponse()
                assert answer.status == 200
                assert len(json.loads(answer.read())["predictions"]) == 1_000
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/healthz", timeout=5)
        assert server.events("stopping")[0]["signal"] == "SIGTERM"


def test_who_comes_in_while_a_process_without_clients_stops_is_answered(
    settings: Settings, bundle: ModelBundle
) -> None:
    promote(settings, bundle)
    with running(settings) as server:
        server.client.close()
        assert any(_came_in(server) for _ in range(5)), "doors were closed before anybody came"


def _came_in(server: RunningServer) -> bool:
    """Whether somebody came in while the process stopped; all are answered, by it or the next."""
    eventually(lambda: not _connections(server), what="nobody is connected")
    (pid,) = server.api_processes()
    os.kill(pid, signal.SIGTERM)
    port = server.client.base_url.port
    first, second = (HTTPConnection("127.0.0.1", port, timeout=60) for _ in range(2))
    with closing(first), closing(second):
        first.connect()
        second.connect()
        said = None
        while said != "close":
            first.request("GET", "/readyz")
            answer = first.getresponse()
            said = answer.getheader("connection")
            if json.loads(answer.read())["process"] != pid:
                return False
        second.request("GET", "/readyz")
        assert second.getresponse().status == 200
    eventually(lambda: pid not in server.api_processes(), what=f"the end of {pid}")
    return True


def _ask_much(server: RunningServer) -> HTTPConnection:
    """A connection on which a request of a thousand rows has been sent."""
    connection = HTTPConnection("127.0.0.1", server.client.base_url.port, timeout=30)
    connection.request("POST", "/predict?explain=true", json.dumps({"requests": [ORDER] * 1_000}))
    return connection


def _received(server: RunningServer, requests: int) -> bool:
    """Whether the server has read everything that was sent on this many connections."""
    unread = _connections(server)
    return len(unread) >= requests and set(unread) == {"00000000"}


def _connections(server: RunningServer) -> list[str]:
    """What the server has not read yet on each of its connections (bytes, hexadecimal)."""
    local = f":{server.client.base_url.port:04X}"
    established = "01"
    with Path("/proc/net/tcp").open() as table:
        rows = [line.split() for line in table.readlines()[1:]]
    return [r[4].split(":")[1] for r in rows if r[1].endswith(local) and r[3] == established]


def test_api_processes_do_not_outlive_a_killed_supervisor(
    settings: Settings, bundle: ModelBundle
) -> None:
    promote(settings, bundle)
    with running(settings, processes=2) as server:
        children = server.api_processes()
        server.process.kill()
        server.process.wait(timeout=10)
        eventually(
            lambda: not any(_alive(pid) for pid in children), what="the API processes ending"
        )


def _alive(pid: int) -> bool:
    try:
        with Path(f"/proc/{pid}/stat").open() as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
