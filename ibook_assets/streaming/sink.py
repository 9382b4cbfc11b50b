"""The sink: lands every offset of the log exactly once as Parquet in the lake.

Where a partition goes on is read from its files, never from the group's offsets, and a file is
created exclusively under its start offset: a sink may be killed at any instant, and several may
race, without an offset landing twice or never. It deletes nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from kafka import (
    ConsumerRebalanceListener,
    KafkaConsumer,
    KafkaProducer,
    OffsetAndMetadata,
    TopicPartition,
)
from kafka.errors import KafkaError

from ibook_assets.core.errors import ConflictError, ContractError, StoreUnavailableError
from ibook_assets.core.messages import DEAD_LETTERS
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.intake import intake
from ibook_assets.stores.log import (
    REQUEST_TIMEOUT_MS,
    LogAddress,
    answering,
    close_producer,
    end_offsets,
    ensure_topics,
    open_consumer,
    open_producer,
)
from ibook_assets.stores.log_files import LogFile, LogFiles
from ibook_assets.streaming.dead_letters import post_refused
from ibook_assets.streaming.topics import ROW_TOPICS
from ibook_assets.streaming.unlanded import Unlanded

GROUP: Final = "ibook-sink"
MAX_ROWS: Final = 20_000
MAX_SECONDS: Final = 10.0
MAX_BYTES: Final = 32 * 2**20
"""Bytes of messages in one file, before they are compressed."""
MAX_HOLE: Final = 10_000
"""Offsets in a row without a message that are landed as refused ones."""
POLL_MS: Final = 200
FIRST_RETRY_SECONDS: Final = 0.2
LAST_RETRY_SECONDS: Final = 5.0
IDLE_SECONDS: Final = 5.0
"""An outage looks like silence, so after so much of it the log is asked."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SinkStatus:
    """What a sink has done since it started."""

    rows: int = 0
    refused: int = 0
    files: int = 0
    conflicts: int = 0
    """Files that somebody else had landed first."""
    retries: int = 0
    """Times that the log or the lake did not answer."""
    lag: dict[str, int] = field(default_factory=dict)
    """Messages not landed yet by `topic/partition`, of the partitions this sink has."""


class Sink:
    """One member of the group that lands the log."""

    def __init__(
        self,
        address: LogAddress,
        blobs: Blobs,
        topics: Collection[str] = ROW_TOPICS,
        *,
        group: str = GROUP,
        max_rows: int = MAX_ROWS,
        max_seconds: float = MAX_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        """Connect.

        Args:
            address: the log.
            blobs: the lake.
            topics: what to land.
            group: members share the partitions.
            max_rows: messages in one file.
            max_seconds: longest time that a message waits for its file.
            idle_seconds: silence after which the log is asked whether it is there.

        Raises:
            StoreUnavailableError: no broker answers.
        """
        self._address = address
        self._files = LogFiles(blobs)
        self._max_rows = max_rows
        self._max_seconds = max_seconds
        self._idle_seconds = idle_seconds
        self._waiting: dict[TopicPartition, Unlanded] = {}
        self._missed: dict[TopicPartition, int] = {}
        self._status = SinkStatus()
        self._heard = time.monotonic()
        self._assignment = _Assignment()
        ensure_topics(address, (DEAD_LETTERS,), 1)
        self._producer: KafkaProducer = open_producer(address)
        try:
            self._consumer: KafkaConsumer = open_consumer(
                address,
                group=group,
                # A topic that is created later is found within this time.
                metadata_max_age_ms=5_000,
                max_partition_fetch_bytes=4 * 2**20,
            )
        except BaseException:  # whatever it is goes on, but no producer's thread stays behind
            close_producer(self._producer, seconds=0)
            raise
        self._consumer.subscribe(sorted(topics), listener=self._assignment)

    def run(self, stop: threading.Event) -> None:
        """Land until `stop` is set, then what was read; outages are waited out.

        Raises:
            ContractError: the log lost messages that never landed, or is not the one that did.
        """
        delay = FIRST_RETRY_SECONDS
        while not stop.is_set():
            try:
                self.turn()
                delay = FIRST_RETRY_SECONDS
            except StoreUnavailableError as error:
                self._status = replace(self._status, retries=self._status.retries + 1)
                _log.warning("sink waits %.1f s: %s", delay, error, extra={"seconds": delay})
                stop.wait(delay)
                delay = min(2 * delay, LAST_RETRY_SECONDS)
        try:
            self._land([place for place, waiting in self._waiting.items() if waiting.records])
        except StoreUnavailableError as error:
            _log.warning("what was read is left to the next sink: %s", error)

    def turn(self) -> None:
        """Land what is due, then read on.

        Raises:
            StoreUnavailableError: the log or the lake does not answer; nothing is lost.
        """
        # In this order memory is bounded: while the lake is away nothing more is read.
        self._land(self._due())
        with answering(self._address):
            found = self._consumer.poll(timeout_ms=POLL_MS, max_records=self._max_rows)
        try:
            self._follow_assignment(found)
        finally:
            for place, records in found.items():
                self._take(place, records)
        self._report(heard=bool(found))

    def status(self) -> SinkStatus:
        """What this sink has done, and what it has left to do; may be asked from any thread."""
        return self._status

    def close(self) -> None:
        """Leave the group and disconnect; what is not landed is read again by somebody."""
        self._consumer.close()
        close_producer(self._producer, seconds=REQUEST_TIMEOUT_MS / 1_000)

    def _due(self) -> list[TopicPartition]:
        now = time.monotonic()
        return [
            place
            for place, waiting in self._waiting.items()
            if waiting.records
            and (
                len(waiting.records) >= self._max_rows
                or waiting.size >= MAX_BYTES
                or now - waiting.since >= self._max_seconds
            )
        ]

    def _follow_assignment(self, found: dict[TopicPartition, Any]) -> None:
        """Forget partitions that are gone, and find where new ones go on.

        What was found in those before is not theirs to begin with.
        """
        for place in self._assignment.lost & set(self._waiting):
            del self._waiting[place]
        self._assignment.lost.clear()
        for place in sorted(self._assignment.gained):
            found.pop(place, None)
            self._place(place)
            self._assignment.gained.discard(place)

    def _place(self, place: TopicPartition) -> None:
        landed = self._files.next_offset(place.topic, place.partition)
        with answering(self._address):
            timeout = {"timeout_ms": REQUEST_TIMEOUT_MS}
            first = self._consumer.beginning_offsets([place], **timeout)[place]
            end = self._consumer.end_offsets([place], **timeout)[place]
        start = first if landed is None else landed
        if not first <= start <= end:
            msg = (
                f"{place.topic}/{place.partition} has landed up to offset {start}, the log at "
                f"{self._address.bootstrap} holds {first} up to {end}: "
                + (
                    "messages between were deleted before they landed. Restore the log"
                    if start < first
                    else "it is not the log that was landed (a development broker forgets "
                    "everything when it ends). Give this log a lake of its own"
                )
                + "; nothing was landed"
            )
            raise ContractError(msg)
        self._consumer.seek(place, start)
        self._waiting[place] = Unlanded(start)
        _log.info(
            "sink reads %s/%d from offset %d",
            place.topic,
            place.partition,
            start,
            extra={"topic": place.topic, "partition": place.partition, "offset": start},
        )

    def _take(self, place: TopicPartition, found: Sequence[Any]) -> None:
        waiting = self._waiting.get(place)
        if waiting is None:
            return
        # What a rival landed meanwhile may still arrive.
        new = [r for r in found if r.offset >= waiting.next_offset]
        if not new:
            return
        missing = new[-1].offset + 1 - waiting.next_offset - len(new)
        if missing and not self._is_hole(place, waiting.next_offset, new, missing):
            return
        waiting.add(place.partition, new, now=time.monotonic())
        self._missed.pop(place, None)

    def _is_hole(
        self, place: TopicPartition, wanted: int, found: Sequence[Any], missing: int
    ) -> bool:
        """Whether the log itself has no message at some offsets; else they are read again.

        Transactions and compaction leave such holes, and they must not block a partition. But
        messages may also have been passed over, as when the lake was away while they came.
        """
        if found[0].offset != wanted and self._missed.get(place) != wanted:
            self._missed[place] = wanted
            del self._waiting[place]
            self._assignment.gained.add(place)
            return False
        if missing > MAX_HOLE:
            msg = (
                f"{place.topic}/{place.partition}: the log at {self._address.bootstrap} holds no "
                f"message at {missing:,} offsets from {wanted} on, at most {MAX_HOLE:,} are "
                "allowed. Topics that are landed must not be compacted; nothing was landed in "
                "place of what is missing"
            )
            raise ContractError(msg)
        return True

    def _land(self, places: Sequence[TopicPartition]) -> None:
        landed: dict[TopicPartition, int] = {}
        try:
            for place in places:
                landed[place] = self._land_partition(place, self._waiting[place])
        finally:
            self._commit(landed)

    def _land_partition(self, place: TopicPartition, waiting: Unlanded) -> int:
        """Land what waits, one file at most; where the partition goes on."""
        records = waiting.first(self._max_rows, MAX_BYTES)
        taken = intake(place.topic, records)
        post_refused(self._address, self._producer, place.topic, taken.refused)
        try:
            file = self._files.create(place.topic, place.partition, records, taken)
        except ConflictError:
            return self._yield_to_rival(place, waiting)
        waiting.start_at(file.end)
        self._count(file)
        return file.end

    def _yield_to_rival(self, place: TopicPartition, waiting: Unlanded) -> int:
        """Somebody landed these messages: go on where the files do."""
        end = self._files.next_offset(place.topic, place.partition) or 0
        waiting.start_at(end)
        if end > waiting.next_offset:
            self._consumer.seek(place, end)
            waiting.next_offset = end
        self._status = replace(self._status, conflicts=self._status.conflicts + 1)
        _log.info(
            "%s/%d was landed by another sink up to offset %d",
            place.topic,
            place.partition,
            end,
            extra={"topic": place.topic, "partition": place.partition, "offset": end},
        )
        return end

    def _count(self, file: LogFile) -> None:
        status = self._status
        self._status = replace(
            status,
            rows=status.rows + file.rows,
            refused=status.refused + file.refused,
            files=status.files + 1,
        )
        _log.info(
            "landed %s (%d rows, %d refused)",
            file.key,
            file.rows,
            file.refused,
            extra={"key": file.key, "rows": file.rows, "refused": file.refused},
        )

    def _commit(self, landed: dict[TopicPartition, int]) -> None:
        """Show the group's tools how far we are; nothing depends on it."""
        offsets = {place: OffsetAndMetadata(end, "", -1) for place, end in landed.items()}
        if not offsets:
            return
        try:
            self._consumer.commit(offsets, timeout_ms=REQUEST_TIMEOUT_MS)
        except KafkaError as error:
            _log.info("offsets were not committed: %s", error)

    def _report(self, *, heard: bool) -> None:
        now = time.monotonic()
        if heard:
            self._heard = now
        elif now - self._heard > self._idle_seconds:
            self._heard = now
            end_offsets(self._address, self._consumer, list(self._waiting))
        self._status = replace(self._status, lag=self._lag())

    def _lag(self) -> dict[str, int]:
        found = {}
        for place, waiting in self._waiting.items():
            end = self._consumer.highwater(place) or waiting.next_offset
            landed = waiting.records[0].offset if waiting.records else waiting.next_offset
            found[f"{place.topic}/{place.partition}"] = max(0, end - landed)
        return found


class _Assignment(ConsumerRebalanceListener):  # type: ignore[misc] # kafka-python has no types
    """Partitions that came and went, until the sink has followed."""

    def __init__(self) -> None:
        self.gained: set[TopicPartition] = set()
        self.lost: set[TopicPartition] = set()

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Note what is gone."""
        self.lost |= set(revoked)
        self.gained -= set(revoked)

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Note what came; messages of it count once its position is known."""
        self.gained |= set(assigned)
