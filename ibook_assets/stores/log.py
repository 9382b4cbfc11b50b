"""Clients of the event log (Kafka): every wait is bounded, every outage is a StoreUnavailableError.

A client that is open recovers by itself when the brokers come back; only opening one needs them.
Delivery is retried for `DELIVERY_TIMEOUT_MS`, so an outage shorter than that loses nothing.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

from kafka import (
    ConsumerRebalanceListener,
    KafkaAdminClient,
    KafkaConsumer,
    KafkaProducer,
    TopicPartition,
)
from kafka.consumer.group import RangePartitionAssignor
from kafka.errors import (
    IncompatibleBrokerVersion,
    KafkaError,
    KafkaTimeoutError,
    TopicAlreadyExistsError,
)
from kafka.net.compat import KafkaNetClient
from kafka.net.inet import KafkaNetSocket

from ibook_assets.core.errors import ContractError, StoreUnavailableError

BOOTSTRAP_TIMEOUT_MS: Final = 4_000
"""How long opening a client may take before the log counts as unavailable."""

REQUEST_TIMEOUT_MS: Final = 5_000
"""How long one request waits for its answer before the connection is given up."""

DELIVERY_TIMEOUT_MS: Final = 120_000
"""How long a sent event is retried before its future fails."""

MAX_MESSAGE_BYTES: Final = 1_000_000
"""Bytes of one message; brokers refuse more than about 1 MiB by default."""

TOPIC_CONFIGS: Final[Mapping[str, str]] = {
    # Messages carry the time an event became known. A broker that deletes by age would drop the
    # days of the past that are replayed into it, so the log is bounded by size instead.
    "retention.ms": "-1",
    "retention.bytes": str(8 * 2**30),
    "cleanup.policy": "delete",
}
"""Settings of a topic when it is created; sizes are per partition."""

_Client = TypeVar("_Client")

_SERVER: Final = re.compile(r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})$")


@dataclass(frozen=True, slots=True)
class LogAddress:
    """`host:port` of one or more brokers, comma-separated; ContractError for anything else."""

    bootstrap: str

    def __post_init__(self) -> None:
        for server in self.servers:
            match = _SERVER.match(server)
            if not match or not 0 < int(match[2]) < 65_536:
                msg = (
                    f"log address {server[:120]!r} is not host:port with a port of 1 to 65535; "
                    "set IBOOK_KAFKA_BOOTSTRAP to e.g. 127.0.0.1:9092"
                )
                raise ContractError(msg)

    @property
    def servers(self) -> list[str]:
        """Each broker's `host:port`."""
        return [server.strip() for server in self.bootstrap.split(",")]


def open_producer(address: LogAddress, **options: object) -> KafkaProducer:
    """An idempotent producer whose sends are acknowledged by all replicas; `options` add to it.

    Equal keys go to equal partition numbers of all topics that have as many partitions. `send`
    waits at most `REQUEST_TIMEOUT_MS` for a topic's partitions; wrap it in `answering`.
    """
    settings = {
        "acks": "all",
        "enable_idempotence": True,
        "allow_auto_create_topics": False,
        "linger_ms": 5,
        "batch_size": 131_072,
        "max_request_size": MAX_MESSAGE_BYTES,
        "max_block_ms": REQUEST_TIMEOUT_MS,
        "delivery_timeout_ms": DELIVERY_TIMEOUT_MS,
    }
    return _opened(address, KafkaProducer, settings | options)


def open_consumer(
    address: LogAddress, *, group: str | None = None, **options: object
) -> KafkaConsumer:
    """A consumer that starts at the earliest message and commits only when told.

    Members of a `group` get equal partition numbers of all topics they subscribe to. `poll`
    returns nothing while the log is down, and messages again when it is back: ask `end_offsets`
    to tell an idle log from one that is away.
    """
    settings = {
        "group_id": group,
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",
        "allow_auto_create_topics": False,
        "partition_assignment_strategy": (RangePartitionAssignor,),
        "session_timeout_ms": 10_000,
        "heartbeat_interval_ms": 1_000,
        "fetch_max_wait_ms": 100,
    }
    return _opened(address, KafkaConsumer, settings | options)


def ensure_topics(
    address: LogAddress,
    names: Iterable[str],
    partitions: int,
    *,
    configs: Mapping[str, str] | None = None,
) -> None:
    """Create the topics that do not exist; ContractError when one has other partitions.

    `configs` add to `TOPIC_CONFIGS`; topics that exist keep theirs.
    """
    wanted = set(names)
    admin = _opened(address, KafkaAdminClient, {})
    try:
        with answering(address):
            missing = wanted - set(admin.list_topics())
            spec = {"num_partitions": partitions, "configs": {**TOPIC_CONFIGS, **(configs or {})}}
            for name in sorted(missing):
                _create(admin, name, spec)
            admin.wait_for_topics(sorted(wanted), timeout_ms=REQUEST_TIMEOUT_MS)
            found = {t["name"]: len(t["partitions"]) for t in admin.describe_topics(list(wanted))}
    finally:
        admin.close()
    for name, count in sorted(found.items()):
        if count != partitions:
            msg = (
                f"topic {name} has {count} partitions, {partitions} are configured: the events of "
                f"one user would part. Set IBOOK_LOG_PARTITIONS={count}, or empty the log"
            )
            raise ContractError(msg)


def partitions_of(address: LogAddress, consumer: KafkaConsumer, topic: str) -> list[TopicPartition]:
    """The partitions of `topic`, ascending; ContractError when there is no such topic."""
    with answering(address):
        found = consumer.partitions_for_topic(topic)
    if not found:
        msg = f"topic {topic} does not exist at {address.bootstrap}; create it with ensure_topics"
        raise ContractError(msg)
    return [TopicPartition(topic, number) for number in sorted(found)]


def subscribe(
    address: LogAddress,
    consumer: KafkaConsumer,
    topics: Collection[str],
    listener: ConsumerRebalanceListener | None = None,
) -> None:
    """Let `consumer` share the partitions of `topics` with its group; `listener` hears which.

    A client that joins before it has heard of the topics leads its group to an assignment of
    nothing, and stays with it: so they are asked for first.

    Raises:
        ContractError: a topic does not exist.
        StoreUnavailableError: no broker answers.
    """
    for topic in sorted(topics):
        partitions_of(address, consumer, topic)
    consumer.subscribe(sorted(topics), listener=listener)


def end_offsets(
    address: LogAddress,
    consumer: KafkaConsumer,
    partitions: Collection[TopicPartition],
    *,
    seconds: float = REQUEST_TIMEOUT_MS / 1000,
) -> dict[TopicPartition, int]:
    """The offset the next message of each partition will get, asked for at most `seconds`."""
    with answering(address):
        found = consumer.end_offsets(list(partitions), timeout_ms=seconds * 1000)
    return {partition: int(found[partition]) for partition in partitions}


def flush(address: LogAddress, producer: KafkaProducer, *, seconds: float = 8.0) -> None:
    """Wait until everything sent was acknowledged or failed; its futures say which.

    Raises:
        StoreUnavailableError: not done within `seconds`; the events stay queued and are retried.
    """
    with answering(address):
        producer.flush(timeout=seconds)


def close_producer(producer: KafkaProducer, *, seconds: float) -> None:
    """Disconnect; what is not acknowledged within `seconds` is given up, and its futures fail."""
    try:
        producer.close(timeout=seconds)
    except KafkaTimeoutError:
        # kafka-python gives up closing instead, and would leave its thread and sockets behind.
        sender = producer._sender  # noqa: SLF001 - the public producer offers no way to give up
        sender.force_close()
        sender.join(seconds + 1.0)
        producer.close(timeout=0)


@contextmanager
def answering(address: LogAddress) -> Iterator[None]:
    """Errors of the log inside become StoreUnavailableError (retry) or ContractError (never)."""
    try:
        yield
    except KafkaError as error:
        raise failure(address, error) from error


def failure(address: LogAddress, error: KafkaError) -> ContractError | StoreUnavailableError:
    """What `error` means to a caller: the log is away, or it refuses what was asked."""
    if error.retriable and not isinstance(error, IncompatibleBrokerVersion):
        return StoreUnavailableError(
            f"the event log at {address.bootstrap} did not answer: {error}. Check that a broker "
            "listens there (IBOOK_KAFKA_BOOTSTRAP); for a development broker run "
            "`python -m ibook_assets.streaming.broker`. Safe to retry"
        )
    return ContractError(
        f"the event log at {address.bootstrap} refused the request: {error}. Retrying cannot "
        "help: compare the message, topic and the broker's version with docs/troubleshooting.md"
    )


def _create(admin: KafkaAdminClient, name: str, spec: Mapping[str, object]) -> None:
    try:
        admin.create_topics({name: dict(spec)}, timeout_ms=REQUEST_TIMEOUT_MS)
    except TopicAlreadyExistsError:
        # Several processes start at once; whoever was first made the same topic.
        return


def _opened(
    address: LogAddress, client: Callable[..., _Client], settings: Mapping[str, object]
) -> _Client:
    made: list[KafkaNetClient] = []

    def remembered(**config: object) -> KafkaNetClient:
        made.append(KafkaNetClient(**config))
        return made[-1]

    bounded = {
        "bootstrap_servers": address.servers,
        "bootstrap_timeout_ms": BOOTSTRAP_TIMEOUT_MS,
        "request_timeout_ms": REQUEST_TIMEOUT_MS,
        # The default grows to 30 s, for which a consumer would sleep after the broker came back.
        "reconnect_backoff_max_ms": 1_000,
        "proxy_url": "direct://",
        "kafka_client": remembered,
    }
    try:
        return client(**(bounded | dict(settings)))
    except KafkaError as error:
        # A constructor that fails leaves its thread and sockets behind.
        for net in made:
            _abandon(net)
        raise failure(address, error) from error


_Socket: TypeAlias = socket.socket


class _OwnSocket(_Socket):
    """Closes itself when nobody holds it any more."""

    def __del__(self) -> None:
        self.close()


class _DirectSocket(KafkaNetSocket):  # type: ignore[misc] # kafka-python has no types
    # kafka-python leaves the sockets of refused connections open until they are collected, and a
    # broker that is away refuses many. A scheme of proxies is where it lets us close them. One
    # that gets connected while its client closes is forgotten altogether.
    SCHEMES = ("direct",)

    def socket(self, family: int, sock_type: int, proto: int) -> _Socket:
        return _OwnSocket(family, sock_type, proto)

    async def sock_connect(
        self, net: object, sock: _Socket, sockaddr: object, timeout_at: float | None = None
    ) -> _Socket:
        try:
            connected: _Socket = await super().sock_connect(net, sock, sockaddr, timeout_at)
        except BaseException:  # a cancelled connection too; it goes on
            sock.close()
            raise
        return connected


def _abandon(client: KafkaNetClient) -> None:
    net = client._manager._net  # noqa: SLF001 - the public client offers no way to its thread
    client.close()
    net.stop()
