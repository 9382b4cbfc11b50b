"""Which requests of the protocol are answered, in which versions, and by what."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from kafka.protocol.admin import CreateTopicsRequest, DeleteTopicsRequest
from kafka.protocol.api_message import ApiMessage
from kafka.protocol.consumer import (
    FetchRequest,
    HeartbeatRequest,
    JoinGroupRequest,
    LeaveGroupRequest,
    ListOffsetsRequest,
    OffsetCommitRequest,
    OffsetFetchRequest,
    SyncGroupRequest,
)
from kafka.protocol.metadata import (
    ApiVersionsRequest,
    ApiVersionsResponse,
    FindCoordinatorRequest,
    MetadataRequest,
)
from kafka.protocol.producer import InitProducerIdRequest, ProduceRequest

from ibook_assets.streaming.broker import api_groups, api_records, api_topics
from ibook_assets.streaming.broker.broker import Broker
from ibook_assets.streaming.broker.codes import Code

Handler = Callable[[Broker, ApiMessage, int], Awaitable[ApiMessage | None]]


@dataclass(frozen=True, slots=True)
class Api:
    """One kind of request: how it is decoded, its first and last version, who answers."""

    request: type[ApiMessage]
    first: int
    last: int
    handle: Handler


async def api_versions(_broker: Broker, _request: ApiMessage, _version: int) -> ApiMessage:
    """Everything in `APIS`."""
    return versions_answer(Code.NONE)


def versions_answer(code: Code) -> ApiMessage:
    """The versions on offer; with a code also to a client that asked in a newer version."""
    return ApiVersionsResponse(
        error_code=code,
        api_keys=[
            ApiVersionsResponse.ApiVersion(api_key=key, min_version=api.first, max_version=api.last)
            for key, api in sorted(APIS.items())
        ],
        throttle_time_ms=0,
    )


# Highest versions are below those with flexible encodings, topic ids or static membership: every
# client of the last years speaks them.
APIS: Final[dict[int, Api]] = {
    api.request.API_KEY: api
    for api in (
        Api(ProduceRequest, 3, 8, api_records.produce),
        Api(FetchRequest, 4, 11, api_records.fetch),
        Api(ListOffsetsRequest, 1, 5, api_records.list_offsets),
        Api(MetadataRequest, 0, 8, api_topics.metadata),
        Api(OffsetCommitRequest, 2, 6, api_groups.offset_commit),
        Api(OffsetFetchRequest, 1, 5, api_groups.offset_fetch),
        Api(FindCoordinatorRequest, 0, 2, api_topics.find_coordinator),
        Api(JoinGroupRequest, 1, 4, api_groups.join_group),
        Api(HeartbeatRequest, 0, 2, api_groups.heartbeat),
        Api(LeaveGroupRequest, 0, 2, api_groups.leave_group),
        Api(SyncGroupRequest, 0, 2, api_groups.sync_group),
        Api(ApiVersionsRequest, 0, 3, api_versions),
        Api(CreateTopicsRequest, 1, 4, api_topics.create_topics),
        Api(DeleteTopicsRequest, 1, 3, api_topics.delete_topics),
        Api(InitProducerIdRequest, 0, 1, api_records.init_producer_id),
    )
}
