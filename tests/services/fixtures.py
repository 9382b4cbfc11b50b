"""Fixtures of real servers: started once per session, whole and empty for each test.

`broker` runs a test on the development broker and on Apache Kafka, `kafka` and `dev_broker` on one
of them, `redis_service` (`redis_url`) on Redis; `durable_redis` keeps acknowledged writes over
`.kill()` and `.start()`. Tests may stop, kill or pause what they were given. `browser` is Chromium.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.services.brokers import BrokerService, DevBrokerService, KafkaService
from tests.services.browser import BrowserService
from tests.services.redis_server import RedisService


@pytest.fixture(scope="session")
def _dev_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevBrokerService]:
    service = DevBrokerService(tmp_path_factory.mktemp("dev-broker"))
    try:
        yield service
    finally:
        service.stop()


@pytest.fixture(scope="session")
def _kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaService]:
    KafkaService.require()
    service = KafkaService(tmp_path_factory.mktemp("kafka"))
    try:
        yield service
    finally:
        service.kill()


@pytest.fixture(scope="session")
def _redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisService]:
    RedisService.require()
    service = RedisService(tmp_path_factory.mktemp("redis"))
    try:
        yield service
    finally:
        service.kill()


@pytest.fixture(scope="session")
def browser() -> Iterator[BrowserService]:
    """A real browser, with a fresh page for each look."""
    BrowserService.require()
    service = BrowserService()
    try:
        yield service
    finally:
        service.close()


@pytest.fixture
def dev_broker(_dev_broker: DevBrokerService) -> DevBrokerService:
    """The development broker, running and empty."""
    _dev_broker.restore().clear()
    return _dev_broker


@pytest.fixture
def kafka(_kafka: KafkaService) -> KafkaService:
    """Apache Kafka, running and empty."""
    _kafka.restore().clear()
    return _kafka


@pytest.fixture(params=["dev_broker", "kafka"])
def broker(request: pytest.FixtureRequest) -> BrokerService:
    """Each broker in turn, running and empty."""
    service: BrokerService = request.getfixturevalue(request.param)
    return service


@pytest.fixture
def redis_service(_redis: RedisService) -> RedisService:
    """Redis, running and empty; it forgets everything when it ends."""
    _redis.restore().clear()
    return _redis


@pytest.fixture
def redis_url(redis_service: RedisService) -> str:
    """URL of an empty Redis."""
    return redis_service.url


@pytest.fixture
def durable_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisService]:
    """A Redis of its own that keeps every acknowledged write over a kill."""
    RedisService.require()
    service = RedisService(tmp_path_factory.mktemp("durable-redis"), append_only=True)
    try:
        yield service.start()
    finally:
        service.kill()
