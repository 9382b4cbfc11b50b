"""Reading a whole topic, as a test wants to see it."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from ibook_assets.core.messages import (
    DEAD_LETTERS,
    HEARTBEATS,
    DeadLetter,
    Heartbeat,
    decode_dead_letter,
    decode_heartbeat,
)
from ibook_assets.stores.log import LogAddress, end_offsets, open_consumer, partitions_of


def everything_in(log: LogAddress, topic: str) -> list[Any]:
    """All messages of `topic` that are there now, by partition and offset."""
    with closing(open_consumer(log)) as consumer:
        places = partitions_of(log, consumer, topic)
        ends = end_offsets(log, consumer, places)
        consumer.assign(places)
        found: list[Any] = []
        while len(found) < sum(ends.values()):
            for records in consumer.poll(timeout_ms=200).values():
                found += records
    return sorted(found, key=lambda record: (record.partition, record.offset))


def heartbeats_in(log: LogAddress) -> list[Heartbeat]:
    """All heartbeats, in the order they were sent."""
    return [decode_heartbeat(record.value) for record in everything_in(log, HEARTBEATS)]


def letters_in(log: LogAddress) -> dict[str, DeadLetter]:
    """All dead letters by source."""
    letters = [decode_dead_letter(record.value) for record in everything_in(log, DEAD_LETTERS)]
    return {letter.source: letter for letter in letters}
