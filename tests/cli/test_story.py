"""The story's stage: state and settings of its own, and traffic that counts what fails."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from unittest.mock import patch

import pyarrow as pa
import pytest

from ibook_assets.cli.local_servers import prepare_history
from ibook_assets.cli.story.stage import DRIFT_FROM, JobError, alone, prepare, worker
from ibook_assets.cli.story.traffic import Traffic, orders_of
from ibook_assets.core.errors import ConflictError, ContractError
from ibook_assets.core.settings import Settings
from ibook_assets.defs.retraining import TRAINING_JOB
from ibook_sim.world import World
from tests.serving.harness import eventually
from tests.sim.small_world import CONFIG, DAYS

ROOT = Path(__file__).parents[2]
REQUESTS = 60


@pytest.fixture(scope="module")
def orders() -> pa.Table:
    world = World(CONFIG)
    return orders_of([world.transactions(day) for day in DAYS[:2]])


class Handler(BaseHTTPRequestHandler):
    """Answers each order of user `refused` with 503, all others with 200."""

    protocol_version = "HTTP/1.1"
    refused: ClassVar[int]
    seen: ClassVar[list[int]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        (order,) = body["requests"]
        self.seen.append(order["transaction_id"])
        self.send_response(503 if order["user_id"] == self.refused else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_request(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(*, refused: int = -1) -> Iterator[tuple[str, list[int]]]:
    seen: list[int] = []
    handler = type("OwnHandler", (Handler,), {"refused": refused, "seen": seen})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


def test_orders_are_sent_over_and_over_until_others_are_asked_for(orders: pa.Table) -> None:
    first, others = orders.slice(0, 7), orders.slice(7, 5)
    with serving() as (address, seen):
        traffic = Traffic(address, first, rps=200)
        with traffic.going():
            eventually(lambda: traffic.sent > REQUESTS, what="requests")
            before = traffic.sent
            traffic.turn_to(others)
            eventually(lambda: traffic.sent > before + REQUESTS, what="more requests")
    scored = traffic.scored()
    assert scored.failed == {}
    assert scored.requests == len(seen) > 2 * REQUESTS
    assert set(seen[: before - 1]) == set(first["transaction_id"].to_pylist())
    assert set(seen[-REQUESTS // 2 :]) == set(others["transaction_id"].to_pylist())


def test_requests_that_fail_are_counted_by_what_came_instead(orders: pa.Table) -> None:
    some = orders.slice(0, 10)
    unlucky = some["user_id"][3].as_py()
    share = some["user_id"].to_pylist().count(unlucky)
    with serving(refused=unlucky) as (address, seen):
        traffic = Traffic(address, some, rps=200)
        with traffic.going():
            eventually(lambda: traffic.failed > 2 * share, what="refusals")
    failed = traffic.scored().failed
    assert failed == {"HTTP 503": sum(1 for _ in _of(seen, some, unlucky))}


def _of(seen: list[int], orders: pa.Table, user: int) -> Iterator[int]:
    asked = {row["transaction_id"] for row in orders.to_pylist() if row["user_id"] == user}
    return (order for order in seen if order in asked)


def test_a_schedule_that_ends_before_the_block_is_no_error(orders: pa.Table) -> None:
    with serving() as (address, seen):
        traffic = Traffic(address, orders.slice(0, 5), rps=200, seconds=0.1)
        with traffic.going():
            eventually(lambda: len(seen) == 20, what="all that was due")
    assert (traffic.scored().requests, traffic.scored().failed) == (20, {})


def test_a_server_that_is_not_there_fails_every_request(orders: pa.Table) -> None:
    with serving() as (address, _):
        pass
    traffic = Traffic(address, orders.slice(0, 3), rps=100)
    with traffic.going():
        eventually(lambda: traffic.failed > 5, what="failures")
    scored = traffic.scored()
    assert scored.failed == {"connection failed": scored.requests}


def test_a_story_has_state_and_settings_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    mine = {
        "IBOOK_ALERT_WEBHOOKS": "ops=slack:https://example.org/x",
        "IBOOK_LOG_FROM": "2026-01-09",
    }
    with patch.dict("os.environ", mine):
        chosen = prepare(Settings(home=tmp_path), level=0.8)
    assert chosen.home == tmp_path / "story"
    assert Path(chosen.lake).is_relative_to(chosen.home)
    assert str(chosen.home) in chosen.tracking_uri
    assert (chosen.sim_drift_level, chosen.sim_drift_from) == (0.8, DRIFT_FROM)
    assert chosen.log_from is None
    assert chosen.alert_webhooks is not None
    assert chosen.alert_webhooks.get_secret_value() == ""
    instance = (chosen.home / "dagster" / "dagster.yaml").read_text()
    assert f"base_dir: {chosen.home}/dagster/db" in instance
    assert ".ibook/dagster" not in instance


def test_a_story_and_its_processes_read_no_settings_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "dagster.yaml", tmp_path)
    (tmp_path / ".env").write_text("IBOOK_LOG_FROM=2026-01-09\nIBOOK_SIM_SEED=99\n")
    ask = (
        "from ibook_assets.core.settings import Settings; found = Settings();"
        "print(found.log_from, found.sim_seed)"
    )
    with patch.dict("os.environ"):
        chosen = prepare(Settings(home=tmp_path), level=0.7)
        told = subprocess.run(
            [sys.executable, "-c", ask], capture_output=True, text=True, check=True
        )
    assert (chosen.log_from, chosen.sim_seed) == (None, 7)
    assert told.stdout == "None 7\n"


def test_two_stories_do_not_play_in_one_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with (
        alone(tmp_path),
        pytest.raises(ConflictError, match="another story plays"),
        alone(tmp_path),
    ):
        pytest.fail("both play")
    with alone(tmp_path):
        assert (tmp_path / "story.lock").exists()


def test_a_story_begins_with_nothing_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with patch.dict("os.environ"):
        first = prepare(Settings(home=tmp_path), level=0.7)
        (first.home / "lake").mkdir()
    with patch.dict("os.environ"):
        prepare(Settings(home=tmp_path), level=0.7)
    assert not (first.home / "lake").exists()


def test_a_job_of_the_story_that_fails_says_where_to_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with patch.dict("os.environ"):
        chosen = prepare(Settings(home=tmp_path), level=0.7)
        prepare_history()
        with worker(chosen.home / "worker.log") as warm:
            # There is no day yet to train on.
            failed = warm.run(TRAINING_JOB).exception()
    assert isinstance(failed, JobError)
    assert "training failed at ['fraud__training_set']: look at run" in str(failed)
    assert "facts" in (chosen.home / "worker.log").read_text()


def test_a_story_is_played_in_the_project_s_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ContractError, match=r"run this in the project's root"):
        prepare(Settings(home=tmp_path), level=0.7)
