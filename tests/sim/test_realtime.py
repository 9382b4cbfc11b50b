"""Load in real time: honest latency on a virtual clock, then against a real server that stalls."""

import asyncio
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ibook_assets.core.errors import ContractError
from ibook_serving.api import PredictRequest
from ibook_serving.http.decode import PREDICT, decode_body, order_row
from ibook_sim.chaos import Chaos, request_faults
from ibook_sim.realtime.driving import closed_loop, open_loop, waiting_room
from ibook_sim.realtime.histogram import RELATIVE_WIDTH, LatencyHistogram
from ibook_sim.realtime.http import HttpTarget, scoring_url
from ibook_sim.realtime.offline import OfflineTarget
from ibook_sim.realtime.payloads import bodies, http_requests
from ibook_sim.realtime.recording import Answer, Recording, histogram_of
from ibook_sim.realtime.schedule import arrivals
from tests.sim.virtual_time import run_virtually

SERVICE_SECONDS = 0.01
STALL_SECONDS = 2.0
MINUTE = 60.0


class StallingServer:
    """Answers in 10 ms, except that everything stands still for the first 2 s of each minute."""

    async def send(self, _: int) -> Answer:
        loop = asyncio.get_running_loop()
        sent_at = loop.time()
        into_minute = sent_at % MINUTE
        await asyncio.sleep(max(0.0, STALL_SECONDS - into_minute) + SERVICE_SECONDS)
        return Answer(200, sent_at)


def _driven(due: np.ndarray, seconds: float) -> Recording:
    async def main() -> Recording:
        return await open_loop(due, seconds, StallingServer().send, stop=asyncio.Event())

    return run_virtually(main())


def test_an_open_loop_shows_the_stall_and_a_closed_loop_hides_it() -> None:
    recording = _driven(arrivals(100.0, 300.0, seed=7), 300.0)
    # 2 s of every 60 s are stalled: 3.3 % of arrivals wait (2 s - offset), so the 99th percentile
    # is the wait that 1 % exceed: 2 s x (1 - 1 % / 3.33 %) = 1.4 s.
    honest = histogram_of(recording.latency()).quantile(0.99)
    assert honest == pytest.approx(1.4, abs=0.1)

    async def main() -> np.ndarray:
        send = StallingServer().send
        return await closed_loop(1, 300.0, send, stop=asyncio.Event(), requests=1)

    # The one client waits five times for 2 s and asks 29,000 times in between.
    assert histogram_of(run_virtually(main())).quantile(0.99) == pytest.approx(
        SERVICE_SECONDS, rel=0.02
    )
    assert recording.valid
    assert recording.issued == recording.due.size == 30_000


def test_the_generator_keeps_its_schedule_through_a_stall() -> None:
    recording = _driven(arrivals(50.0, 60.0, seed=1), 60.0)
    assert recording.lag().max() < 1e-6
    assert recording.rate_share() == pytest.approx(1.0)
    assert recording.outcomes() == {"HTTP 200": 3_000}


def test_a_generator_that_falls_behind_is_declared_invalid() -> None:
    due = np.linspace(0.0, 9.99, 1_000)
    recording = Recording(due, 10.0)
    for number in range(1_000):
        # Sends one request each 12 ms where one each 10 ms was asked.
        at = number * 0.012
        recording.note(number, Answer(200, at), start=0.0, now=at + 0.001)
    recording.issued = 1_000
    # The last one left at 11.988 s: 10 / 11.988 of the rate.
    assert recording.rate_share() == pytest.approx(10.0 / 11.988)
    assert not recording.valid
    # A late request has waited since it was due, although the server took a millisecond.
    assert recording.latency()[-1] == pytest.approx(11.989 - 9.99)
    assert recording.service_time().max() == pytest.approx(0.001)


def test_what_is_never_answered_counts_as_long_as_the_run() -> None:
    async def main() -> Recording:
        async def send(number: int) -> Answer:
            sent_at = asyncio.get_running_loop().time()
            await asyncio.sleep(1e6 if number == 0 else 0.01)
            return Answer(200, sent_at)

        due = np.array([0.0, 1.0, 2.0])
        return await open_loop(due, 3.0, send, stop=asyncio.Event(), drain_seconds=5.0)

    recording = run_virtually(main())
    assert recording.outcomes() == {"HTTP 200": 2, "unanswered": 1}
    assert recording.latency()[0] >= 3.0


def test_a_stopped_run_is_reported_for_as_long_as_it_ran() -> None:
    async def main() -> Recording:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(10.0, stop.set)
        due = arrivals(20.0, 60.0, seed=3)
        return await open_loop(due, 60.0, StallingServer().send, stop=stop)

    recording = run_virtually(main())
    assert recording.interrupted
    assert recording.seconds == pytest.approx(10.0, abs=0.1)
    assert recording.issued == pytest.approx(200, abs=60)
    assert recording.ok.sum() == recording.issued
    assert recording.valid


def test_an_error_of_our_own_is_not_swallowed() -> None:
    async def send(_: int) -> Answer:
        await asyncio.sleep(0.01)
        raise ZeroDivisionError

    async def main() -> Recording:
        return await open_loop(np.array([0.0]), 1.0, send, stop=asyncio.Event())

    with pytest.raises(ZeroDivisionError):
        run_virtually(main())


def test_a_waiting_room_never_lets_in_more_than_it_holds() -> None:
    inside = most = 0

    async def send(_: int) -> Answer:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0.1)
        inside -= 1
        return Answer(200, asyncio.get_running_loop().time())

    async def main() -> Recording:
        return await waiting_room(
            np.linspace(0.0, 0.99, 100), 1.0, send,
            admitted=5, stay_seconds=0.4, stop=asyncio.Event(), drain_seconds=60.0,
        )  # fmt: skip

    recording = run_virtually(main())
    assert most == 5
    # 100 visitors, 5 at a time, half a second each: the last five come in after 19 turns.
    assert np.nanmax(recording.sent) == pytest.approx(19 * 0.5, abs=0.05)
    assert recording.service_time().max() == pytest.approx(0.1, abs=0.01)
    assert recording.ok.all()


@given(rps=st.floats(0.5, 200.0), seconds=st.floats(1.0, 20.0))
def test_a_schedule_has_the_asked_count_in_order(rps: float, seconds: float) -> None:
    due = arrivals(rps, seconds, seed=5)
    assert due.size == max(1, round(rps * seconds))
    assert (np.diff(due) >= 0).all()
    assert due[0] >= 0.0
    assert due[-1] <= seconds
    assert (due == arrivals(rps, seconds, seed=5)).all()


@pytest.mark.parametrize(
    ("rps", "seconds"),
    [(0.0, 1.0), (1.0, -1.0), (1e6, 60.0)],
    ids=["no rate", "no time", "too many"],
)
def test_a_schedule_that_cannot_be_is_refused(rps: float, seconds: float) -> None:
    with pytest.raises(ContractError, match="requests a second"):
        arrivals(rps, seconds, seed=1)


latencies = arrays(np.float64, st.integers(1, 300), elements=st.floats(1e-5, 100.0))


@given(latencies, st.floats(0.0, 1.0))
def test_a_quantile_is_close_above_the_true_one(seconds: np.ndarray, share: float) -> None:
    rank = max(1, math.ceil(share * seconds.size))
    true = np.sort(seconds)[rank - 1]
    found = histogram_of(seconds).quantile(share)
    assert true * (1 - 1e-9) <= found <= true * (1 + RELATIVE_WIDTH) * (1 + 1e-9)


@given(latencies, latencies)
def test_merged_histograms_count_everything_once(one: np.ndarray, other: np.ndarray) -> None:
    merged = histogram_of(one)
    merged.merge(histogram_of(other))
    assert merged.points() == histogram_of(np.concatenate([one, other])).points()
    assert merged.points()[-1][1] == pytest.approx(1.0)


def test_an_empty_histogram_has_no_quantiles() -> None:
    assert math.isnan(LatencyHistogram().quantile(0.5))
    assert set(LatencyHistogram().summary_ms().values()) == {None}


def test_every_payload_is_an_order_the_scoring_api_reads(transactions: pa.Table) -> None:
    rows = transactions.slice(0, 500)
    same = [n for n in rows.column_names if n not in {"occurred_ts", "known_ts", "account_age_s"}]
    for body, row in zip(bodies(rows), rows.to_pylist(), strict=True):
        request = decode_body(body, PREDICT)
        assert isinstance(request, PredictRequest)
        read = order_row(request.requests[0], path="$", now_us=0)
        assert {name: read[name] for name in same} == {name: row[name] for name in same}
        assert read["account_age_s"] == row["account_age_s"]
        assert read["occurred_ts"] == read["known_ts"] == 0


def test_a_dated_payload_tells_when_the_order_was_placed(transactions: pa.Table) -> None:
    rows = transactions.slice(0, 50)
    for body, row in zip(bodies(rows, dated=True), rows.to_pylist(), strict=True):
        request = decode_body(body, PREDICT)
        assert isinstance(request, PredictRequest)
        read = order_row(request.requests[0], path="$", now_us=row["known_ts"])
        assert read["occurred_ts"] == row["occurred_ts"]


def test_offline_answers_depend_on_the_seed_alone() -> None:
    faults = request_faults(np.arange(200), Chaos(error_share=0.2), seed=4)
    flagged = np.arange(200) % 3 == 0
    scores = np.arange(200) / 200

    async def main() -> Recording:
        target = OfflineTarget(flagged, scores, seed=4, faults=faults)
        due = arrivals(20.0, 10.0, seed=4)
        return await open_loop(due, 10.0, target.send, stop=asyncio.Event())

    one, other = run_virtually(main()), run_virtually(main())
    assert (one.latency() == other.latency()).all()
    assert (one.ok == ~faults.fails).all()
    assert (one.flagged == (flagged & ~faults.fails)).all()
    assert (one.score[one.ok] == scores[one.ok]).all()
    assert np.isnan(one.score[~one.ok]).all()


class _Handler(BaseHTTPRequestHandler):
    """Scores at once, but holds every answer while the server's lock is taken."""

    protocol_version = "HTTP/1.1"
    lock: threading.Lock
    bodies: list[bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.lock:
            self.bodies.append(body)
        answer = b'{"predictions":[{"score":0.0042,"decision":"review"}]}'
        self.send_response(500 if b"fail" in body else 200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        return


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


@contextmanager
def _serving() -> Iterator[tuple[str, type[_Handler]]]:
    handler = type("Handler", (_Handler,), {"lock": threading.Lock(), "bodies": []})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _stall_soon(lock: threading.Lock) -> threading.Thread:
    def stall() -> None:
        time.sleep(0.5)
        with lock:
            time.sleep(0.7)

    thread = threading.Thread(target=stall)
    thread.start()
    return thread


def test_a_real_server_that_stalls_is_worse_than_a_closed_loop_says() -> None:
    with _serving() as (address, handler):
        url = scoring_url(address)
        requests = http_requests([b"%d" % n for n in range(400)], url)

        async def opened() -> Recording:
            async with HttpTarget(url, requests) as target:
                due = np.linspace(0.0, 1.99, 200)
                return await open_loop(due, 2.0, target.send, stop=asyncio.Event())

        async def closed() -> np.ndarray:
            async with HttpTarget(url, requests) as target:
                return await closed_loop(
                    1, 2.0, target.send, stop=asyncio.Event(), requests=len(requests)
                )

        stalling = _stall_soon(handler.lock)
        recording = asyncio.run(opened())
        stalling.join()
        assert recording.outcomes() == {"HTTP 200": 200}
        assert recording.flagged.all()
        assert (recording.score == 0.0042).all()
        assert len(set(handler.bodies)) == 200
        stalling = _stall_soon(handler.lock)
        waited = asyncio.run(closed())
        stalling.join()
    honest, hidden = histogram_of(recording.latency()), histogram_of(waited)
    assert honest.quantile(0.9) > hidden.quantile(0.9)
    assert waited.size > 0


def test_statuses_and_lost_servers_are_told_apart() -> None:
    with _serving() as (address, _):
        url = scoring_url(address)
        faults = request_faults(np.arange(2), Chaos(error_share=0.0), seed=1)
        requests = http_requests([b"fine", b"fail"], url)

        async def main() -> list[Answer]:
            async with HttpTarget(url, requests, faults=faults) as target:
                return [await target.send(0), await target.send(1)]

        answers = asyncio.run(main())
    assert [a.status for a in answers] == [200, 500]

    async def lost() -> Recording:
        async with HttpTarget(url, requests) as target:
            return await open_loop(np.array([0.0, 0.01]), 0.05, target.send, stop=asyncio.Event())

    assert asyncio.run(lost()).outcomes() == {"connection failed": 2}


@pytest.mark.parametrize(
    ("base", "path"),
    [
        ("http://127.0.0.1:8000", "/predict"),
        ("http://scoring:80/", "/predict"),
        ("127.0.0.1:8000", "/predict"),
        ("http://scoring/fraud/predict", "/fraud/predict"),
    ],
)
def test_the_scoring_path_is_found(base: str, path: str) -> None:
    assert scoring_url(base).path == path


@pytest.mark.parametrize("base", ["ftp://scoring", "http://", "file:///etc"])
def test_an_address_that_is_no_api_is_refused(base: str) -> None:
    with pytest.raises(ContractError, match="no address of a scoring API"):
        scoring_url(base)


@settings(max_examples=20)
@given(st.integers(1, 2_000), st.integers(0, 100))
def test_injected_faults_of_a_request_do_not_depend_on_the_others(count: int, first: int) -> None:
    chaos = Chaos(latency_share=0.5, latency_ms=10, error_share=0.5)
    whole = request_faults(np.arange(first + count), chaos, seed=1)
    part = request_faults(np.arange(first, first + count), chaos, seed=1)
    assert (whole.fails[first:] == part.fails).all()
