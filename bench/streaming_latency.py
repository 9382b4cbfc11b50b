"""From the scheduled sending of an order to the first answer of the live store that knows it."""

from __future__ import annotations

import gc
import os
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from subprocess import Popen
from typing import Any, Final

import numpy as np

from bench.streaming_stage import PATIENCE_SECONDS, Stage, cpu_seconds, said, sender

FEATURE: Final = "user_realtime_fraud_features:seconds_since_order"
ROUNDING_US: Final = 1_000
"""Features are float32."""
POLL_SECONDS: Final = 0.004
VALID_SHARE: Final = 0.99
"""Less of the asked rate, and a run says nothing."""


@dataclass(frozen=True)
class Latency:
    """One run."""

    broker: str
    store: str
    asked_rate: int
    """Events a second."""
    rate: float
    valid: bool
    events: int
    samples: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    lag_p99_ms: float
    """How late the sender itself was; part of the latencies."""
    lag_max_ms: float
    cores: dict[str, float]
    """CPU seconds a second of each process; `others` is what else the machine did."""


@dataclass(slots=True)
class _Reader:
    """Asks the store for orders as soon as its watermark has passed them."""

    stage: Stage
    pids: Mapping[str, int]
    waiting: list[dict[str, Any]] = field(default_factory=list)
    latencies_ns: list[int] = field(default_factory=list)
    done: dict[str, Any] | None = None
    began: tuple[float, dict[str, float]] = (0.0, {})
    cores: dict[str, float] = field(default_factory=dict)
    _watermark_us: int = 0

    def begin(self) -> None:
        """Count from now on."""
        # A first question loads the kernel, and a pause of ours would count as the stream's.
        self.stage.store.fetch([FEATURE], [{"user_id": 1}])
        gc.collect()
        gc.freeze()
        self.began = (time.monotonic(), cpu_seconds(self.pids))

    def hear(self, message: dict[str, Any]) -> None:
        """Take a line of the sender."""
        if message["what"] == "order":
            self.waiting.append(message)
        else:
            self.done = message
            seconds, before = time.monotonic() - self.began[0], self.began[1]
            now = cpu_seconds(self.pids)
            self.cores = {name: (now[name] - before[name]) / seconds for name in now}

    def look(self) -> None:
        """Ask once."""
        watermark_us = self.stage.store.progress().watermark_us
        if watermark_us == self._watermark_us:
            return
        self._watermark_us = watermark_us
        due = [order for order in self.waiting if order["known_us"] < watermark_us]
        if due:
            self.waiting = [order for order in self.waiting if order["known_us"] >= watermark_us]
            self._fetch(due)

    def _fetch(self, orders: Sequence[Mapping[str, Any]]) -> None:
        rows = [{"user_id": order["user_id"]} for order in orders]
        found = self.stage.store.fetch([FEATURE], rows)
        now = time.monotonic_ns()
        for order, (seconds,) in zip(orders, found.values.tolist(), strict=True):
            # The user's last order known to the store is this one or a later one.
            last_us = found.as_of_us - seconds * 1e6
            assert last_us >= order["known_us"] - ROUNDING_US, (order, last_us)
            self.latencies_ns.append(now - order["due_ns"])


def measure(stage: Stage, *, rate: int, seconds: int) -> Latency:
    """Run sink, worker and sender on `stage` and read beside them."""
    arguments = [
        "--bootstrap",
        stage.broker.address,
        "--rate",
        str(rate),
        "--seconds",
        str(seconds),
    ]
    with (
        stage.part("sink") as sink,
        stage.part("worker") as worker,
        sender("pace", *arguments) as sending,
    ):
        _wait_until_level(stage, sending)
        pids = {
            "broker": stage.broker.pid,
            "gateway": sending.pid,
            "worker": worker,
            "sink": sink,
            "reader": os.getpid(),
        }
        if stage.store_pid is not None:
            pids["store"] = stage.store_pid
        reader = _Reader(stage, pids)
        _answer(sending)
        # Whoever compiles or loads something for the first rows does so before it counts.
        _wait_until_level(stage, sending)
        reader.begin()
        _read_along(reader, sending, limit=seconds + PATIENCE_SECONDS)
    return _summed_up(reader, stage, rate)


def _wait_until_level(stage: Stage, sending: Popen[str]) -> None:
    """Take a line of the sender, and wait until the store has everything known before it."""
    assert sending.stdout is not None
    known_us = said(sending.stdout.readline())["known_us"]
    stage.wait(lambda: stage.store.progress().watermark_us > known_us)


def _answer(sending: Popen[str]) -> None:
    assert sending.stdin is not None
    sending.stdin.write("go\n")
    sending.stdin.flush()


def _read_along(reader: _Reader, sending: Popen[str], limit: int) -> None:
    """Look for the orders that the sender tells of until all of them are seen."""
    heard: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    listening = threading.Thread(target=_listen, args=(sending, heard), daemon=True)
    _answer(sending)
    listening.start()
    deadline = time.monotonic() + limit
    while reader.done is None or reader.waiting:
        assert time.monotonic() < deadline, f"{len(reader.waiting)} orders were never seen"
        while not heard.empty():
            reader.hear(heard.get())
        reader.look()
        reader.stage.check()
        time.sleep(POLL_SECONDS)
    _answer(sending)
    sending.wait(timeout=PATIENCE_SECONDS)
    listening.join()


def _listen(sending: Popen[str], heard: queue.SimpleQueue[dict[str, Any]]) -> None:
    assert sending.stdout is not None
    for line in sending.stdout:
        heard.put(said(line))


def _summed_up(reader: _Reader, stage: Stage, rate: int) -> Latency:
    assert reader.done is not None
    ms = np.array(reader.latencies_ns) / 1e6
    p50, p95, p99 = np.quantile(ms, [0.5, 0.95, 0.99]).tolist()
    return Latency(
        stage.broker.name,
        stage.store_name,
        asked_rate=rate,
        rate=reader.done["rate"],
        valid=reader.done["rate"] >= VALID_SHARE * rate,
        events=reader.done["events"],
        samples=len(ms),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        max_ms=float(ms.max()),
        lag_p99_ms=reader.done["lag_p99_ms"],
        lag_max_ms=reader.done["lag_max_ms"],
        cores=reader.cores,
    )
