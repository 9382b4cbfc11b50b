"""The log of one partition: batches in memory, the oldest dropped beyond a size."""

from __future__ import annotations

import asyncio
import bisect
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Final

from ibook_assets.streaming.broker.batches import Batch, first_at_or_after
from ibook_assets.streaming.broker.codes import Code, RefusedError
from ibook_assets.streaming.broker.producers import Producers

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Stored:
    data: bytes
    last: int
    max_timestamp_ms: int


class PartitionLog:
    """Messages of one partition with contiguous offsets `start` to `end` (exclusive)."""

    def __init__(self, name: str, retention_bytes: int, begin: int = 0) -> None:
        self.name = name
        self.start = begin
        self.end = begin
        self._retention = retention_bytes
        self._bytes = 0
        self._batches: list[_Stored] = []
        self._bases: list[int] = []
        self._producers = Producers()
        self._changed = asyncio.Event()

    def append(self, batch: Batch) -> int:
        """Store `batch` unless it is a repetition; returns its base offset.

        Raises:
            RefusedError: the sequence number is not the producer's next.
        """
        stored_at = self._producers.duplicate_of(batch)
        if stored_at is not None:
            return stored_at
        offset = self.end
        self._producers.remember(batch, offset)
        self.end += batch.last_delta + 1
        self._batches.append(_Stored(batch.at(offset), self.end - 1, batch.max_timestamp_ms))
        self._bases.append(offset)
        self._bytes += len(batch.data)
        self._drop_oldest()
        self.wake()
        return offset

    def read(self, offset: int, max_bytes: int) -> bytes:
        """Whole batches from the one that holds `offset` on: at least one, if there is any.

        Raises:
            RefusedError: `offset` is before the start or beyond the end of the log.
        """
        if not self.start <= offset <= self.end:
            msg = f"{self.name} holds offsets {self.start} to {self.end}, asked was {offset}"
            raise RefusedError(Code.OFFSET_OUT_OF_RANGE, msg)
        if offset == self.end:
            return b""
        found: list[bytes] = []
        size = 0
        for index in range(bisect.bisect_right(self._bases, offset) - 1, len(self._batches)):
            data = self._batches[index].data
            size += len(data)
            if found and size > max_bytes:
                break
            found.append(data)
        return b"".join(found)

    def offset_at(self, timestamp_ms: int) -> tuple[int, int]:
        """Offset and time of the first message not older than `timestamp_ms`; -1, -1 for none."""
        for stored in self._batches:
            if stored.max_timestamp_ms >= timestamp_ms:
                return first_at_or_after(stored.data, timestamp_ms) or (-1, -1)
        return -1, -1

    def changed(self) -> Coroutine[None, None, bool]:
        """What ends when something is appended, or the log deleted, after this call."""
        # Not a coroutine of our own: its body would look for the event when it first runs, which
        # may be after the change.
        return self._changed.wait()

    def wake(self) -> None:
        """End every `changed`."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _drop_oldest(self) -> None:
        drop = 0
        while self._bytes > self._retention and drop < len(self._batches) - 1:
            self._bytes -= len(self._batches[drop].data)
            drop += 1
        if drop:
            del self._batches[:drop], self._bases[:drop]
            _log.warning(
                "%s is over %d bytes: messages %d to %d were dropped",
                self.name,
                self._retention,
                self.start,
                self._bases[0] - 1,
            )
            self.start = self._bases[0]
