"""The protocol's corners, asked over a plain socket of both brokers, and the groups' timeouts."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest
from kafka import KafkaAdminClient, TopicPartition
from kafka.protocol.admin import CreateTopicsRequest, CreateTopicsResponse
from kafka.protocol.api_message import ApiMessage
from kafka.protocol.consumer import (
    FetchRequest,
    FetchResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    JoinGroupRequest,
    JoinGroupResponse,
    OffsetCommitRequest,
    OffsetCommitResponse,
)
from kafka.protocol.metadata import ApiVersionsRequest, ApiVersionsResponse
from kafka.protocol.producer import (
    InitProducerIdRequest,
    InitProducerIdResponse,
    ProduceRequest,
    ProduceResponse,
)

from ibook_assets.stores.log import ensure_topics, open_consumer
from ibook_assets.streaming.broker.codes import Code
from tests.services.brokers import BrokerService
from tests.streaming.wire import Wire, a_batch

TOPIC = "raw.transactions"
NOT_LEADER_OR_FOLLOWER = 6
COORDINATOR_LOAD_IN_PROGRESS = 14


@pytest.fixture
def wire(broker: BrokerService) -> Iterator[Wire]:
    ensure_topics(broker.log, [TOPIC], 1)
    with Wire(broker.address) as opened:
        # Kafka's metadata names a new partition's leader before the leader serves the partition.
        while fetch(opened, 0).error_code == NOT_LEADER_OR_FOLLOWER:
            pass
        yield opened


def produce(wire: Wire, records: bytes, *, partition: int = 0, acks: int = -1) -> tuple[int, int]:
    """Error code and base offset."""
    shape = ProduceRequest.TopicProduceData
    data = shape.PartitionProduceData(index=partition, records=records)
    request = ProduceRequest(
        transactional_id=None,
        acks=acks,
        timeout_ms=5_000,
        topic_data=[shape(name=TOPIC, partition_data=[data])],
    )
    answer = wire.ask(request, ProduceResponse, 8).responses[0].partition_responses[0]
    return answer.error_code, answer.base_offset


def fetch(wire: Wire, offset: int, *, max_bytes: int = 2**20, wait_ms: int = 0) -> ApiMessage:
    shape = FetchRequest.FetchTopic
    place = shape.FetchPartition(
        partition=0,
        current_leader_epoch=-1,
        fetch_offset=offset,
        log_start_offset=-1,
        partition_max_bytes=max_bytes,
    )
    request = FetchRequest(
        replica_id=-1,
        max_wait_ms=wait_ms,
        min_bytes=1,
        max_bytes=max_bytes,
        isolation_level=0,
        session_id=0,
        session_epoch=-1,
        topics=[shape(topic=TOPIC, partitions=[place])],
        forgotten_topics_data=[],
        rack_id="",
    )
    return wire.ask(request, FetchResponse, 11).responses[0].partitions[0]


def a_producer(wire: Wire) -> int:
    request = InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=60_000)
    while True:
        answer = wire.ask(request, InitProducerIdResponse, 1)
        if answer.error_code != COORDINATOR_LOAD_IN_PROGRESS:
            assert answer.error_code == Code.NONE
            return int(answer.producer_id)


def test_a_repeated_batch_is_stored_once(wire: Wire) -> None:
    producer = a_producer(wire)
    batches = [
        a_batch(b"x", b"y", producer=producer, epoch=0, sequence=2 * number) for number in range(5)
    ]
    assert [produce(wire, batch) for batch in batches] == [(0, 0), (0, 2), (0, 4), (0, 6), (0, 8)]
    # The last five batches are remembered, since as many requests may be in flight.
    assert [produce(wire, batch) for batch in batches] == [(0, 0), (0, 2), (0, 4), (0, 6), (0, 8)]
    assert fetch(wire, 0).high_watermark == 10


def test_producers_have_different_ids(wire: Wire) -> None:
    assert len({a_producer(wire) for _ in range(5)}) == 5


@pytest.mark.parametrize(
    ("epoch", "sequence", "code"),
    [
        (1, 2, Code.NONE),
        (1, 3, Code.OUT_OF_ORDER_SEQUENCE_NUMBER),
        (1, 1, Code.OUT_OF_ORDER_SEQUENCE_NUMBER),
        (2, 0, Code.NONE),
        (2, 2, Code.OUT_OF_ORDER_SEQUENCE_NUMBER),
        (0, 2, Code.INVALID_PRODUCER_EPOCH),
    ],
    ids=["next", "gap", "overlap", "new-epoch", "new-epoch-not-at-0", "fenced"],
)
def test_sequences_have_no_gap(wire: Wire, epoch: int, sequence: int, code: Code) -> None:
    producer = a_producer(wire)
    assert produce(wire, a_batch(b"0", b"1", producer=producer, epoch=1, sequence=0))[0] == 0
    batch = a_batch(b"2", producer=producer, epoch=epoch, sequence=sequence)
    assert produce(wire, batch)[0] == code
    assert fetch(wire, 0).high_watermark == (3 if code is Code.NONE else 2)


def test_sequences_wrap_at_their_end(wire: Wire) -> None:
    producer = a_producer(wire)
    last = 2**31 - 2
    assert produce(wire, a_batch(b"a", b"b", producer=producer, epoch=0, sequence=last)) == (0, 0)
    assert produce(wire, a_batch(b"c", producer=producer, epoch=0, sequence=0)) == (0, 2)


def flipped(batch: bytes, at: int) -> bytes:
    return batch[:at] + bytes([batch[at] ^ 1]) + batch[at + 1 :]


@pytest.mark.parametrize(
    ("records", "code"),
    [
        (flipped(a_batch(b"x"), 66), Code.CORRUPT_MESSAGE),
        (flipped(a_batch(b"x"), 20), Code.CORRUPT_MESSAGE),
        (a_batch(b"x") + a_batch(b"y"), Code.INVALID_RECORD),
        (a_batch(bytes(1_100_000), size=2**21), Code.MESSAGE_TOO_LARGE),
    ],
    ids=["flipped-bit", "flipped-checksum", "two-batches", "too-large"],
)
def test_an_unsound_batch_is_refused(wire: Wire, records: bytes, code: Code) -> None:
    assert produce(wire, records)[0] == code
    assert produce(wire, a_batch(b"sound")) == (0, 0)


def test_produce_names_what_is_wrong_with_the_request(wire: Wire) -> None:
    assert produce(wire, a_batch(b"x"), partition=9)[0] == Code.UNKNOWN_TOPIC_OR_PARTITION
    assert produce(wire, a_batch(b"x"), acks=7)[0] == Code.INVALID_REQUIRED_ACKS


@pytest.mark.parametrize("offset", [4, -1])
def test_an_offset_beyond_the_log_is_out_of_range(wire: Wire, offset: int) -> None:
    produce(wire, a_batch(b"0", b"1", b"2"))
    assert fetch(wire, offset).error_code == Code.OFFSET_OUT_OF_RANGE
    assert fetch(wire, 3).error_code == Code.NONE


def test_a_batch_larger_than_the_limit_is_still_sent(wire: Wire) -> None:
    produce(wire, a_batch(bytes(10_000)))
    produce(wire, a_batch(bytes(10_000)))
    found = fetch(wire, 0, max_bytes=100)
    assert 10_000 < len(found.records) < 20_000


def test_fetch_waits_for_what_comes(broker: BrokerService, wire: Wire) -> None:
    # It would wait for ten minutes: the test ends because the message wakes it.
    shape = FetchRequest.FetchTopic
    place = shape.FetchPartition(
        partition=0,
        current_leader_epoch=-1,
        fetch_offset=0,
        log_start_offset=-1,
        partition_max_bytes=2**20,
    )
    request = FetchRequest(
        replica_id=-1,
        max_wait_ms=600_000,
        min_bytes=1,
        max_bytes=2**20,
        isolation_level=0,
        session_id=0,
        session_epoch=-1,
        topics=[shape(topic=TOPIC, partitions=[place])],
        forgotten_topics_data=[],
        rack_id="",
    )
    wire.begin(request, 11)
    with Wire(broker.address) as other:
        assert produce(other, a_batch(b"late")) == (0, 0)
    answer = wire.finish(FetchResponse, 11)
    assert answer.responses[0].partitions[0].high_watermark == 1


def test_a_newer_client_is_told_the_versions(wire: Wire) -> None:
    request = ApiVersionsRequest(client_software_name="test", client_software_version="1")
    # No version 100 of the request exists; brokers answer it in version 0 (KIP-511).
    answer = wire.ask(request, ApiVersionsResponse, 3, sent_as=100, read_as=0)
    assert answer.error_code == Code.UNSUPPORTED_VERSION
    assert 18 in {offered.api_key for offered in answer.api_keys}


@pytest.mark.parametrize(
    "frame",
    [
        struct.pack(">hhih", 0, 0, 1, -1),
        struct.pack(">hhih", 3, 99, 1, -1),
        struct.pack(">hhih", 999, 0, 1, -1),
        struct.pack(">hhih", 3, 4, 1, -1) + b"\x7f\xff\xff\xff",
    ],
    ids=["old-version", "new-version", "unknown-request", "cut-off"],
)
def test_a_request_it_cannot_read_ends_the_connection(
    broker: BrokerService, wire: Wire, frame: bytes
) -> None:
    assert wire.send(frame) is None
    with Wire(broker.address) as other:
        assert produce(other, a_batch(b"x")) == (0, 0)


@pytest.mark.parametrize("size", [-1, 2**31 - 1])
def test_a_frame_without_measure_ends_the_connection(wire: Wire, size: int) -> None:
    assert wire.send(b"", size=size) is None


@pytest.mark.parametrize(
    ("name", "partitions", "replicas", "code"),
    [
        (TOPIC, 1, 1, Code.TOPIC_ALREADY_EXISTS),
        ("no spaces", 1, 1, Code.INVALID_TOPIC),
        ("..", 1, 1, Code.INVALID_TOPIC),
        ("a" * 250, 1, 1, Code.INVALID_TOPIC),
        ("many", 0, 1, Code.INVALID_PARTITIONS),
        ("copies", 1, 3, Code.INVALID_REPLICATION_FACTOR),
        ("default", -1, -1, Code.NONE),
    ],
)
def test_topics_are_checked(
    wire: Wire, name: str, partitions: int, replicas: int, code: Code
) -> None:
    topic = CreateTopicsRequest.CreatableTopic(
        name=name,
        num_partitions=partitions,
        replication_factor=replicas,
        assignments=[],
        configs=[],
    )
    request = CreateTopicsRequest(topics=[topic], timeout_ms=5_000, validate_only=False)
    assert wire.ask(request, CreateTopicsResponse, 4).topics[0].error_code == code


def test_a_deleted_topic_is_empty_when_it_is_made_again(broker: BrokerService, wire: Wire) -> None:
    produce(wire, a_batch(b"old"))
    with closing(KafkaAdminClient(bootstrap_servers=broker.address)) as admin:
        admin.delete_topics([TOPIC])
    ensure_topics(broker.log, [TOPIC], 1)
    assert produce(wire, a_batch(b"new")) == (0, 0)


def join(wire: Wire, member: str = "", *, protocols: Sequence[str] = ("range",)) -> ApiMessage:
    request = JoinGroupRequest(
        group_id="worker",
        session_timeout_ms=500,
        rebalance_timeout_ms=60_000,
        member_id=member,
        protocol_type="consumer",
        protocols=[
            JoinGroupRequest.JoinGroupRequestProtocol(name=name, metadata=b"") for name in protocols
        ],
    )
    return wire.ask(request, JoinGroupResponse, 4)


def test_a_silent_member_is_replaced(broker: BrokerService, wire: Wire) -> None:
    produce(wire, a_batch(b"x"))
    asked = join(wire)
    assert asked.error_code == Code.MEMBER_ID_REQUIRED
    leading = join(wire, asked.member_id)
    assert (leading.error_code, leading.leader) == (Code.NONE, leading.member_id)
    with closing(open_consumer(broker.log, group="worker")) as consumer:
        consumer.subscribe([TOPIC])
        # The first member never assigns anything; its session ends and the second one leads.
        for _ in range(600):
            if consumer.poll(100):
                break
        assert consumer.assignment() == {TopicPartition(TOPIC, 0)}
    beat = HeartbeatRequest(
        group_id="worker", generation_id=leading.generation_id, member_id=leading.member_id
    )
    answer = wire.ask(beat, HeartbeatResponse, 2)
    assert answer.error_code == Code.UNKNOWN_MEMBER_ID


def test_a_group_refuses_strangers(wire: Wire) -> None:
    assert join(wire, "nobody").error_code == Code.UNKNOWN_MEMBER_ID
    member = join(wire, join(wire).member_id)
    shape = OffsetCommitRequest.OffsetCommitRequestTopic
    place = shape.OffsetCommitRequestPartition(
        partition_index=0, committed_offset=1, committed_leader_epoch=-1, committed_metadata=""
    )
    codes = []
    for member_id, generation in (
        ("nobody", member.generation_id),
        (member.member_id, member.generation_id + 1),
        (member.member_id, member.generation_id),
    ):
        request = OffsetCommitRequest(
            group_id="worker",
            generation_id_or_member_epoch=generation,
            member_id=member_id,
            topics=[shape(name=TOPIC, partitions=[place])],
        )
        answer = wire.ask(request, OffsetCommitResponse, 6)
        codes.append(answer.topics[0].partitions[0].error_code)
    # The last one is a member, but its generation has not been assigned yet.
    assert codes == [
        Code.UNKNOWN_MEMBER_ID,
        Code.ILLEGAL_GENERATION,
        Code.REBALANCE_IN_PROGRESS,
    ]
