"""Rows 1, 2, 3: sinks that are killed, frozen and race land every message once, with its fate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.reliability.landing import Figures, land_and_kill
from tests.reliability.nursery import Nursery
from tests.s3_server import new_s3_blobs
from tests.services.brokers import BrokerService, DevBrokerService


def _holds(figures: Figures) -> None:
    assert (figures.lost, figures.twice, figures.wrong, figures.unexplained) == (0, 0, 0, 0)
    assert figures.sound + figures.refused == figures.messages == sum(figures.sent.values())
    bad = ("poison", "corrupt", "oversized", "future")
    assert figures.refused == sum(figures.sent[kind] for kind in bad)
    assert figures.duplicates == figures.sent["duplicate"]
    assert figures.reasons["message:oversized"] == figures.sent["oversized"]


def test_killed_sinks_lose_and_repeat_nothing(
    nursery: Nursery, dev_broker: DevBrokerService, tmp_path: Path
) -> None:
    figures = land_and_kill(
        nursery, dev_broker.log, str(tmp_path), np.random.default_rng(1), named=10, at_random=20
    )
    _holds(figures)
    assert (figures.named_kills, figures.random_kills) == (10, 20)


def test_killed_sinks_lose_and_repeat_nothing_on_kafka(
    nursery: Nursery, kafka: BrokerService, tmp_path: Path
) -> None:
    rng = np.random.default_rng(2)
    _holds(land_and_kill(nursery, kafka.log, str(tmp_path), rng, named=0, at_random=10))


@pytest.mark.parametrize("seed", [3])
def test_killed_sinks_lose_and_repeat_nothing_on_s3(
    seed: int, nursery: Nursery, dev_broker: DevBrokerService, s3_endpoint: str
) -> None:
    rng = np.random.default_rng(seed)
    uri = new_s3_blobs(s3_endpoint).uri
    _holds(
        land_and_kill(
            nursery, dev_broker.log, uri, rng, endpoint_url=s3_endpoint, named=5, at_random=3
        )
    )
