"""A platform that alerts: a real instance, a real receiver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from ibook_assets.core.settings import Settings
from tests.defs.alerting.ticked import Platform
from tests.services.receiver import Receiver, receiving


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A real instance: SQLite on disk."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as found:
        yield found


@pytest.fixture
def platform(small: Settings, instance: dg.DagsterInstance, receiver: Receiver) -> Platform:
    return Platform(small, instance, receiver.url)
