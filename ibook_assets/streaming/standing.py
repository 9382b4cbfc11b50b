"""Where everybody stands: the log's ends, what is landed, what is applied."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ibook_assets.stores.log import LogAddress, end_offsets, open_consumer, partitions_of
from ibook_assets.stores.log_files import LogFiles
from ibook_assets.stores.online.live import LiveStore, partition_name
from ibook_assets.streaming.topics import ROW_TOPICS


@dataclass(frozen=True, slots=True)
class PartitionStanding:
    """One partition of one topic; offsets are the next one of each."""

    topic: str
    partition: int
    end: int
    landed: int
    applied: int | None
    """None where the live store does not read this topic."""
    applied_us: int | None

    @property
    def sink_lag(self) -> int:
        """Messages that are not landed yet."""
        return self.end - self.landed


@dataclass(frozen=True, slots=True)
class Standing:
    """The whole stream."""

    partitions: tuple[PartitionStanding, ...]
    watermark_us: int
    """What was known before this (microseconds) can be asked of the live store."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, lags included."""
        return {
            "watermark_us": self.watermark_us,
            "partitions": [{**asdict(p), "sink_lag": p.sink_lag} for p in self.partitions],
        }


def standing(address: LogAddress, files: LogFiles, store: LiveStore) -> Standing:
    """Ask the log, the lake and the store.

    Raises:
        StoreUnavailableError: one of them does not answer.
        ContractError: the log has no topics yet, or the store nothing in it.
    """
    progress = store.progress()
    consumer = open_consumer(address)
    try:
        places = [p for topic in ROW_TOPICS for p in partitions_of(address, consumer, topic)]
        ends = end_offsets(address, consumer, places)
    finally:
        consumer.close()
    landed = {topic: files.ends(topic) for topic in ROW_TOPICS}
    found = []
    for topic, number in places:
        applied = progress.positions.get(partition_name(topic, number))
        found.append(
            PartitionStanding(
                topic,
                number,
                ends[topic, number],
                landed[topic].get(number, 0),
                applied.offset if applied else None,
                applied.applied_us if applied else None,
            )
        )
    return Standing(tuple(found), progress.watermark_us)
