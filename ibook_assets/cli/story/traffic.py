"""Orders scored on a schedule while a story goes on, and what became of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, overload

import numpy as np
import pyarrow as pa

from ibook_sim.realtime.driving import open_loop
from ibook_sim.realtime.http import HttpTarget, scoring_url
from ibook_sim.realtime.payloads import bodies, http_requests
from ibook_sim.realtime.recording import Recording, histogram_of
from ibook_sim.realtime.schedule import arrivals

LONGEST_SECONDS: Final = 1_800.0
"""Length of the schedule; a story ends it sooner."""
SEED: Final = 11


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of the requests."""

    requests: int
    seconds: float
    failed: dict[str, int]
    """Requests that were not answered with success, by what came instead."""
    p50_ms: float | None
    p99_ms: float | None


class _OverAndOver(Sequence[bytes]):
    """Requests without an end: the last is followed by the first."""

    def __init__(self, requests: list[bytes]) -> None:
        self.requests = requests

    def __len__(self) -> int:
        return len(self.requests)

    @overload
    def __getitem__(self, number: int) -> bytes: ...
    @overload
    def __getitem__(self, number: slice) -> list[bytes]: ...
    def __getitem__(self, number: int | slice) -> bytes | list[bytes]:
        # One list for both steps: another thread may put a new one there.
        requests = self.requests
        return requests[number % len(requests)] if isinstance(number, int) else requests[number]


class Traffic:
    """Requests in an open loop: each is sent when it is due, whatever became of those before."""

    def __init__(
        self, address: str, orders: pa.Table, *, rps: float, seconds: float = LONGEST_SECONDS
    ) -> None:
        """Make the requests; none is sent.

        Args:
            address: of the scoring server.
            orders: columns of TRANSACTIONS; they are sent in their order, over and over.
            rps: mean requests a second.
            seconds: length of the schedule, should nobody end it sooner.
        """
        self._url = scoring_url(address)
        self._requests = _OverAndOver(self._made(orders))
        self._seconds = seconds
        self._due = arrivals(rps, seconds, seed=SEED)
        self._recording = Recording(self._due, seconds)
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()

    def turn_to(self, orders: pa.Table) -> None:
        """Send these orders from now on."""
        self._requests.requests = self._made(orders)

    @property
    def sent(self) -> int:
        """Requests sent by now."""
        return self._recording.issued

    @property
    def failed(self) -> int:
        """Requests that have been answered without success by now."""
        seen = self._recording
        return int((seen.answered & ~seen.ok).sum())

    @contextmanager
    def going(self) -> Iterator[None]:
        """Send while the block runs; what is on its way at its end is awaited."""
        with ThreadPoolExecutor(1, "traffic") as pool:
            sending = pool.submit(self._loop.run_until_complete, self._send())
            try:
                yield
            finally:
                self._loop.call_soon_threadsafe(self._stop.set)
                wait([sending])
                self._loop.close()
            sending.result()

    def scored(self) -> Scored:
        """What became of all requests; for after `going`."""
        seen = self._recording
        wrong = Counter(seen.outcomes())
        for status in [name for name in wrong if name.startswith("HTTP 2")]:
            del wrong[status]
        latency = histogram_of(seen.latency()).summary_ms()
        return Scored(seen.issued, seen.seconds, dict(wrong), latency["p50"], latency["p99"])

    def _made(self, orders: pa.Table) -> list[bytes]:
        return http_requests(bodies(orders, dated=True), self._url)

    async def _send(self) -> None:
        async with HttpTarget(self._url, self._requests) as target:
            self._recording = await open_loop(
                self._due, self._seconds, target.send, stop=self._stop, watch=self._watch
            )

    def _watch(self, recording: Recording, _elapsed: float) -> None:
        self._recording = recording


def orders_of(tables: list[pa.Table]) -> pa.Table:
    """The orders of some days as one table, by the time they were placed."""
    rows = pa.concat_tables(tables)
    return rows.take(np.argsort(rows["occurred_ts"].to_numpy(), kind="stable"))
