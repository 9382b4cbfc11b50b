"""The feature probe: logs what the online store says of each order, as of when it was known.

It reads orders from the log, waits until the store's watermark has passed them, asks the store for
their features as of that very moment, and sends the vectors back into the log. Batch later
computes the same features from the lake, and any difference is skew.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.errors import CommitFailedError

from ibook_assets.core.errors import ContractError, StoreUnavailableError
from ibook_assets.core.messages import FEATURES_LOG, encode, topic_of
from ibook_assets.core.skew import definition_of, sampled
from ibook_assets.core.tables import TRANSACTIONS
from ibook_assets.stores.intake import intake, log_records
from ibook_assets.stores.log import (
    REQUEST_TIMEOUT_MS,
    LogAddress,
    answering,
    close_producer,
    failure,
    flush,
    open_consumer,
    open_producer,
    subscribe,
)
from ibook_assets.stores.online.format import LATENESS_US, ORDER_PREFIX, OrderRecord, key_of
from ibook_assets.stores.online.live import LiveStore
from ibook_assets.streaming.listening import Silence

GROUP: Final = "ibook-feature-log"
POLL_MS: Final = 200
POLL_RECORDS: Final = 2_000
MAX_WAITING: Final = 50_000
"""Orders that may wait for the watermark; above, reading pauses."""
ROWS_AT_ONCE: Final = 500
RETRY_SECONDS: Final = 1.0

_ORDERS: Final = topic_of(TRANSACTIONS.name)

_log = logging.getLogger(__name__)


class _Order(NamedTuple):
    """An order that waits for the watermark."""

    offset: int
    row: dict[str, Any]


class Probe:
    """One member of the group that logs the features of orders."""

    def __init__(
        self,
        address: LogAddress,
        store: LiveStore,
        features: Sequence[str],
        *,
        share: float,
        group: str = GROUP,
    ) -> None:
        """Connect.

        Args:
            address: the log that is read and written.
            store: the live store that is asked.
            features: `view:feature` of each value of a vector.
            share: share of the orders that are logged, see `core.skew.sampled`.
            group: members share the partitions.

        Raises:
            StoreUnavailableError: no broker answers.
        """
        self._address = address
        self._store = store
        self._features = tuple(features)
        self._definition = definition_of(self._features)
        self._share = share
        self._producer: KafkaProducer = open_producer(address)
        self._consumer: KafkaConsumer = open_consumer(address, group=group)
        subscribe(address, self._consumer, [_ORDERS])
        self._silence = Silence(address, self._consumer, TopicPartition(_ORDERS, 0))
        self._waiting: dict[TopicPartition, deque[_Order]] = {}
        self._read: dict[TopicPartition, int] = {}
        self.logged = 0
        self.forgotten = 0
        """Orders that came too late to be logged: no probe ran for LATENESS_US."""

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; an outage is waited out."""
        while not stop.is_set():
            try:
                self.turn()
            except StoreUnavailableError as error:
                _log.warning("waiting %.1f s: %s", RETRY_SECONDS, error)
                stop.wait(RETRY_SECONDS)

    def close(self) -> None:
        """Disconnect; what was not logged is read again by somebody."""
        self._consumer.close()
        close_producer(self._producer, seconds=1)

    def turn(self) -> None:
        """Read orders, log those that the watermark has passed, commit how far that is."""
        self._read_orders()
        watermark_us = self._store.progress().watermark_us
        while due := self._due(watermark_us):
            self._log_vectors(self._remembered([order.row for _, order in due], watermark_us))
            for place, _ in due:
                self._waiting[place].popleft()
        self._commit()

    def _read_orders(self) -> None:
        with answering(self._address):
            assigned = self._consumer.assignment()
            if sum(map(len, self._waiting.values())) > MAX_WAITING:
                self._consumer.pause(*assigned)
            elif self._consumer.paused():
                self._consumer.resume(*assigned)
            found = self._consumer.poll(timeout_ms=POLL_MS, max_records=POLL_RECORDS)
        self._silence.end_if(bool(found))
        for place in self._waiting.keys() - self._consumer.assignment():
            del self._waiting[place], self._read[place]
        for place, records in found.items():
            taken = intake(place.topic, log_records(records))
            ids = taken.rows["transaction_id"].to_numpy()
            chosen = np.flatnonzero(sampled(ids, self._share))
            rows = taken.rows.take(chosen).to_pylist()
            offsets = taken.offsets[chosen].tolist()
            waiting = self._waiting.setdefault(place, deque())
            waiting.extend(map(_Order, offsets, rows))
            self._read[place] = records[-1].offset + 1

    def _due(self, watermark_us: int) -> list[tuple[TopicPartition, _Order]]:
        """The first orders of each partition that are known before `watermark_us`."""
        return [
            (place, order)
            for place, orders in self._waiting.items()
            for order in itertools.takewhile(
                lambda order: order.row["known_ts"] < watermark_us,
                itertools.islice(orders, ROWS_AT_ONCE),
            )
        ]

    def _remembered(
        self, orders: Sequence[dict[str, Any]], watermark_us: int
    ) -> list[dict[str, Any]]:
        """The orders that the store can still be asked about; the others stay without a vector."""
        found = [o for o in orders if o["known_ts"] >= watermark_us - LATENESS_US]
        if forgotten := len(orders) - len(found):
            self.forgotten += forgotten
            _log.warning(
                "%d orders are known too long before the store's watermark to be logged; run a "
                "probe all the time, or expect them as extra in the skew check",
                forgotten,
            )
        return found

    def _log_vectors(self, orders: Sequence[dict[str, Any]]) -> None:
        first = self._first_known(orders)
        if not first:
            return
        as_of = np.array([order["known_ts"] for order in first], np.int64)
        values = self._store.fetch_as_of(self._features, first, as_of).astype("<f4")
        sent = []
        for order, vector in zip(first, values, strict=True):
            message = {
                "transaction_id": order["transaction_id"],
                "known_ts": order["known_ts"],
                "definition": self._definition,
                "vector": vector.tobytes(),
            }
            with answering(self._address):
                future = self._producer.send(
                    FEATURES_LOG,
                    key=str(order["user_id"]).encode(),
                    value=encode(FEATURES_LOG, message),
                    timestamp_ms=order["known_ts"] // 1_000,
                )
            sent.append(future)
        flush(self._address, self._producer)
        for future in sent:
            if future.failed():
                raise failure(self._address, future.exception)
        self.logged += len(first)

    def _first_known(self, orders: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The orders that are no repetition, by what the store remembers of their ids."""
        reading = self._store.read(
            [key_of(ORDER_PREFIX, order["transaction_id"]) for order in orders]
        )
        return [
            order
            for order, value in zip(orders, reading.values, strict=True)
            if value is not None and OrderRecord.unpack(value).known_ts == order["known_ts"]
        ]

    def _commit(self) -> None:
        positions = {
            place: OffsetAndMetadata(orders[0].offset if orders else self._read[place], "", -1)
            for place, orders in self._waiting.items()
        }
        if positions:
            try:
                with answering(self._address):
                    self._consumer.commit(positions, timeout_ms=REQUEST_TIMEOUT_MS)
            except ContractError as error:
                if not isinstance(error.__cause__, CommitFailedError):
                    raise
                # Others were given these orders meanwhile; logged twice, they count once.
                _log.info("positions were not committed: %s", error)
