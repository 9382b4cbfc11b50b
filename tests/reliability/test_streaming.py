"""Rows 1 to 3 for the whole stream; the long form: `python -m tests.reliability.streaming`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.reliability.stream_parts import Site
from tests.reliability.streaming import stream_under_faults
from tests.services.brokers import KafkaService
from tests.services.redis_server import RedisService


def test_killed_processes_and_a_killed_broker_change_nothing(
    kafka: KafkaService, tmp_path: Path
) -> None:
    site = Site(kafka, tmp_path, str(tmp_path / "online"), str(tmp_path / "lake"))
    rng = np.random.default_rng(1)
    figures = stream_under_faults(site, rng, events=6_000, kills=4, restarts=1)
    assert figures.faulty == {}
    assert figures.landed == figures.events + figures.repeated
    assert figures.events == 6_000
    assert figures.vectors > 0
    assert figures.compared > 0


def test_killed_processes_change_nothing_on_redis(
    kafka: KafkaService, redis_service: RedisService, tmp_path: Path
) -> None:
    site = Site(kafka, tmp_path, redis_service.url, str(tmp_path / "lake"))
    rng = np.random.default_rng(2)
    figures = stream_under_faults(site, rng, events=4_000, kills=4, restarts=0)
    assert figures.faulty == {}
    assert figures.landed == figures.events == 4_000
    assert figures.vectors > 0
