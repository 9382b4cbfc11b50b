"""The log's clients without a log: refused addresses, and outages that end in bounded time."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from kafka.errors import (
    IncompatibleBrokerVersion,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    NotLeaderForPartitionError,
)

from ibook_assets.core.errors import ContractError, StoreUnavailableError
from ibook_assets.stores.log import (
    LogAddress,
    answering,
    ensure_topics,
    failure,
    open_consumer,
    open_producer,
)
from tests.services.processes import free_port


@pytest.fixture(params=["refusing", "silent"])
def away(request: pytest.FixtureRequest) -> Iterator[LogAddress]:
    """A port where nobody listens, and one that accepts and never answers."""
    if request.param == "refusing":
        yield LogAddress(f"127.0.0.1:{free_port()}")
        return
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield LogAddress(f"127.0.0.1:{server.getsockname()[1]}")


@pytest.mark.parametrize(
    "use",
    [
        lambda address: open_producer(address, bootstrap_timeout_ms=300),
        lambda address: open_consumer(address, bootstrap_timeout_ms=300),
        lambda address: ensure_topics(address, ["raw.views"], 1),
    ],
    ids=["producer", "consumer", "topics"],
)
def test_a_log_that_is_away_is_named_and_leaves_no_thread(
    away: LogAddress, use: Callable[[LogAddress], object]
) -> None:
    before = threading.active_count()
    with pytest.raises(StoreUnavailableError, match=f"{away.bootstrap} did not answer.*retry"):
        use(away)
    assert threading.active_count() == before


@pytest.mark.parametrize(
    "bootstrap", ["127.0.0.1", "kafka:", ":9092", "kafka:0", "kafka:65536", "a b:1", "a:1,,b:2", ""]
)
def test_an_address_without_host_and_port_is_refused(bootstrap: str) -> None:
    with pytest.raises(ContractError, match="is not host:port"):
        LogAddress(bootstrap)


@pytest.mark.parametrize(
    ("bootstrap", "servers"),
    [
        ("127.0.0.1:9092", ["127.0.0.1:9092"]),
        (
            "kafka-1.internal:9092, kafka-2.internal:9093",
            ["kafka-1.internal:9092", "kafka-2.internal:9093"],
        ),
        ("[::1]:65535", ["[::1]:65535"]),
    ],
)
def test_an_address_is_one_or_more_brokers(bootstrap: str, servers: list[str]) -> None:
    assert LogAddress(bootstrap).servers == servers


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (KafkaTimeoutError(), StoreUnavailableError),
        (NotLeaderForPartitionError(), StoreUnavailableError),
        (MessageSizeTooLargeError(), ContractError),
        (IncompatibleBrokerVersion(), ContractError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, KafkaError) else "",
)
def test_only_what_may_pass_is_retried(error: KafkaError, kind: type[Exception]) -> None:
    with pytest.raises(kind) as raised, answering(LogAddress("127.0.0.1:9092")):
        raise error
    assert type(raised.value) is kind
    assert raised.value.__cause__ is error
    assert type(failure(LogAddress("127.0.0.1:9092"), error)) is kind
