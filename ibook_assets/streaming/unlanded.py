"""Messages of one partition that a sink has read and not landed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ibook_assets.stores.intake import LogRecord


@dataclass(slots=True)
class Unlanded:
    """What waits for its file; offsets follow each other without gaps."""

    next_offset: int
    """Where reading goes on."""
    records: list[LogRecord] = field(default_factory=list)
    size: int = 0
    """Bytes of the messages."""
    since: float = 0.0
    """When the first of them was read (seconds)."""

    def add(self, partition: int, found: Sequence[Any], *, now: float) -> None:
        """Take messages as the consumer returns them, the first at or after `next_offset`.

        Where the log has no message at an offset an empty one is put, which will be refused.
        """
        if not self.records:
            self.since = now
        self.records += self._without_holes(partition, found)
        self.size += sum(len(r.value or b"") for r in found)
        self.next_offset = found[-1].offset + 1

    def first(self, max_rows: int, max_bytes: int) -> Sequence[LogRecord]:
        """The first messages, one or more, as many as go into one file."""
        size = 0
        for count, record in enumerate(self.records[:max_rows]):
            size += len(record.value or b"")
            if size > max_bytes and count:
                return self.records[:count]
        return self.records[:max_rows]

    def start_at(self, offset: int) -> None:
        """Keep the messages from `offset` on."""
        self.records = [record for record in self.records if record.offset >= offset]
        self.size = sum(len(record.value or b"") for record in self.records)

    def _without_holes(self, partition: int, found: Sequence[Any]) -> Iterator[LogRecord]:
        offset = self.next_offset
        for r in found:
            for hole in range(offset, r.offset):
                yield LogRecord(partition, hole, r.timestamp, None, None)
            yield LogRecord(partition, r.offset, r.timestamp, r.key, r.value)
            offset = r.offset + 1
