"""Something slow to read, read at most so often however many ask, and never on the event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Refreshed(Generic[T]):
    """The newest result of a reading. Whoever asks while it is read waits for the same reading.

    A reading that fails, or takes longer than somebody may wait, leaves what was read before.
    """

    def __init__(
        self, what: str, read: Callable[[], T], *, seconds: float, patience_seconds: float
    ) -> None:
        """Make it; nothing is read before the first `get`.

        Args:
            what: how the log calls it.
            read: reads it, in a thread.
            seconds: how long a result is good enough.
            patience_seconds: how long `get` waits for a new one.
        """
        self._what = what
        self._read = read
        self._seconds = seconds
        self._patience_seconds = patience_seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"reads-{what}")
        self._reading: asyncio.Future[T] | None = None
        self._read_at = self._good_until = 0.0
        self.value: T | None = None
        """What was read last; None before the first."""
        self.failure: BaseException | None = None
        """Why the last reading failed; None when it did not."""

    async def get(self) -> T | None:
        """The newest result, None while there is none."""
        if self._reading is None and time.monotonic() >= self._good_until:
            loop = asyncio.get_running_loop()
            self._reading = loop.run_in_executor(self._thread, self._read)
            self._reading.add_done_callback(self._take)
        if self._reading is not None:
            await asyncio.wait({self._reading}, timeout=self._patience_seconds)
        return self.value

    def expire(self, *, older_than: float = 0.0) -> None:
        """Let the next `get` read anew, if the newest result is as old as that (seconds)."""
        self._good_until = min(self._good_until, self._read_at + older_than)

    @property
    def late(self) -> bool:
        """Whether a new result should have been there for some time."""
        overdue = time.monotonic() >= self._good_until + self._seconds
        return self._reading is not None and (self.value is None or overdue)

    def _take(self, reading: asyncio.Future[T]) -> None:
        self._reading = None
        self._read_at = time.monotonic()
        self._good_until = self._read_at + self._seconds
        if reading.cancelled():
            return
        error = reading.exception()
        if error is None:
            self.value = reading.result()
        elif str(error) != str(self.failure):
            _log.error("reading failed", extra={"what": self._what}, exc_info=error)
        self.failure = error
