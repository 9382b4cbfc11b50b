"""Handlers of the cluster's shape: metadata, creating and deleting topics, finding coordinators."""

from __future__ import annotations

from kafka.protocol.admin import CreateTopicsResponse, DeleteTopicsResponse
from kafka.protocol.api_message import ApiMessage
from kafka.protocol.metadata import FindCoordinatorResponse, MetadataResponse

from ibook_assets.streaming.broker.broker import CLUSTER_ID, NODE_ID, Broker
from ibook_assets.streaming.broker.codes import Code, RefusedError


async def metadata(broker: Broker, request: ApiMessage, version: int) -> ApiMessage:
    """Where the topics are; topics are never made by asking for them."""
    # Version 0 has no null list and means all topics by an empty one.
    everything = request.topics is None or (version == 0 and not request.topics)
    names = broker.topics.names() if everything else [topic.name for topic in request.topics]
    return MetadataResponse(
        throttle_time_ms=0,
        brokers=[
            MetadataResponse.MetadataResponseBroker(
                node_id=NODE_ID, host=broker.host, port=broker.port, rack=None
            )
        ],
        cluster_id=CLUSTER_ID,
        controller_id=NODE_ID,
        topics=[_topic(name, broker.topics.partitions(name)) for name in names],
    )


async def create_topics(broker: Broker, request: ApiMessage, _version: int) -> ApiMessage:
    """Make topics; each has its own answer."""
    return CreateTopicsResponse(
        throttle_time_ms=0, topics=[_created(broker, t, request) for t in request.topics]
    )


async def delete_topics(broker: Broker, request: ApiMessage, _version: int) -> ApiMessage:
    """Delete topics; each has its own answer."""
    results = []
    for name in request.topic_names:
        code = Code.NONE
        try:
            broker.delete_topic(name)
        except RefusedError as error:
            code = error.code
        results.append(DeleteTopicsResponse.DeletableTopicResult(name=name, error_code=code))
    return DeleteTopicsResponse(throttle_time_ms=0, responses=results)


async def find_coordinator(broker: Broker, request: ApiMessage, version: int) -> ApiMessage:
    """This broker coordinates every group; transactions are not offered."""
    group = version == 0 or request.key_type == 0
    return FindCoordinatorResponse(
        throttle_time_ms=0,
        error_code=Code.NONE if group else Code.INVALID_REQUEST,
        error_message=None if group else "transactions need Apache Kafka",
        node_id=NODE_ID,
        host=broker.host,
        port=broker.port,
    )


def _topic(name: str, partitions: int) -> ApiMessage:
    shape = MetadataResponse.MetadataResponseTopic
    return shape(
        error_code=Code.NONE if partitions else Code.UNKNOWN_TOPIC_OR_PARTITION,
        name=name,
        is_internal=False,
        partitions=[
            shape.MetadataResponsePartition(
                error_code=Code.NONE,
                partition_index=number,
                leader_id=NODE_ID,
                leader_epoch=0,
                replica_nodes=[NODE_ID],
                isr_nodes=[NODE_ID],
                offline_replicas=[],
            )
            for number in range(partitions)
        ],
    )


def _created(broker: Broker, topic: ApiMessage, request: ApiMessage) -> ApiMessage:
    code, message = Code.NONE, None
    partitions = len(topic.assignments) or topic.num_partitions
    replicas = -1 if topic.assignments else topic.replication_factor
    try:
        broker.topics.create(topic.name, partitions, replicas, dry_run=request.validate_only)
    except RefusedError as error:
        code, message = error.code, str(error)
    return CreateTopicsResponse.CreatableTopicResult(
        name=topic.name, error_code=code, error_message=message
    )
