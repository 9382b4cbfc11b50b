"""Handlers of messages: produce, fetch, offsets, producer ids."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from kafka.protocol.api_message import ApiMessage
from kafka.protocol.consumer import FetchResponse, ListOffsetsResponse
from kafka.protocol.producer import InitProducerIdResponse, ProduceResponse

from ibook_assets.streaming.broker.batches import parse
from ibook_assets.streaming.broker.broker import Broker
from ibook_assets.streaming.broker.codes import Code, RefusedError
from ibook_assets.streaming.broker.partition_log import PartitionLog

_LATEST: Final = -1
_EARLIEST: Final = -2
_NOT_SAID: Final = -1


async def init_producer_id(broker: Broker, request: ApiMessage, _version: int) -> ApiMessage:
    """An id for an idempotent producer; transactions are not offered."""
    refused = request.transactional_id is not None
    return InitProducerIdResponse(
        throttle_time_ms=0,
        error_code=Code.INVALID_REQUEST if refused else Code.NONE,
        producer_id=_NOT_SAID if refused else broker.next_producer_id(),
        producer_epoch=_NOT_SAID if refused else 0,
    )


async def produce(broker: Broker, request: ApiMessage, _version: int) -> ApiMessage | None:
    """Store a batch per partition; None (no answer) when the producer wants none."""
    shape = ProduceResponse.TopicProduceResponse
    answers = [
        shape(
            name=topic.name,
            partition_responses=[
                _produced(broker, request, topic.name, data) for data in topic.partition_data
            ],
        )
        for topic in request.topic_data
    ]
    if request.acks == 0:
        return None
    return ProduceResponse(responses=answers, throttle_time_ms=0)


async def fetch(broker: Broker, request: ApiMessage, version: int) -> ApiMessage:
    """Batches from the asked offsets on, after waiting for `min_bytes` as long as is allowed."""
    if version >= 7 and request.session_id:
        # No sessions are kept: a client that has one (of another broker) starts over.
        return _fetched([], Code.FETCH_SESSION_ID_NOT_FOUND)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + request.max_wait_ms / 1000
    while True:
        answers, ready, waited = _read(broker, request)
        left = deadline - loop.time()
        if ready or left <= 0:
            return _fetched(answers, Code.NONE)
        await _any_changed(waited, left)


async def list_offsets(broker: Broker, request: ApiMessage, _version: int) -> ApiMessage:
    """The first, the next, or the first offset not older than a time."""
    shape = ListOffsetsResponse.ListOffsetsTopicResponse
    return ListOffsetsResponse(
        throttle_time_ms=0,
        topics=[
            shape(name=t.name, partitions=[_offset(broker, t.name, p) for p in t.partitions])
            for t in request.topics
        ],
    )


def _produced(broker: Broker, request: ApiMessage, topic: str, data: ApiMessage) -> ApiMessage:
    code, message, offset, start = Code.NONE, None, _NOT_SAID, _NOT_SAID
    try:
        _check_acks(request.acks)
        log = broker.topics.log(topic, data.index)
        batch = parse(bytes(data.records or b""), max_bytes=broker.limits.message_bytes)
        offset, start = log.append(batch), log.start
    except RefusedError as error:
        code, message = error.code, str(error)
    return ProduceResponse.TopicProduceResponse.PartitionProduceResponse(
        index=data.index,
        error_code=code,
        base_offset=offset,
        log_append_time_ms=_NOT_SAID,
        log_start_offset=start,
        record_errors=[],
        error_message=message,
    )


def _check_acks(acks: int) -> None:
    if acks not in {-1, 0, 1}:
        raise RefusedError(Code.INVALID_REQUIRED_ACKS, f"acks {acks} is not one of -1, 0, 1")


def _read(broker: Broker, request: ApiMessage) -> tuple[list[ApiMessage], bool, list[PartitionLog]]:
    """Answers by topic, whether they suffice (bytes or an error), and the logs to wait for."""
    shape = FetchResponse.FetchableTopicResponse
    answers: list[ApiMessage] = []
    waited: list[PartitionLog] = []
    size, refused = 0, False
    for topic in request.topics:
        partitions = []
        for asked in topic.partitions:
            code, data, log = Code.NONE, b"", None
            try:
                log = broker.topics.log(topic.topic, asked.partition)
                left = request.max_bytes - size
                # The first batch is always sent, however long, so that no reader is stuck.
                if left > 0:
                    data = log.read(asked.fetch_offset, min(asked.partition_max_bytes, left))
                waited.append(log)
            except RefusedError as error:
                code, refused = error.code, True
            size += len(data)
            partitions.append(_partition(asked.partition, code, data, log))
        answers.append(shape(topic=topic.topic, partitions=partitions))
    return answers, refused or size >= max(1, request.min_bytes), waited


def _partition(number: int, code: Code, data: bytes, log: PartitionLog | None) -> ApiMessage:
    end = _NOT_SAID if log is None else log.end
    return FetchResponse.FetchableTopicResponse.PartitionData(
        partition_index=number,
        error_code=code,
        high_watermark=end,
        last_stable_offset=end,
        log_start_offset=_NOT_SAID if log is None else log.start,
        aborted_transactions=None,
        preferred_read_replica=_NOT_SAID,
        records=data,
    )


def _fetched(answers: Sequence[ApiMessage], code: Code) -> ApiMessage:
    return FetchResponse(throttle_time_ms=0, error_code=code, session_id=0, responses=list(answers))


async def _any_changed(logs: Sequence[PartitionLog], seconds: float) -> None:
    if not logs:
        await asyncio.sleep(seconds)
        return
    waits = [asyncio.ensure_future(log.changed()) for log in logs]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _offset(broker: Broker, topic: str, asked: ApiMessage) -> ApiMessage:
    code, offset, timestamp = Code.NONE, _NOT_SAID, _NOT_SAID
    ends: dict[int, Callable[[PartitionLog], int]] = {
        _LATEST: lambda log: log.end,
        _EARLIEST: lambda log: log.start,
    }
    try:
        log = broker.topics.log(topic, asked.partition_index)
        if asked.timestamp in ends:
            offset = ends[asked.timestamp](log)
        else:
            offset, timestamp = log.offset_at(asked.timestamp)
    except RefusedError as error:
        code = error.code
    return ListOffsetsResponse.ListOffsetsTopicResponse.ListOffsetsPartitionResponse(
        partition_index=asked.partition_index,
        error_code=code,
        old_style_offsets=[],
        timestamp=timestamp,
        offset=offset,
        leader_epoch=0,
    )
