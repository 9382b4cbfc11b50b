"""Handlers of consumer groups: membership and committed offsets."""

from __future__ import annotations

from typing import Final

from kafka.protocol.api_message import ApiMessage
from kafka.protocol.consumer import (
    HeartbeatResponse,
    JoinGroupResponse,
    LeaveGroupResponse,
    OffsetCommitResponse,
    OffsetFetchResponse,
    SyncGroupResponse,
)

from ibook_assets.streaming.broker.broker import Broker
from ibook_assets.streaming.broker.codes import Code
from ibook_assets.streaming.broker.members import Joining

MAX_METADATA_CHARACTERS: Final = 4_096
"""Characters of the note that may be stored beside a committed offset."""

_NO_OFFSET: Final = (-1, "")


async def join_group(broker: Broker, request: ApiMessage, version: int) -> ApiMessage:
    """Answered when the group's next generation is complete."""
    wish = Joining(
        member_id=request.member_id,
        protocol_type=request.protocol_type,
        protocols={p.name: bytes(p.metadata) for p in request.protocols},
        session_timeout_ms=request.session_timeout_ms,
        rebalance_timeout_ms=request.rebalance_timeout_ms,
        must_return=version >= 4,
    )
    if not request.group_id:
        return _joined(Code.INVALID_GROUP_ID, request.member_id)
    answer = await broker.groups[request.group_id].join(wish)
    return JoinGroupResponse(
        throttle_time_ms=0,
        error_code=answer.code,
        generation_id=answer.generation,
        protocol_name=answer.protocol,
        leader=answer.leader,
        member_id=answer.member_id,
        members=[
            JoinGroupResponse.JoinGroupResponseMember(member_id=member, metadata=metadata)
            for member, metadata in answer.members.items()
        ],
    )


async def sync_group(broker: Broker, request: ApiMessage, _version: int) -> ApiMessage:
    """What the leader assigned to the member, once it did."""
    assignments = {a.member_id: bytes(a.assignment) for a in request.assignments}
    group = broker.groups[request.group_id]
    answer = await group.sync(request.member_id, request.generation_id, assignments)
    return SyncGroupResponse(
        throttle_time_ms=0, error_code=answer.code, assignment=answer.assignment
    )


async def heartbeat(broker: Broker, request: ApiMessage, _version: int) -> ApiMessage:
    """Whether the member still belongs to the current generation."""
    group = broker.groups[request.group_id]
    code = group.heartbeat(request.member_id, request.generation_id)
    return HeartbeatResponse(throttle_time_ms=0, error_code=code)


async def leave_group(broker: Broker, request: ApiMessage, _version: int) -> ApiMessage:
    """The member is gone and the others share its partitions."""
    code = broker.groups[request.group_id].leave(request.member_id)
    return LeaveGroupResponse(throttle_time_ms=0, error_code=code)


async def offset_commit(broker: Broker, request: ApiMessage, _version: int) -> ApiMessage:
    """Store how far the group has read."""
    offsets, codes = {}, {}
    for topic in request.topics:
        for asked in topic.partitions:
            place = (topic.name, asked.partition_index)
            note = asked.committed_metadata or ""
            if asked.partition_index >= broker.topics.partitions(topic.name):
                codes[place] = Code.UNKNOWN_TOPIC_OR_PARTITION
            elif len(note) > MAX_METADATA_CHARACTERS:
                codes[place] = Code.OFFSET_METADATA_TOO_LARGE
            else:
                offsets[place] = (asked.committed_offset, note)
    code = broker.groups[request.group_id].commit(
        request.member_id, request.generation_id_or_member_epoch, offsets
    )
    shape = OffsetCommitResponse.OffsetCommitResponseTopic
    return OffsetCommitResponse(
        throttle_time_ms=0,
        topics=[
            shape(
                name=topic.name,
                partitions=[
                    shape.OffsetCommitResponsePartition(
                        partition_index=asked.partition_index,
                        error_code=codes.get((topic.name, asked.partition_index), code),
                    )
                    for asked in topic.partitions
                ],
            )
            for topic in request.topics
        ],
    )


async def offset_fetch(broker: Broker, request: ApiMessage, _version: int) -> ApiMessage:
    """How far the group has read; -1 where it never committed."""
    offsets = broker.groups[request.group_id].offsets
    wanted: dict[str, list[int]] = {}
    if request.topics is None:
        for topic, partition in sorted(offsets):
            wanted.setdefault(topic, []).append(partition)
    else:
        wanted = {topic.name: list(topic.partition_indexes) for topic in request.topics}
    shape = OffsetFetchResponse.OffsetFetchResponseTopic
    return OffsetFetchResponse(
        throttle_time_ms=0,
        error_code=Code.NONE,
        topics=[
            shape(
                name=name,
                partitions=[
                    _committed(shape, number, *offsets.get((name, number), _NO_OFFSET))
                    for number in numbers
                ],
            )
            for name, numbers in wanted.items()
        ],
    )


def _joined(code: Code, member_id: str) -> ApiMessage:
    return JoinGroupResponse(
        throttle_time_ms=0,
        error_code=code,
        generation_id=-1,
        protocol_name="",
        leader="",
        member_id=member_id,
        members=[],
    )


def _committed(shape: type[ApiMessage], number: int, offset: int, note: str) -> ApiMessage:
    return shape.OffsetFetchResponsePartition(
        partition_index=number,
        committed_offset=offset,
        committed_leader_epoch=-1,
        metadata=note,
        error_code=Code.NONE,
    )
