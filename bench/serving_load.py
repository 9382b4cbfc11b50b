"""The load generator of the serving benchmark: one small process, closed or open loop.

`python -m bench.serving_load --port 8000 --bodies bodies.msgpack --seconds 5 [--rate 2000]` prints
one JSON line. Closed loop: every connection sends its next request when it has its answer. Open
loop: requests are due at random (Poisson) times whatever became of those before, and a latency
counts from when a request was due.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import uvloop

BEGUN = "begun"
_RECONNECT_SECONDS = 0.05
_DEGRADED = b'"degraded":["'
_HEAD = "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


@dataclass(frozen=True)
class Load:
    """What one run sent and got; latencies in milliseconds."""

    seconds: float
    asked_per_second: float | None
    answers: int
    failures: dict[str, int]
    """Answers other than 200, by status, and `broken` connections or `unanswered` requests."""
    degraded: int
    """Good answers that say that something was missing."""
    per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    longest_failure_ms: float
    """Longest that a request waited whose connection broke; 0 when none did."""
    own_cpu_seconds: float
    own_lag_p99_ms: float
    """How late the generator itself was (open loop)."""

    @property
    def failed_share(self) -> float:
        """Requests without a 200."""
        failed = sum(self.failures.values())
        return failed / max(1, failed + self.answers)


class Generator:
    """Sends ready-made requests over kept connections and notes what comes back."""

    def __init__(self, requests: list[bytes]) -> None:
        self.requests = itertools.cycle(requests)
        self.idle: list[_Connection] = []
        self.waiting: deque[float] = deque()
        self.latencies: list[float] = []
        self.lags: list[float] = []
        self.failure_waits: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.degraded = 0
        self.port = 0
        self.sent = 0
        self.closed_loop = True
        self.stopped = False
        self._reconnecting: set[asyncio.Task[_Connection]] = set()

    def send_due(self, due: float) -> None:
        """Send the request that was due then, or keep it until a connection is free."""
        if self.idle:
            self.idle.pop().send(due)
        else:
            self.waiting.append(due)

    def answered(self, connection: _Connection, answer: bytes, due: float) -> None:
        """Note an answer; the connection goes on with what is next."""
        self.statuses[answer[9:12].decode()] += 1
        self.degraded += _DEGRADED in answer
        self.latencies.append(time.perf_counter() - due)
        self.take(connection)

    def take(self, connection: _Connection) -> None:
        """`connection` has nothing to do."""
        if self.stopped:
            return
        if self.closed_loop:
            connection.send(time.perf_counter())
        elif self.waiting:
            connection.send(self.waiting.popleft())
        else:
            self.idle.append(connection)

    async def connect(self) -> _Connection:
        """A new connection; tries again while nobody listens."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                found = await loop.create_connection(
                    lambda: _Connection(self), "127.0.0.1", self.port
                )
            except OSError:
                await asyncio.sleep(_RECONNECT_SECONDS)
            else:
                return found[1]

    def lost(self, connection: _Connection, *, due: float | None) -> None:
        """The other end closed `connection`; another one takes its place."""
        if self.stopped:
            return
        if due is not None:
            self.statuses["broken"] += 1
            self.failure_waits.append(time.perf_counter() - due)
        if connection in self.idle:
            self.idle.remove(connection)
        task = asyncio.create_task(self.connect())
        self._reconnecting.add(task)
        task.add_done_callback(self._reconnected)

    def _reconnected(self, task: asyncio.Task[_Connection]) -> None:
        self._reconnecting.discard(task)
        if not task.cancelled():
            self.take(task.result())


class _Connection(asyncio.Protocol):
    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._due = 0.0
        self._data = b""
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no asyncio.Transport, but behave like one.
        self._transport = cast("asyncio.Transport", transport)

    def send(self, due: float) -> None:
        """Send the next request."""
        self._due, self._busy = due, True
        self._generator.sent += 1
        self._generator.lags.append(time.perf_counter() - due)
        self._transport.write(next(self._generator.requests))

    def data_received(self, data: bytes) -> None:
        self._data = data = self._data + data if self._data else data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return
        head = data[:end].lower()
        at = head.find(b"content-length:") + 15
        length = int(head[at:].split(b"\r\n", 1)[0])
        if len(data) >= end + 4 + length:
            self._data, self._busy = b"", False
            self._generator.answered(self, data, self._due)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._generator.lost(self, due=self._due if self._busy else None)


async def run(
    generator: Generator,
    port: int,
    *,
    connections: int,
    seconds: float,
    rate: float | None,
    announce: bool,
) -> Load:
    """One run of `seconds` after the connections are made."""
    generator.closed_loop, generator.port = rate is None, port
    made = [await generator.connect() for _ in range(connections)]
    generator.idle = list(made)
    if announce:
        print(BEGUN, flush=True)
    began, cpu = time.perf_counter(), time.process_time()
    if rate is None:
        for connection in made:
            connection.send(time.perf_counter())
        await asyncio.sleep(seconds)
    else:
        await _on_schedule(generator, began, seconds, rate)
    wall = time.perf_counter() - began
    cpu = time.process_time() - cpu
    answered = len(generator.latencies)
    generator.stopped = True
    # What is on its way may still come; what was never sent counts as unanswered.
    await asyncio.sleep(0.5)
    lost = generator.sent - sum(generator.statuses.values()) + len(generator.waiting)
    generator.statuses["unanswered"] += lost
    good = generator.statuses.pop("200", 0)
    p50_ms, p99_ms, max_ms = np.quantile(generator.latencies or [np.nan], [0.5, 0.99, 1.0]) * 1e3
    return Load(
        wall,
        rate,
        good,
        {k: n for k, n in generator.statuses.items() if n},
        generator.degraded,
        answered / wall,
        float(p50_ms),
        float(p99_ms),
        float(max_ms),
        max(generator.failure_waits, default=0.0) * 1e3,
        cpu,
        float(np.quantile(generator.lags, 0.99)) * 1e3,
    )


async def _on_schedule(generator: Generator, began: float, seconds: float, rate: float) -> None:
    rng = random.Random(7)
    due = began
    while (now := time.perf_counter()) < began + seconds:
        while due <= now:
            generator.send_due(due)
            due += rng.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))


def whole_requests(path: str, bodies: list[bytes]) -> list[bytes]:
    """Head and body of each request."""
    head = _HEAD.format(path=path).encode()
    return [b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body) for body in bodies]


def main() -> None:
    """Send, then print the Load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/predict")
    parser.add_argument("--bodies", type=Path, required=True, help="msgpack list of bytes")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--announce", action="store_true", help=f"print {BEGUN!r} when it begins")
    options = parser.parse_args()
    bodies = msgspec.msgpack.decode(options.bodies.read_bytes(), type=list[bytes])
    generator = Generator(whole_requests(options.path, bodies))
    found = uvloop.run(
        run(
            generator,
            options.port,
            connections=options.connections,
            seconds=options.seconds,
            rate=options.rate,
            announce=options.announce,
        )
    )
    print(msgspec.json.encode(asdict(found)).decode())


if __name__ == "__main__":
    main()
