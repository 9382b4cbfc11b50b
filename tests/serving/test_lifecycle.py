"""Starting, swapping, dying and stopping, with real processes under real requests."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from ibook_assets.core.settings import Settings
from ibook_assets.models.bundle import ModelBundle
from tests.serving.harness import ORDER, RunningServer, eventually, promote, running


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
            seen = len(report.versions)
            eventually(lambda: len(report.versions) > seen + 20, what="load on the second model")
        assert report.failures == []
        assert set(report.versions) == {"fraud-v1", "fraud-v2"}
        assert set(report.versions[-10:]) == {"fraud-v2"}

        _tamper_with_the_next_promotion(settings, bundle)
        eventually(lambda: _refusals(server) == {"fraud-v1"}, what="refusing changed files")
        readiness = server.readiness()
        assert (readiness["ready"], readiness["model_version"]) == (True, "fraud-v2")
        reason = readiness["refusals"][0]["reason"]
        assert "sha256" in reason
        assert str(settings.home) not in reason
        assert server.predict(ORDER)[0]["model_version"] == "fraud-v2"
        assert server.api_processes() == started_with, "nothing was restarted"
        assert {e["version"] for e in server.events("refused")} == {"fraud-v1"}


def _tamper_with_the_next_promotion(settings: Settings, bundle: ModelBundle) -> None:
    """Promote `bundle` again with a bit of its stored trees flipped, as a bad disk would."""
    (path,) = (
        path
        for path in (settings.home / "lake" / "promoted").rglob("model.ubj")
        if path.read_bytes() == bundle.files()["model.ubj"]
    )
    record = promote(settings, bundle)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    replacement = path.with_name("flipped")
    replacement.write_bytes(data)
    assert record.model_version == bundle.version
    replacement.replace(path)


def _refusals(server: RunningServer) -> set[str]:
    return {r["name"] for _ in range(4) for r in server.readiness()["refusals"]}


def test_a_killed_api_process_is_replaced_and_the_service_goes_on(
    settings: Settings, bundle: ModelBundle
) -> None:
    promote(settings, bundle)
    with running(settings, processes=2) as server:
        before = server.api_processes()
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        eventually(
            lambda: len(server.api_processes()) == 2 and before[0] not in server.api_processes(),
            what="a new process",
        )
        assert server.events("API process died; starting another")[0]["exit_code"] == -9
        new = next(pid for pid in server.api_processes() if pid != before[1])
        eventually(
            lambda: any(
                httpx.get(f"{server.url}/readyz", timeout=10).json()["process"] == new
                for _ in range(8)
            ),
            what="answers from the new process",
        )
        assert server.versions() == {"fraud-v1"}
        assert server.terminate() == 0


def test_a_server_whose_processes_keep_dying_ends_with_an_error(
    settings: Settings, bundle: ModelBundle
) -> None:
    promote(settings, bundle)
    with running(settings) as server:
        killed: set[int] = set()
        while server.process.poll() is None:
            for pid in set(server.api_processes()) - killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
            time.sleep(0.01)
        assert server.process.returncode == 1
        assert len(killed) == 6, "five restarts, then no more"
        assert server.events("API processes keep dying; giving up")


def test_sigterm_answers_what_is_in_flight_and_takes_nothing_new(
    settings: Settings, bundle: ModelBundle
) -> None:
    promote(settings, bundle)
    answers: list[httpx.Response] = []

    def ask(url: str) -> None:
        orders = {"requests": [ORDER] * 1_000}
        answers.append(httpx.post(f"{url}/predict?explain=true", json=orders, timeout=30))

    with running(settings, processes=2) as server:
        threads = [threading.Thread(target=ask, args=(server.url,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        eventually(lambda: _busy(server), what="requests in flight")
        assert server.terminate() == 0
        for thread in threads:
            thread.join()
        assert [a.status_code for a in answers] == [200] * 4
        assert all(len(a.json()["predictions"]) == 1_000 for a in answers)
        port = server.client.base_url.port or 0
        assert _refused(port)
        assert server.events("stopping")[0]["signal"] == "SIGTERM"


def _busy(server: RunningServer) -> bool:
    """Whether four connections have sent their requests to the server's processes."""
    suffix = f":{server.client.base_url.port:04X}"
    with Path("/proc/net/tcp").open() as table:
        rows = [line.split() for line in table.readlines()[1:]]
    received = [row for row in rows if row[1].endswith(suffix) and row[3] == "01"]
    return len(received) >= 4 and all(row[4].endswith(":00000000") for row in received)


def _refused(port: int) -> bool:
    try:
        httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=5)
    except httpx.ConnectError:
        return True
    return False


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
