"""What one gateway may promise: when its events were known, and below which offsets they lie."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ibook_assets.core.errors import StoreUnavailableError


@dataclass(slots=True, eq=False)
class Epoch:
    """The events between two promises; `waiting` of them are not acknowledged yet."""

    waiting: int = 0


class Ledger:
    """Assigns knowledge times and keeps account of acknowledgements; safe in any threads.

    An event that is neither settled nor withdrawn keeps every later promise back, for ever if need
    be: nobody knows whether it is in the log.
    """

    def __init__(
        self,
        clock: Callable[[], int],
        ends: Mapping[str, list[int]],
        *,
        max_waiting: int,
        max_bytes: int,
        patience_seconds: float,
    ) -> None:
        """Start with nothing sent.

        Args:
            clock: microseconds; it may stand still or go back.
            ends: next offset of each partition by topic, at least those of earlier events.
            max_waiting: events that may wait for their acknowledgement.
            max_bytes: bytes of messages that may.
            patience_seconds: how long `reserve` and `hold` wait for room.
        """
        self._clock = clock
        self._ends = {topic: list(offsets) for topic, offsets in ends.items()}
        self._max_waiting = max_waiting
        self._max_bytes = max_bytes
        self._patience_seconds = patience_seconds
        self._room = threading.Condition()
        self._last_us = -1
        self._waiting = 0
        self._held = 0
        self._current = Epoch()
        self._earlier: deque[tuple[int, Epoch]] = deque()

    @property
    def waiting(self) -> int:
        """Events that are not acknowledged yet."""
        return self._waiting

    def raise_to(self, known_us: int) -> None:
        """From now on assign `known_us` or later."""
        with self._room:
            self._last_us = max(self._last_us, known_us - 1)

    def reserve(self, rows: int = 1) -> tuple[int, Epoch]:
        """Knowledge time of the first of `rows` events, which have consecutive ones, and a receipt.

        Raises:
            StoreUnavailableError: too many events wait, and none was acknowledged in time.
        """
        with self._room:
            # A batch above the limit may pass alone: else it never could.
            self._wait_for(lambda: self._waiting < self._max_waiting)
            first_us = self._next_us()
            self._last_us = first_us + rows - 1
            self._waiting += rows
            self._current.waiting += rows
            return first_us, self._current

    def hold(self, size: int) -> None:
        """Count `size` bytes as waiting, until the event they belong to is settled or withdrawn.

        Raises:
            StoreUnavailableError: too many wait, and none went in time; these are not counted.
        """
        with self._room:
            self._wait_for(lambda: self._held < self._max_bytes)
            self._held += size

    def withdraw(self, epoch: Epoch, rows: int = 1, *, held: int = 0) -> None:
        """These reserved events, with so many held bytes, are certainly not in the log."""
        with self._room:
            self._end(epoch, rows, held)

    def settle(
        self, epoch: Epoch, topic: str, partition: int, offset: int, *, held: int = 0
    ) -> None:
        """A reserved event, with so many held bytes, is in the log at `offset`."""
        with self._room:
            if topic in self._ends:
                ends = self._ends[topic]
                ends[partition] = max(ends[partition], offset + 1)
            self._end(epoch, 1, held)

    def promise(self) -> tuple[int, dict[str, list[int]]] | None:
        """The newest T and ends to promise, None when nothing new can be.

        All events known before T are in the log below the ends, and no later one gets a time
        before T.
        """
        with self._room:
            now_us = self._next_us()
            self._last_us = now_us - 1
            if self._earlier and not self._current.waiting:
                # Nothing since: the last unkept promise may as well speak of now.
                self._earlier[-1] = (now_us, self._earlier[-1][1])
            else:
                self._earlier.append((now_us, self._current))
                self._current = Epoch()
            kept_us = None
            while self._earlier and not self._earlier[0][1].waiting:
                kept_us, _ = self._earlier.popleft()
            if kept_us is None:
                return None
            return kept_us, {topic: list(ends) for topic, ends in self._ends.items()}

    def _next_us(self) -> int:
        return max(self._clock(), self._last_us + 1)

    def _wait_for(self, room: Callable[[], bool]) -> None:
        if self._room.wait_for(room, self._patience_seconds):
            return
        msg = (
            f"{self._waiting:,} events ({self._held:,} bytes) wait for the log's acknowledgement, "
            f"at most {self._max_waiting:,} ({self._max_bytes:,} bytes) may; nothing more was "
            "sent. Check the brokers, then send again"
        )
        raise StoreUnavailableError(msg)

    def _end(self, epoch: Epoch, rows: int, held: int) -> None:
        epoch.waiting -= rows
        self._waiting -= rows
        self._held -= held
        self._room.notify_all()
