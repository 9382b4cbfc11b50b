"""Listening to gateways on a real broker: who counts as dead, and who was only not heard."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from kafka import KafkaProducer

from ibook_assets.core.errors import StoreUnavailableError
from ibook_assets.core.messages import HEARTBEATS, Heartbeat, encode_heartbeat
from ibook_assets.core.times import SECOND_US
from ibook_assets.stores.log import open_producer
from ibook_assets.streaming import listening
from ibook_assets.streaming.listening import SILENCE_SECONDS, Listener
from ibook_assets.streaming.topics import create_log
from tests.services.brokers import DevBrokerService

POLLS = 200
"""Looks at the log after which something must have been heard."""


class Heard:
    """A listener with a clock that we move, and a producer that speaks for all gateways."""

    def __init__(self, listener: Listener, producer: KafkaProducer) -> None:
        self.now_seconds = 0.0
        self.listener = listener
        self._producer = producer

    def promise(self, **promised_us: int) -> None:
        """Heartbeats of gateways, one after the other."""
        for name, known_us in promised_us.items():
            beat = Heartbeat(gateway=name, known_ts=known_us, ends={})
            self._producer.send(
                HEARTBEATS, encode_heartbeat(beat), timestamp_ms=known_us // 1_000
            ).get(10)

    def watermark_us(self, at_least: int, looks: int = POLLS) -> int:
        """The watermark after some looks, or as soon as it is as late as that."""
        found, pause = 0, threading.Event()
        for _ in range(looks):
            found = self.listener.watermark_us({})
            if found >= at_least:
                break
            pause.wait(0.005)
        return found


@pytest.fixture
def heard(dev_broker: DevBrokerService) -> Iterator[Heard]:
    create_log(dev_broker.log, 1)
    clocks: list[Heard] = []
    listener = Listener(dev_broker.log, clock=lambda: clocks[0].now_seconds if clocks else 0.0)
    with closing(listener), closing(open_producer(dev_broker.log)) as producer:
        clocks.append(Heard(listener, producer))
        listener.restart(0)
        yield clocks[0]


def test_an_outage_makes_nobody_dead(heard: Heard) -> None:
    heard.promise(a=100_000, b=100_000)
    assert heard.watermark_us(at_least=100_000) == 100_000
    # Nobody is heard for a minute. Then one gateway is quicker to come back than the other.
    heard.now_seconds += 60
    assert heard.watermark_us(at_least=100_001) == 100_000
    heard.promise(b=300_000)
    assert heard.watermark_us(at_least=100_001) == 100_000
    heard.promise(a=200_000)
    assert heard.watermark_us(at_least=200_000) == 200_000


def test_a_gateway_that_is_unheard_while_others_are_holds_nobody_back(heard: Heard) -> None:
    heard.promise(a=100_000, b=100_000)
    assert heard.watermark_us(at_least=100_000) == 100_000
    spoken = 0
    while heard.watermark_us(at_least=200_000, looks=10) == 100_000 and spoken < POLLS:
        spoken += 1
        heard.now_seconds += 1
        heard.promise(b=200_000 + spoken)
    assert heard.watermark_us(at_least=200_000 + spoken) == 200_000 + spoken
    assert spoken >= SILENCE_SECONDS


def test_who_lived_when_it_listened_last_is_waited_for(heard: Heard) -> None:
    heard.promise(b=99 * SECOND_US, a=105 * SECOND_US)
    # The first promise after the restart is a's; b may still tell of events before it.
    heard.listener.restart(100 * SECOND_US)
    assert heard.watermark_us(at_least=101 * SECOND_US) == 100 * SECOND_US
    heard.promise(b=104 * SECOND_US)
    assert heard.watermark_us(at_least=104 * SECOND_US) == 104 * SECOND_US


def test_a_log_that_is_away_is_an_error_and_then_none(
    heard: Heard, dev_broker: DevBrokerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "IDLE_SECONDS", 0.1)
    heard.promise(a=100_000)
    assert heard.watermark_us(at_least=100_000) == 100_000
    dev_broker.pause()
    with pytest.raises(StoreUnavailableError, match=dev_broker.address):
        heard.watermark_us(at_least=100_001)
    dev_broker.resume()
    heard.promise(a=200_000)
    assert heard.watermark_us(at_least=200_000) == 200_000
