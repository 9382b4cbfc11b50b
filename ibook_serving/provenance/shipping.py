"""The recorder process: ships what API processes have written to where predictions are kept.

It is one process a machine, forked and looked after by the supervisor. What has arrived is marked
in the trace store afterwards, so a recorder that is killed ships a batch again at worst; repeated
rows fall at landing, by their key. While the destination is away everything waits on the disk.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import platform
import sys
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import IO, Final, Protocol

import msgspec

from ibook_assets.core.errors import ConflictError, ContractError, StoreUnavailableError
from ibook_assets.core.messages import OUTCOME_LOG, PREDICTION_LOG
from ibook_assets.core.settings import Settings
from ibook_assets.core.times import DAY_US
from ibook_assets.stores.blobs import Blobs, open_blobs
from ibook_assets.stores.outbox import Outbox, Stored
from ibook_assets.stores.traces import TraceStore, open_traces
from ibook_serving.processes.supervisor import on_attendant_stop

NAME: Final = "ibook-recorder"
"""What process lists show."""
SHIP_ROWS: Final = 10_000
"""Messages shipped at once."""
POLL_SECONDS: Final = 0.5
LAST_RETRY_SECONDS: Final = 15.0
"""Longest pause between two attempts while the destination is away."""
EVICT_SECONDS: Final = 60.0
"""Time between two looks at what may be forgotten."""

FIRST_OWN_PARTITION: Final = 90_000
OWN_PARTITIONS: Final = 10_000
"""Partitions of the log's files that recorders write, beside those that the sink lands from a
broker: each trace store has one by the hash of where it is, and collisions are harmless."""

_PR_SET_NAME: Final = 15
_TROUBLE: Final = (StoreUnavailableError, ContractError)
"""What ends when somebody mends it: a destination that is away, full, or refuses us."""

_log = logging.getLogger(__name__)


class Destination(Protocol):
    """Where messages are kept for good."""

    def deliver(self, topic: str, messages: Sequence[Stored]) -> None:
        """Keep all of `messages` durably.

        Raises:
            StoreUnavailableError: it does not answer; some may have been kept.
        """
        ...

    def close(self) -> None:
        """Disconnect."""
        ...


class LakeDestination:
    """Files of the log in the lake, of the sink's own format."""

    def __init__(self, blobs: Blobs, partition: int) -> None:
        # Loaded here: pyarrow is of no use to the processes that answer.
        from ibook_assets.stores.log_files import LogFiles

        self._files = LogFiles(blobs)
        self._partition = partition
        self._next: dict[str, int] = {}

    def deliver(self, topic: str, messages: Sequence[Stored]) -> None:
        """See Destination.deliver."""
        from ibook_assets.stores.intake import LogRecord, intake

        while True:
            start = self._position(topic)
            records = [
                LogRecord(
                    self._partition,
                    start + position,
                    stored.known_us // 1_000,
                    stored.key.encode(),
                    stored.message,
                )
                for position, stored in enumerate(messages)
            ]
            try:
                file = self._files.create(topic, self._partition, records, intake(topic, records))
            except ConflictError:
                # Another trace store has the same partition: go on behind what it wrote.
                del self._next[topic]
                continue
            self._next[topic] = file.end
            _log.info("shipped", extra={"key": file.key, "rows": file.rows})
            return

    def close(self) -> None:
        """Nothing to disconnect from."""

    def _position(self, topic: str) -> int:
        if topic not in self._next:
            self._next[topic] = self._files.next_offset(topic, self._partition) or 0
        return self._next[topic]


class _User(msgspec.Struct):
    user_id: int | None = None


_USERS: Final = msgspec.json.Decoder(_User)


class KafkaDestination:
    """The topics `predictions` and `experiment.outcomes`, keyed by user."""

    def __init__(self, bootstrap: str, partitions: int) -> None:
        """Connect and create missing topics; StoreUnavailableError when no broker answers."""
        from ibook_assets.stores.log import LogAddress, ensure_topics, open_producer

        self._address = LogAddress(bootstrap)
        ensure_topics(self._address, (PREDICTION_LOG, OUTCOME_LOG), partitions)
        self._producer = open_producer(self._address)

    def deliver(self, topic: str, messages: Sequence[Stored]) -> None:
        """See Destination.deliver."""
        from kafka.errors import KafkaError

        from ibook_assets.stores.log import answering, failure, flush

        with answering(self._address):
            sent = [
                self._producer.send(
                    topic,
                    value=stored.message,
                    key=_user_key(stored),
                    timestamp_ms=stored.known_us // 1_000,
                )
                for stored in messages
            ]
        flush(self._address, self._producer)
        for future in sent:
            if isinstance(future.exception, KafkaError):
                raise failure(self._address, future.exception) from future.exception

    def close(self) -> None:
        """Give up what is not acknowledged: it is shipped again."""
        from ibook_assets.stores.log import close_producer

        close_producer(self._producer, seconds=0.5)


def _user_key(stored: Stored) -> bytes:
    try:
        user_id = _USERS.decode(stored.message).user_id
    except (msgspec.DecodeError, UnicodeDecodeError):
        # The sink refuses it in its place, with the reason.
        user_id = None
    return stored.key.encode() if user_id is None else str(user_id).encode()


class Shipper:
    """Moves messages from the trace store to the destination, oldest first."""

    def __init__(self, store: TraceStore, settings: Settings, *, rows: int = SHIP_ROWS) -> None:
        """Make a shipper; it connects when there is something to ship.

        Args:
            store: what to ship.
            settings: where to, after how long, and what is kept here after that.
            rows: messages shipped at once.
        """
        self._store = store
        self._settings = settings
        self._rows = rows
        self._seconds = settings.prediction_ship_seconds
        self._destination: Destination | None = None
        self._outboxes: Mapping[str, Outbox] = {
            PREDICTION_LOG: store.predictions,
            OUTCOME_LOG: store.outcomes,
        }
        self._waiting_since: dict[str, float] = {}
        self._evict_at = 0.0

    def run(self, stop: threading.Event) -> None:
        """Ship until `stop` is set, then what is there; outages are waited out."""
        delay = POLL_SECONDS
        while not stop.is_set():
            try:
                self.turn()
                delay = POLL_SECONDS
            except _TROUBLE as error:
                delay = min(2 * delay, LAST_RETRY_SECONDS)
                _log.warning("predictions wait", extra={"seconds": delay, "why": str(error)})
                self._disconnect()
            stop.wait(delay)
        try:
            self.turn(everything=True)
        except _TROUBLE as error:
            _log.warning("predictions stay for the next start", extra={"why": str(error)})
        self._disconnect()

    def turn(self, *, everything: bool = False) -> int:
        """Ship what is due, or `everything`, and forget what may be; messages shipped.

        Raises:
            StoreUnavailableError: the destination or the trace store does not answer.
        """
        shipped = 0
        for topic, outbox in self._outboxes.items():
            while messages := self._due(topic, outbox, everything=everything):
                self._connected().deliver(topic, messages)
                outbox.mark_shipped(messages[-1].number)
                shipped += len(messages)
        if time.monotonic() >= self._evict_at:
            self._evict_at = time.monotonic() + EVICT_SECONDS
            oldest_us = time.time_ns() // 1_000 - int(self._settings.trace_store_days * DAY_US)
            for outbox in self._outboxes.values():
                outbox.evict(before_us=oldest_us)
        return shipped

    def _due(self, topic: str, outbox: Outbox, *, everything: bool) -> list[Stored]:
        backlog = outbox.backlog()
        now = time.monotonic()
        if not backlog:
            self._waiting_since.pop(topic, None)
            return []
        since = self._waiting_since.setdefault(topic, now)
        if not everything and backlog < self._rows and now - since < self._seconds:
            return []
        self._waiting_since.pop(topic)
        return outbox.unshipped(self._rows)

    def _connected(self) -> Destination:
        if self._destination is None:
            self._destination = destination_of(self._settings)
        return self._destination

    def _disconnect(self) -> None:
        if self._destination is not None:
            self._destination.close()
            self._destination = None


def destination_of(settings: Settings) -> Destination:
    """Where `settings` keep predictions; not for `off`."""
    if settings.prediction_log == "kafka":
        return KafkaDestination(settings.kafka_bootstrap, settings.log_partitions)
    if settings.prediction_log == "lake":
        # The folder's own name would be the same on every machine.
        here = zlib.crc32(f"{platform.node()}{settings.trace_path}".encode())
        blobs = open_blobs(settings.lake, endpoint_url=settings.s3_endpoint_url)
        return LakeDestination(blobs, FIRST_OWN_PARTITION + here % OWN_PARTITIONS)
    msg = f"IBOOK_PREDICTION_LOG={settings.prediction_log} keeps nothing; use lake or kafka"
    raise ContractError(msg)


def ship(settings: Settings) -> None:
    """Be the recorder process: ship until told to stop or the supervisor's end, then the rest."""
    _call_myself(NAME)
    supervisor = os.getppid()
    stop = threading.Event()

    def on_stop(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    on_attendant_stop(on_stop)

    def watch() -> None:
        while not stop.wait(POLL_SECONDS):
            if os.getppid() != supervisor:
                _log.error("the supervisor is gone; ending", extra={"supervisor": supervisor})
                stop.set()

    threading.Thread(target=watch, name="watch", daemon=True).start()
    store = open_traces(settings)
    with (settings.trace_path / "shipping").open("w") as lock:
        # Servers that share a home share its store, and one of them ships.
        while not _locked(lock):
            if stop.wait(POLL_SECONDS):
                return
        Shipper(store, settings).run(stop)


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _call_myself(name: str) -> None:
    """Show `name` in process lists, where the system knows how."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
