"""What a gateway must know of the log before it sends its first event."""

from __future__ import annotations

import time
from typing import Final

from kafka import TopicPartition

from ibook_assets.core.errors import ContractError, StoreUnavailableError
from ibook_assets.core.messages import HEARTBEATS, decode_heartbeat
from ibook_assets.stores.log import (
    LogAddress,
    answering,
    end_offsets,
    open_consumer,
    partitions_of,
)
from ibook_assets.streaming.topics import PROMISED_TOPICS

READING_SECONDS: Final = 8.0

_HEARTBEATS: Final = TopicPartition(HEARTBEATS, 0)


def present_ends(address: LogAddress) -> dict[str, list[int]]:
    """Next offset of each partition by topic: what a gateway's earlier life sent lies below."""
    consumer = open_consumer(address)
    try:
        places = [p for topic in PROMISED_TOPICS for p in partitions_of(address, consumer, topic)]
        found = end_offsets(address, consumer, places)
    finally:
        consumer.close()
    ends: dict[str, list[int]] = {topic: [] for topic in PROMISED_TOPICS}
    for place in places:
        ends[place.topic].append(found[place])
    return ends


def promised_so_far(address: LogAddress, since_us: int, last_offset: int) -> int:
    """The latest knowledge time that any gateway promised, at least `since_us` (microseconds).

    Args:
        address: the log.
        since_us: earlier promises do not matter.
        last_offset: of the heartbeats; later ones do not matter.

    Raises:
        StoreUnavailableError: the heartbeats cannot be read.
    """
    consumer = open_consumer(address)
    deadline = time.monotonic() + READING_SECONDS
    latest_us = since_us
    try:
        consumer.assign([_HEARTBEATS])
        with answering(address):
            # A heartbeat's timestamp is what it promises, so the log finds the ones that matter.
            found = consumer.offsets_for_times({_HEARTBEATS: since_us // 1_000})[_HEARTBEATS]
            consumer.seek(_HEARTBEATS, last_offset if found is None else found.offset)
            while consumer.position(_HEARTBEATS) <= last_offset:
                for record in consumer.poll(timeout_ms=100).get(_HEARTBEATS, ()):
                    latest_us = max(latest_us, _promised_in(record.value))
                if time.monotonic() > deadline:
                    msg = (
                        f"{HEARTBEATS} at {address.bootstrap} cannot be read up to offset "
                        f"{last_offset}; check the brokers, then run again"
                    )
                    raise StoreUnavailableError(msg)
    finally:
        consumer.close()
    return latest_us


def _promised_in(value: bytes) -> int:
    try:
        return decode_heartbeat(value).known_ts
    except ContractError:
        return 0
