"""Orders into the event log beside the requests; who opens the log fills the protocol in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import pyarrow as pa

from ibook_assets.core.arrow import array, integers
from ibook_sim.world.randomness import Floats

TICK_SECONDS: Final = 0.05
"""Orders due within a tick are sent together."""


class EventSink(Protocol):
    """A door into the event log."""

    def send(self, rows: pa.Table) -> int:
        """Send orders, which become known now; how many were refused."""

    def flush(self) -> None:
        """Wait until everything sent is in the log."""


OpenSink = Callable[[], AbstractContextManager[EventSink]]


@dataclass(slots=True)
class Fed:
    """What went into the log."""

    handed: Floats
    """Seconds from the start at which each order had been handed to the log; NaN: not yet."""
    sent: int = 0
    refused: int = 0


async def feed(rows: pa.Table, due: Floats, sink: EventSink, *, stop: asyncio.Event) -> Fed:
    """Send each order to the log within a tick of when it is due.

    Raises:
        StoreUnavailableError: the log takes no events.
    """
    loop = asyncio.get_running_loop()
    start, fed = loop.time(), Fed(np.full(rows.num_rows, np.nan))
    while not stop.is_set() and fed.sent < rows.num_rows:
        ready = int(np.searchsorted(due, loop.time() - start, side="right"))
        if ready > fed.sent:
            part = _as_if_now(rows.slice(fed.sent, ready - fed.sent), time.time_ns() // 1_000)
            fed.refused += await asyncio.to_thread(sink.send, part)
            fed.handed[fed.sent : ready] = loop.time() - start
            fed.sent = ready
        await asyncio.sleep(TICK_SECONDS)
    await asyncio.to_thread(sink.flush)
    return fed


def _as_if_now(rows: pa.Table, now_us: int) -> pa.Table:
    """`rows` that occurred as long before now as they had before they were known."""
    ago = integers(rows["known_ts"], null=0) - integers(rows["occurred_ts"], null=0)
    index = rows.column_names.index("occurred_ts")
    return rows.set_column(index, rows.schema.field(index), array(now_us - ago))
