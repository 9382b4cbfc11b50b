"""Row 10; the long form with 30 s each is `python -m tests.reliability.outages`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability.outages import Dependencies, Outage, S3Store, stream_through_outages
from tests.services.brokers import KafkaService
from tests.services.redis_server import RedisService

OUTAGES = (
    Outage("redis", "refused"),
    Outage("s3", "refused"),
    Outage("kafka", "frozen"),
    Outage("redis", "frozen"),
)


@pytest.fixture
def s3() -> Iterator[S3Store]:
    store = S3Store()
    yield store
    store.close()


def test_while_something_is_away_the_stream_says_so_and_then_catches_up(
    kafka: KafkaService, durable_redis: RedisService, s3: S3Store, tmp_path: Path
) -> None:
    reports, figures = stream_through_outages(
        Dependencies(durable_redis, kafka, s3),
        tmp_path,
        OUTAGES,
        seconds=3,
        rate=200,
        measured=False,
    )
    # Nobody had to be started again, and nothing is missing or there twice.
    assert figures.faulty == {}
    assert figures.landed == figures.events + figures.repeated > 0
    assert figures.vectors > 0
    for report in reports:
        if report.what == "redis":
            assert report.told["worker"] > 0, report
            assert report.told["probe"] > 0, report
