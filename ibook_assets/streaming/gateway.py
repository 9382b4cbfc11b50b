"""The gateway: the one door through which events enter the log.

It judges each event once, says once when it became known, and promises readers ten times a second
up to when they have everything (`gateway.heartbeats`). An event whose fate in the log is unknown
holds that promise back, so no reader ever passes over it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from kafka import KafkaProducer
from kafka.errors import (
    InvalidRecordError,
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
)

from ibook_assets.core.arrow import Positions
from ibook_assets.core.errors import ContractError, StoreUnavailableError
from ibook_assets.core.ids import check_name
from ibook_assets.core.messages import (
    DEAD_LETTERS,
    HEARTBEATS,
    PAYLOAD_HEAD_BYTES,
    DeadLetter,
    Heartbeat,
    dead_letter,
    encode,
    encode_dead_letter,
    encode_heartbeat,
    encode_rows,
    topic_of,
)
from ibook_assets.stores.log import LogAddress, answering, close_producer, flush, open_producer
from ibook_assets.streaming.joining import present_ends, promised_so_far
from ibook_assets.streaming.promises import Epoch, Ledger
from ibook_assets.streaming.stamping import refusal, stamped, stamped_rows
from ibook_assets.streaming.topics import create_log

HEARTBEAT_SECONDS: Final = 0.1
MAX_WAITING_EVENTS: Final = 100_000
"""Events that may wait for their acknowledgement; the next sender waits, then is refused."""
MAX_WAITING_BYTES: Final = 128 * 2**20
"""Bytes of messages that may, likewise."""
ROWS_AT_ONCE: Final = 1_000
"""Rows of a batch that become known together; a promise waits for all of them."""
PATIENCE_SECONDS: Final = 10.0
"""How long a sender waits for room, and a flush for acknowledgements."""

_CERTAINLY_NOT_STORED: Final = (
    InvalidRecordError,
    InvalidTimestampError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
)

_log = logging.getLogger(__name__)


def wall_clock_us() -> int:
    """Microseconds since the epoch by this machine's clock."""
    return time.time_ns() // 1_000


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a batch."""

    known_us: Positions
    """When each row became known (microseconds), refused ones included."""
    refused: tuple[int, ...]
    """Positions of rows that were refused; they are in the dead letters."""


class _Event(NamedTuple):
    """An event on its way into the log, or into the dead letters."""

    topic: str
    value: bytes
    known_us: int
    epoch: Epoch
    held: int


class Gateway:
    """One writer of the log; a context manager. Any threads may send."""

    def __init__(
        self,
        address: LogAddress,
        *,
        gateway_id: str,
        partitions: int,
        clock: Callable[[], int] = wall_clock_us,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        max_waiting: int = MAX_WAITING_EVENTS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """Connect, create missing topics and catch up with what other gateways said.

        Args:
            address: the log.
            gateway_id: name of this writer; no two may live at once under one name.
            partitions: of each topic with rows, for topics that do not exist yet.
            clock: microseconds; behind what was promised before, it is not followed.
            heartbeat_seconds: time between two promises.
            max_waiting: events that may wait for their acknowledgement.
            patience_seconds: longest wait of a sender or a flush.

        Raises:
            StoreUnavailableError: no broker answers.
            ContractError: the name is none, or the topics have other partitions.
        """
        self._address = address
        self._id = check_name(gateway_id, what="gateway id")
        self._patience_seconds = patience_seconds
        create_log(address, partitions)
        self._producer: KafkaProducer = open_producer(address)
        self._letters: deque[tuple[DeadLetter, Epoch, int]] = deque()
        self._failure: KafkaError | None = None
        self._closing = threading.Event()
        try:
            self._ledger = Ledger(
                clock,
                present_ends(address),
                max_waiting=max_waiting,
                max_bytes=MAX_WAITING_BYTES,
                patience_seconds=patience_seconds,
            )
            self._greet()
        except BaseException:  # whatever it is goes on, but no producer's thread stays behind
            close_producer(self._producer, seconds=0)
            raise
        self._beating = threading.Thread(
            target=self._beat_until_closed, args=(heartbeat_seconds,), name="heartbeat", daemon=True
        )
        self._beating.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, table_name: str, row: Mapping[str, Any], *, user_id: int) -> int:
        """Send one event and return when it became known (microseconds).

        It is in the log when a later `flush` returned.

        Args:
            table_name: table of the row.
            row: its columns; `known_ts` is assigned here, except for logged vectors, whose as-of
                it is.
            user_id: user the event belongs to; the event's id for the catalogue.

        Raises:
            ContractError: the event breaks its contract; it is in the dead letters.
            StoreUnavailableError: the log takes no events; this one was not sent.
        """
        topic = topic_of(table_name)
        self._require_sound()
        known_us, epoch = self._ledger.reserve()
        try:
            value = encode(topic, stamped(row, topic, known_us))
            reason = refusal(topic, value, known_us)
        except ContractError as error:
            value, reason = f"{error}: {row!r}".encode(), "message:unreadable_message"
        if reason is None:
            self._produce(topic, value, user_id, known_us, epoch)
            return known_us
        self._refuse(topic, value, reason, known_us, epoch)
        msg = (
            f"{table_name}: an event of user {user_id} is refused ({reason}): {value[:200]!r}. It "
            f"is in {DEAD_LETTERS}; correct what sends it"
        )
        raise ContractError(msg)

    def send_rows(
        self, table_name: str, table: pa.Table, users: Sequence[int] | npt.NDArray[np.int64]
    ) -> Sent:
        """Send many events, known one microsecond after the other; see `send`.

        Rows that break the contract are in the dead letters and in the answer, the others sent.

        Raises:
            ContractError: the table has columns that its spec does not know.
            StoreUnavailableError: the log takes no events; the rows up to here may be sent.
        """
        topic = topic_of(table_name)
        known_us = np.empty(table.num_rows, np.int64)
        refused: list[int] = []
        keys = np.asarray(users).tolist()
        for start in range(0, table.num_rows, ROWS_AT_ONCE):
            part = slice(start, min(start + ROWS_AT_ONCE, table.num_rows))
            rows = table.slice(start, part.stop - start)
            known_us[part], bad = self._send_chunk(topic, rows, keys[part])
            refused += [start + position for position in bad]
        return Sent(known_us, tuple(refused))

    def flush(self) -> None:
        """Wait until everything sent is in the log.

        Raises:
            StoreUnavailableError: the log did not acknowledge all of it in time.
        """
        while True:
            self._post_letters()
            flush(self._address, self._producer, seconds=self._patience_seconds)
            self._require_sound()
            if not self._letters:
                return

    def close(self) -> None:
        """Flush, say that nothing follows, and disconnect.

        Raises:
            StoreUnavailableError: some events were not acknowledged, so nothing was promised.
        """
        if self._closing.is_set():
            return
        self._closing.set()
        self._beating.join()
        try:
            self.flush()
            self._beat(closed=True)
            flush(self._address, self._producer, seconds=self._patience_seconds)
        finally:
            close_producer(self._producer, seconds=self._patience_seconds)

    def _greet(self) -> None:
        """Join the living gateways, and start where what they promised ends.

        Once the greeting is in the log no reader passes its time without hearing from us again;
        what was promised before it must not be contradicted by a clock that is behind.
        """
        promised = self._ledger.promise()
        if promised is None:
            return
        known_us, ends = promised
        greeting = Heartbeat(gateway=self._id, known_ts=known_us, ends=ends)
        with answering(self._address):
            stored = self._post_heartbeat(greeting).get(timeout=self._patience_seconds)
        self._ledger.raise_to(promised_so_far(self._address, known_us, stored.offset))

    def _send_chunk(
        self, topic: str, rows: pa.Table, keys: Sequence[int]
    ) -> tuple[Positions, list[int]]:
        """When the rows became known, and the positions of the refused ones."""
        self._require_sound()
        first_us, epoch = self._ledger.reserve(rows.num_rows)
        known_us = np.arange(first_us, first_us + rows.num_rows, dtype=np.int64)
        left = rows.num_rows
        refused = []
        try:
            values = encode_rows(topic, stamped_rows(rows, topic, known_us))
            for position, (value, key, at_us) in enumerate(
                zip(values, keys, known_us.tolist(), strict=True)
            ):
                reason = refusal(topic, value, at_us)
                left -= 1
                if reason is None:
                    self._produce(topic, value, key, at_us, epoch)
                else:
                    refused.append(position)
                    self._refuse(topic, value, reason, at_us, epoch)
        finally:
            # What an error left behind was not sent and must not hold promises back.
            self._ledger.withdraw(epoch, left)
        return known_us, refused

    def _require_sound(self) -> None:
        if self._failure is not None:
            msg = (
                f"gateway {self._id}: the log at {self._address.bootstrap} did not say what became "
                f"of an event ({self._failure}), so its promises are held back for good. Close "
                "this gateway and open it again, then send what was not flushed again"
            )
            raise StoreUnavailableError(msg)

    def _produce(self, topic: str, value: bytes, user_id: int, known_us: int, epoch: Epoch) -> None:
        key = str(user_id).encode()
        held = self._hold(epoch, len(value))
        try:
            with answering(self._address):
                future = self._producer.send(
                    topic, value=value, key=key, timestamp_ms=known_us // 1_000
                )
        except (ContractError, StoreUnavailableError):
            self._ledger.withdraw(epoch, held=held)
            raise
        future.add_callback(partial(self._stored, epoch, held))
        future.add_errback(partial(self._failed, _Event(topic, value, known_us, epoch, held)))

    def _hold(self, epoch: Epoch, size: int) -> int:
        try:
            self._ledger.hold(size)
        except StoreUnavailableError:
            self._ledger.withdraw(epoch)
            raise
        return size

    def _stored(self, epoch: Epoch, held: int, metadata: Any) -> None:  # noqa: ANN401 - kafka has no types
        if metadata.offset < 0:
            self._failure = KafkaError("acknowledged without an offset")
            return
        place = metadata.topic, metadata.partition, metadata.offset
        self._ledger.settle(epoch, *place, held=held)

    def _failed(self, event: _Event, error: KafkaError) -> None:
        if not isinstance(error, _CERTAINLY_NOT_STORED):
            self._failure = error
            _log.error(
                "an event's fate is unknown, promises are held back",
                extra={
                    "gateway": self._id,
                    "topic": event.topic,
                    "known_ts": event.known_us,
                    "why": str(error),
                },
            )
            return
        self._tell(event, "message:oversized")

    def _refuse(self, topic: str, value: bytes, reason: str, known_us: int, epoch: Epoch) -> None:
        held = self._hold(epoch, min(len(value), PAYLOAD_HEAD_BYTES))
        self._tell(_Event(topic, value, known_us, epoch, held), reason)

    def _tell(self, event: _Event, reason: str) -> None:
        # Posted with the next heartbeat, for this may run in the producer's own thread. Until then
        # the event counts as waiting: so letters are bounded like events.
        source = f"{event.topic}/{self._id}/{event.known_us}"
        timestamp_ms = event.known_us // 1_000
        letter = dead_letter(source, event.topic, reason, event.value, timestamp_ms=timestamp_ms)
        self._letters.append((letter, event.epoch, event.held))
        _log.warning("event refused", extra={"source": source, "reason": reason})

    def _post_letters(self) -> None:
        while self._letters:
            letter, epoch, held = self._letters[0]
            with answering(self._address):
                future = self._producer.send(
                    DEAD_LETTERS,
                    value=encode_dead_letter(letter),
                    key=letter.source.encode(),
                    timestamp_ms=letter.timestamp_ms,
                )
            future.add_callback(partial(self._letter_stored, epoch, held))
            future.add_errback(self._letter_failed)
            self._letters.popleft()

    def _letter_stored(self, epoch: Epoch, held: int, _: object) -> None:
        self._ledger.withdraw(epoch, held=held)

    def _letter_failed(self, error: KafkaError) -> None:
        self._failure = error

    def _beat_until_closed(self, seconds: float) -> None:
        while not self._closing.wait(seconds):
            try:
                self._beat(closed=False)
            except (ContractError, StoreUnavailableError) as error:
                _log.warning("no heartbeat", extra={"gateway": self._id, "why": str(error)})

    def _beat(self, *, closed: bool) -> None:
        self._post_letters()
        promised = self._ledger.promise()
        if promised is None:
            return
        known_us, ends = promised
        beat = Heartbeat(gateway=self._id, known_ts=known_us, ends=ends, closed=closed)
        with answering(self._address):
            self._post_heartbeat(beat)

    def _post_heartbeat(self, beat: Heartbeat) -> Any:  # noqa: ANN401 - kafka has no types
        return self._producer.send(
            HEARTBEATS,
            value=encode_heartbeat(beat),
            key=beat.gateway.encode(),
            partition=0,
            timestamp_ms=beat.known_ts // 1_000,
        )
