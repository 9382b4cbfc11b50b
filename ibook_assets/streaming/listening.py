"""Listening to gateways: the heartbeats of the log, turned into a watermark."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Final

from kafka import KafkaConsumer, TopicPartition

from ibook_assets.core.errors import ContractError
from ibook_assets.core.messages import HEARTBEATS, decode_heartbeat
from ibook_assets.core.times import SECOND_US
from ibook_assets.core.watermark import Partition, Promise, Watermark
from ibook_assets.stores.log import LogAddress, answering, end_offsets, open_consumer

SILENCE_SECONDS: Final = 10.0
"""A gateway unheard for so long is dead; its events hold nobody back."""

LONGEST_GAP_SECONDS: Final = 1.0
"""Of a pause in which nobody at all was heard, only so much counts as anybody's silence: an outage
of the log, or of the reader, silences the living too, and what they sent is still to come."""

WAITING_PROMISES: Final = 2_000
"""Promises that may wait for their offsets; the rest stays in the log until they are kept."""

IDLE_SECONDS: Final = 5.0
"""Silence after which the log is asked whether it is there: an outage looks like silence."""

_PLACE: Final = TopicPartition(HEARTBEATS, 0)

_log = logging.getLogger(__name__)


class Listener:
    """The watermark of one reader of the log, by the heartbeats of all gateways."""

    def __init__(self, address: LogAddress, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Connect; StoreUnavailableError when no broker answers. `clock` is in seconds."""
        self._address = address
        self._clock = clock
        self._heard_at = clock()
        self._listened_seconds = 0.0
        self._consumer: KafkaConsumer = open_consumer(address)
        self._consumer.assign([_PLACE])
        self._silence = Silence(address, self._consumer, _PLACE)
        self._watermark = Watermark(start_us=0, silence_seconds=SILENCE_SECONDS)

    def restart(self, from_us: int) -> None:
        """Listen again to everything that was promised from `from_us` (microseconds) on.

        Whoever lived then is waited for, so what was promised shortly before is listened to too.
        """
        self._watermark = Watermark(start_us=from_us, silence_seconds=SILENCE_SECONDS)
        since_us = max(from_us - round(SILENCE_SECONDS * SECOND_US), 0)
        with answering(self._address):
            found = self._consumer.offsets_for_times({_PLACE: since_us // 1_000})[_PLACE]
        # An end that the client found later, by itself, could lie behind somebody's greeting.
        ends = end_offsets(self._address, self._consumer, [_PLACE]) if found is None else {}
        self._consumer.seek(_PLACE, ends[_PLACE] if found is None else found.offset)

    def watermark_us(self, read: Mapping[Partition, int]) -> int:
        """Up to when (microseconds) a reader at these next offsets has read everything."""
        if self._watermark.waiting < WAITING_PROMISES:
            self._listen()
        return self._watermark.advance(read, now_seconds=self._listened_seconds)

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()

    def _listen(self) -> None:
        with answering(self._address):
            heard = self._consumer.poll(timeout_ms=0, max_records=WAITING_PROMISES)
        self._silence.end_if(bool(heard))
        if heard:
            now = self._clock()
            self._listened_seconds += min(now - self._heard_at, LONGEST_GAP_SECONDS)
            self._heard_at = now
        for record in heard.get(_PLACE, ()):
            try:
                beat = decode_heartbeat(record.value)
            except ContractError as error:
                _log.warning(
                    "heartbeat refused", extra={"offset": record.offset, "why": str(error)}
                )
                continue
            promise = Promise(beat.known_ts, beat.ends, beat.closed)
            self._watermark.hear(beat.gateway, promise, now_seconds=self._listened_seconds)


class Silence:
    """Tells a log that has nothing to say from one that is away."""

    def __init__(self, address: LogAddress, consumer: KafkaConsumer, place: TopicPartition) -> None:
        """Ask for `place` through `consumer`."""
        self._address = address
        self._consumer = consumer
        self._place = place
        self._since = time.monotonic()

    def end_if(self, heard: bool) -> None:  # noqa: FBT001 - says it in its name
        """Take note of whether something was heard; ask the log when it was silent for long.

        Raises:
            StoreUnavailableError: the log does not answer; it is asked again at the next call.
        """
        now = time.monotonic()
        if not heard and now - self._since < IDLE_SECONDS:
            return
        if not heard:
            end_offsets(self._address, self._consumer, [self._place])
        self._since = time.monotonic()
