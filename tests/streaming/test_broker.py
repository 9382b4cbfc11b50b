"""One contract for the brokers: what the clients of the event log may rely on, on both of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest
from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaError

from ibook_assets.core.errors import ContractError, StoreUnavailableError
from ibook_assets.stores.log import (
    LogAddress,
    answering,
    end_offsets,
    ensure_topics,
    flush,
    open_consumer,
    open_producer,
    partitions_of,
)
from tests.services.brokers import BrokerService, KafkaService

ORDERS = "raw.transactions"
VIEWS = "raw.views"
POLLS = 600
"""Polls of 100 ms after which a message counts as lost."""


@pytest.fixture
def log(broker: BrokerService) -> LogAddress:
    ensure_topics(broker.log, [ORDERS, VIEWS], 3)
    return broker.log


@pytest.fixture
def producer(log: LogAddress) -> Iterator[KafkaProducer]:
    with closing(open_producer(log)) as opened:
        yield opened


def send(producer: KafkaProducer, values: Sequence[int], partition: int | None = None) -> None:
    for value in values:
        key = str(value % 50).encode()
        producer.send(
            ORDERS, str(value).encode(), key=key, partition=partition, timestamp_ms=1_000 + value
        )


def read(consumer: KafkaConsumer, count: int) -> list[int]:
    """The next `count` messages, in the order they came."""
    found: list[int] = []
    for _ in range(POLLS):
        for records in consumer.poll(100).values():
            found += [int(record.value) for record in records]
        if len(found) >= count:
            break
    return found


def read_partition(log: LogAddress, partition: int, count: int, offset: int = 0) -> list[int]:
    with closing(open_consumer(log)) as consumer:
        place = TopicPartition(ORDERS, partition)
        consumer.assign([place])
        consumer.seek(place, offset)
        return read(consumer, count)


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_messages_come_back_in_order_and_whole(log: LogAddress, compression: str | None) -> None:
    values = list(range(5_000))
    with closing(open_producer(log, compression_type=compression)) as producer:
        send(producer, values, partition=1)
        flush(log, producer)
    assert read_partition(log, 1, 5_000) == values


def test_reading_starts_at_the_offset_asked_for(log: LogAddress, producer: KafkaProducer) -> None:
    send(producer, range(100), partition=0)
    flush(log, producer)
    assert read_partition(log, 0, 30, offset=70) == list(range(70, 100))


def test_messages_from_long_ago_are_kept(log: LogAddress, producer: KafkaProducer) -> None:
    # The test's Kafka looks for messages to delete twice a second; these are from 1970.
    for start in range(0, 300, 100):
        send(producer, range(start, start + 100), partition=0)
        flush(log, producer)
        time.sleep(0.6)
    assert read_partition(log, 0, 300) == list(range(300))


def test_one_key_has_one_partition_number_in_all_topics(
    log: LogAddress, producer: KafkaProducer
) -> None:
    keys = [str(user).encode() for user in range(40)]
    sent = {
        topic: [producer.send(topic, b"x", key=key) for key in keys] for topic in (ORDERS, VIEWS)
    }
    flush(log, producer)
    numbers = {topic: [f.get(timeout=5).partition for f in all_] for topic, all_ in sent.items()}
    assert numbers[ORDERS] == numbers[VIEWS]
    assert set(numbers[ORDERS]) == {0, 1, 2}


def test_end_offsets_count_what_was_acknowledged(log: LogAddress, producer: KafkaProducer) -> None:
    send(producer, range(7), partition=2)
    flush(log, producer)
    with closing(open_consumer(log)) as consumer:
        ends = end_offsets(log, consumer, partitions_of(log, consumer, ORDERS))
    assert ends == {TopicPartition(ORDERS, number): end for number, end in enumerate((0, 0, 7))}


@pytest.mark.parametrize(
    ("timestamp_ms", "offset"), [(0, 0), (1_000, 0), (1_017, 17), (1_099, 99), (1_100, None)]
)
def test_offsets_of_times_are_exact(
    log: LogAddress, producer: KafkaProducer, timestamp_ms: int, offset: int | None
) -> None:
    # Message n has the timestamp 1,000 + n.
    send(producer, range(100), partition=0)
    flush(log, producer)
    place = TopicPartition(ORDERS, 0)
    with closing(open_consumer(log)) as consumer:
        found = consumer.offsets_for_times({place: timestamp_ms})[place]
    assert (found and found.offset) == offset


def test_a_group_goes_on_where_it_committed(log: LogAddress, producer: KafkaProducer) -> None:
    send(producer, range(100), partition=0)
    flush(log, producer)
    place = TopicPartition(ORDERS, 0)
    with closing(open_consumer(log, group="sink", max_poll_records=40)) as consumer:
        consumer.subscribe([ORDERS])
        first = read(consumer, 40)
        consumer.commit({place: OffsetAndMetadata(len(first), "note", -1)})
    with closing(open_consumer(log, group="sink")) as consumer:
        consumer.subscribe([ORDERS])
        rest = read(consumer, 60)
        committed = consumer.committed(place, metadata=True)
    assert first + rest == list(range(100))
    assert (committed.offset, committed.metadata) == (40, "note")
    with closing(open_consumer(log, group="other")) as consumer:
        assert consumer.committed(place) is None


def test_rebalancing_loses_nothing(log: LogAddress, producer: KafkaProducer) -> None:
    values = list(range(3_000))
    seen: set[int] = set()
    shares: list[set[int]] = []
    members = [open_consumer(log, group="worker", max_poll_records=100)]
    members[0].subscribe([ORDERS, VIEWS])
    try:
        for turn in range(POLLS):
            send(producer, values[turn * 100 : (turn + 1) * 100])
            if turn == 10:
                members.append(open_consumer(log, group="worker", max_poll_records=100))
                members[1].subscribe([ORDERS, VIEWS])
            seen |= poll_and_commit(members)
            if len(members) == 2 and all(member.assignment() for member in members):
                shares = [{p.partition for p in member.assignment()} for member in members]
                # A member that leaves hands its partitions back.
                members.pop(0).close()
            if shares and len(seen) == len(values):
                break
    finally:
        for member in members:
            member.close()
    assert seen == set(values)
    assert sorted(map(len, shares)) == [1, 2], "topics are shared by partition number"
    assert shares[0].isdisjoint(shares[1])


def poll_and_commit(members: Sequence[KafkaConsumer]) -> set[int]:
    seen: set[int] = set()
    for member in members:
        polled = member.poll(50)
        seen |= {int(record.value) for records in polled.values() for record in records}
        try:
            if polled:
                member.commit(timeout_ms=5_000)
        except KafkaError:
            # The group moved on; whoever has the partitions now reads them again.
            continue
    return seen


def test_topics_are_made_once(log: LogAddress) -> None:
    ensure_topics(log, [ORDERS, VIEWS, "raw.refunds"], 3)
    with pytest.raises(ContractError, match=r"raw\.views has 3 partitions, 4 are configured"):
        ensure_topics(log, [VIEWS], 4)
    with (
        closing(open_consumer(log)) as consumer,
        pytest.raises(ContractError, match=r"raw\.nothing does not exist"),
    ):
        partitions_of(log, consumer, "raw.nothing")


def test_an_oversized_message_is_refused_by_the_client_and_the_next_is_taken(
    log: LogAddress, producer: KafkaProducer
) -> None:
    with pytest.raises(ContractError, match="larger than the maximum"), answering(log):
        producer.send(ORDERS, bytes(2_000_000), partition=0)
    send(producer, [7], partition=0)
    flush(log, producer)
    assert read_partition(log, 0, 1) == [7]


def test_the_broker_refuses_what_a_careless_client_lets_through(log: LogAddress) -> None:
    with closing(open_producer(log, max_request_size=4_000_000)) as producer:
        sent = producer.send(ORDERS, bytes(2_000_000), partition=0)
        with pytest.raises(ContractError, match="MessageSizeTooLarge"), answering(log):
            sent.get(timeout=30)
    with closing(open_producer(log)) as producer:
        send(producer, [7], partition=0)
        flush(log, producer)
    assert read_partition(log, 0, 1) == [7]


def test_a_frozen_broker_is_reported_and_everything_recovers(
    broker: BrokerService, log: LogAddress, producer: KafkaProducer
) -> None:
    place = TopicPartition(ORDERS, 0)
    with closing(open_consumer(log, request_timeout_ms=1_000)) as consumer:
        consumer.assign([place])
        send(producer, range(10), partition=0)
        assert read(consumer, 10) == list(range(10))
        broker.pause()
        send(producer, range(10, 20), partition=0)
        with pytest.raises(StoreUnavailableError, match=log.bootstrap):
            flush(log, producer, seconds=1)
        with pytest.raises(StoreUnavailableError, match="Safe to retry"):
            end_offsets(log, consumer, [place], seconds=2)
        with pytest.raises(StoreUnavailableError, match="did not answer"):
            open_consumer(log, bootstrap_timeout_ms=500)
        assert consumer.poll(100) == {}
        broker.resume()
        assert read(consumer, 10) == list(range(10, 20))
        flush(log, producer, seconds=30)
        assert end_offsets(log, consumer, [place], seconds=30) == {place: 20}


@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_apache_kafka_keeps_messages_and_clients_over_a_restart(
    kafka: KafkaService, ending: str
) -> None:
    log, place = kafka.log, TopicPartition(ORDERS, 0)
    ensure_topics(log, [ORDERS], 1)
    with closing(open_producer(log)) as producer, closing(open_consumer(log)) as consumer:
        consumer.assign([place])
        send(producer, range(500), partition=0)
        flush(log, producer)
        getattr(kafka, ending)()
        send(producer, range(500, 1_000), partition=0)
        with pytest.raises(StoreUnavailableError, match="did not answer"):
            end_offsets(log, consumer, [place], seconds=1)
        kafka.start()
        assert read(consumer, 1_000) == list(range(1_000))
        flush(log, producer, seconds=30)
        assert end_offsets(log, consumer, [place], seconds=30) == {place: 1_000}


def test_the_development_broker_forgets_but_clients_go_on(dev_broker: BrokerService) -> None:
    log = dev_broker.log
    ensure_topics(log, [ORDERS], 1)
    with closing(open_producer(log)) as producer:
        send(producer, range(10), partition=0)
        flush(log, producer)
        dev_broker.stop()
        dev_broker.start()
        ensure_topics(log, [ORDERS], 1)
        send(producer, range(10, 20), partition=0)
        flush(log, producer, seconds=30)
    assert read_partition(log, 0, 10) == list(range(10, 20))
