"""The stream worker: keeps the live online store level with the log, each event exactly once.

Rows wait until the watermark has passed them, are applied in the order they became known, and are
committed together with how far that is. A worker that dies leaves the state of its last commit;
the next one reads on from there and leaves out what was known before that commit's watermark.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition

from ibook_assets.core.errors import StoreUnavailableError
from ibook_assets.core.messages import spec_of, topic_of
from ibook_assets.core.tables import RAW_TABLES
from ibook_assets.core.watermark import Partition
from ibook_assets.stores.intake import intake, log_records
from ibook_assets.stores.log import (
    LogAddress,
    answering,
    end_offsets,
    open_consumer,
    partitions_of,
    subscribe,
)
from ibook_assets.stores.online.live import LiveStore, Position, Progress, partition_name
from ibook_assets.streaming.applying import Applier, OvertakenError
from ibook_assets.streaming.buffering import Buffer
from ibook_assets.streaming.cataloguing import TOPIC as CATALOGUE
from ibook_assets.streaming.cataloguing import CatalogueReader
from ibook_assets.streaming.listening import Listener

GROUP: Final = "ibook-online-store"
TOPICS: Final = tuple(topic_of(spec.name) for spec in RAW_TABLES)
"""What members of the group share. Equal partition numbers hold the events of the same users."""

POLL_MS: Final = 50
POLL_RECORDS: Final = 5_000
MAX_WAITING_ROWS: Final = 500_000
"""Rows that may wait for a watermark; above, reading pauses."""

STALL_SECONDS: Final = 20.0
"""Time without a row or a commit after which the log is asked whether it has more."""

FIRST_RETRY_SECONDS: Final = 0.2
LAST_RETRY_SECONDS: Final = 5.0
REPORT_SECONDS: Final = 5.0

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Status:
    """What a worker has done since it started."""

    applied_rows: int = 0
    refused_messages: int = 0
    commits: int = 0
    retries: int = 0
    assignments: int = 0
    replaced: int = 0
    """Times that clients of the log had stalled and were replaced."""
    watermark_us: int = 0
    """Its partitions' rows known before this are in the store (microseconds)."""
    waiting_rows: int = 0


class Worker:
    """One member of the group that feeds the live store."""

    def __init__(
        self,
        address: LogAddress,
        store: LiveStore,
        *,
        group: str = GROUP,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        """Connect.

        Args:
            address: the log.
            store: the live store; one with a published generation.
            group: members share the partitions.
            stall_seconds: how long nothing may be committed while the log has more, until the
                clients of the log are replaced.

        Raises:
            StoreUnavailableError: no broker answers.
        """
        self._address = address
        self._store = store
        self._group = group
        self._stall_seconds = stall_seconds
        self._applier = Applier(store)
        self._connect()
        self._buffer = Buffer({})
        self._applied: Mapping[Partition, Position] = {}
        self._everybody: list[str] = []
        self.status = Status()

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; an outage of the log or the store is waited out."""
        delay = FIRST_RETRY_SECONDS
        reported = time.monotonic()
        while not stop.is_set():
            try:
                self.turn()
                delay = FIRST_RETRY_SECONDS
            except StoreUnavailableError as error:
                self.status.retries += 1
                _log.warning("waiting %.1f s: %s", delay, error)
                stop.wait(delay)
                delay = min(2 * delay, LAST_RETRY_SECONDS)
            if time.monotonic() - reported > REPORT_SECONDS:
                reported = time.monotonic()
                _log.info("%s", self.status)

    def close(self) -> None:
        """Leave the group and disconnect; what is not committed is read again by somebody."""
        self._consumer.close()
        self._listener.close()
        self._catalogue.close()

    def _connect(self) -> None:
        self._listener = Listener(self._address)
        self._catalogue = CatalogueReader(self._address)
        self._consumer: KafkaConsumer = open_consumer(self._address, group=self._group)
        self._assignment = _Assignment()
        subscribe(self._address, self._consumer, TOPICS, self._assignment)
        self._moved_at = time.monotonic()
        self._progress_seen: Progress | None = None

    def _replace_stalled_clients(self) -> None:
        """New clients for ones that get nothing although the log has more and nobody applies it."""
        if time.monotonic() - self._moved_at < self._stall_seconds:
            return
        self._moved_at = time.monotonic()
        progress, before = self._store.progress(), self._progress_seen
        self._progress_seen = progress
        if progress == before and self._has_more(progress):
            _log.warning("nothing came for %.0f s; connecting anew", self._stall_seconds)
            self.close()
            self._connect()
            self.status.replaced += 1

    def _has_more(self, progress: Progress) -> bool:
        places = [
            place
            for topic in TOPICS
            for place in partitions_of(self._address, self._consumer, topic)
        ]
        ends = end_offsets(self._address, self._consumer, places)
        begun = progress.including(partition_name(*place) for place in places).positions
        return any(begun[partition_name(*place)].offset < end for place, end in ends.items())

    def turn(self) -> None:
        """Read, listen, and commit what the watermark has passed."""
        self._replace_stalled_clients()
        with answering(self._address):
            found = self._consumer.poll(timeout_ms=POLL_MS, max_records=POLL_RECORDS)
        if self._assignment.changed:
            self._start_over()
            return
        for place, records in found.items():
            self._take(place, records)
            self._moved_at = time.monotonic()
        self._read_on_or_pause()
        self._catalogue.poll()
        until_us = self._listener.watermark_us(self._buffer.read | self._catalogue.read)
        try:
            self._advance(until_us)
        except OvertakenError as error:
            _log.warning("starting over: %s", error)
            self._start_over()

    def _start_over(self) -> None:
        """Read on from where the store is; what waits is forgotten."""
        places = self._assignment.partitions
        progress = self._store.progress()
        with answering(self._address):
            starts = self._starts(progress, places)
            for place, offset in starts.items():
                self._consumer.seek(place, offset)
            self._everybody = [
                partition_name(topic, number)
                for topic in (*TOPICS, CATALOGUE)
                for number in sorted(self._consumer.partitions_for_topic(topic) or ())
            ]
        self._buffer = Buffer({tuple(place): offset for place, offset in starts.items()})
        self._catalogue.restart(progress)
        # Where the store has no position yet, ours is the one that `including` begins with.
        begun = progress.including(self._everybody)
        self._applied = {tuple(place): begun.positions[partition_name(*place)] for place in places}
        if places:
            self._listener.restart(min(p.applied_us for p in self._applied.values()))
        self._assignment.changed = False
        self.status.assignments += 1
        _log.info(
            "reads from %s", {partition_name(*p): o for p, o in sorted(self._buffer.read.items())}
        )

    def _starts(
        self, progress: Progress, places: Sequence[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Where to read from: the store's offset, or the first event that its backfill lacks."""
        untouched = Position(0, progress.base_us)
        positions = {p: progress.positions.get(partition_name(*p), untouched) for p in places}
        known = {p: at.offset for p, at in positions.items() if at != untouched}
        new = [p for p in places if p not in known]
        if not new:
            return known
        first_ms = progress.base_us // 1_000
        found = self._consumer.offsets_for_times(dict.fromkeys(new, first_ms))
        ends = self._consumer.end_offsets(new)
        return known | {p: found[p].offset if found[p] else ends[p] for p in new}

    def _take(self, place: TopicPartition, records: Sequence[Any]) -> None:
        taken = intake(place.topic, log_records(records))
        self.status.refused_messages += len(taken.refused)
        next_offset = records[-1].offset + 1
        self._buffer.add(tuple(place), taken.rows, taken.offsets, next_offset=next_offset)

    def _read_on_or_pause(self) -> None:
        self.status.waiting_rows = waiting = self._buffer.rows
        paused = self._consumer.paused()
        if waiting > MAX_WAITING_ROWS and not paused:
            _log.warning("%d rows wait for a gateway's heartbeat; reading pauses", waiting)
            self._consumer.pause(*self._assignment.partitions)
        elif waiting <= MAX_WAITING_ROWS and paused:
            self._consumer.resume(*paused)

    def _advance(self, until_us: int) -> None:
        applied_us = {place: progress.applied_us for place, progress in self._applied.items()}
        if not applied_us or until_us <= min(applied_us.values()):
            return
        due = self._buffer.due(until_us, applied_us=applied_us)
        after = {
            place: Position(offset, max(until_us, applied_us[place]))
            for place, offset in self._buffer.positions(until_us).items()
        }
        raw = {spec_of(topic).name: rows for topic, rows in due.items()}
        self._applier.commit(
            raw,
            before={partition_name(*place): position for place, position in self._applied.items()},
            after={partition_name(*place): position for place, position in after.items()},
            news=self._catalogue.news(),
            everybody=self._everybody,
        )
        self._catalogue.forget()
        self._buffer.forget(until_us)
        self._applied = after
        self._moved_at = time.monotonic()
        self.status.commits += 1
        self.status.applied_rows += sum(rows.num_rows for rows in raw.values())
        self.status.watermark_us = until_us


class _Assignment(ConsumerRebalanceListener):  # type: ignore[misc] # kafka-python has no types
    """What the group has assigned to us; told during `poll`."""

    def __init__(self) -> None:
        self.partitions: list[TopicPartition] = []
        self.changed = False

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Nothing to hand over: the store knows what is applied."""

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Take over."""
        self.partitions = sorted(assigned)
        self.changed = True
