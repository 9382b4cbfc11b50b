"""Models trained once and one server that the tests which do not harm it share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ibook_assets.core.settings import Settings
from ibook_assets.models.bundle import ModelBundle
from tests.serving.harness import ADMIN_KEY, RunningServer, promote, running, small_bundle
from tests.serving.history import publish_history


@pytest.fixture(scope="session")
def bundle() -> ModelBundle:
    """The first model promoted."""
    return small_bundle("fraud-v1", seed=1)


@pytest.fixture(scope="session")
def next_bundle() -> ModelBundle:
    """The model promoted after it."""
    return small_bundle("fraud-v2", seed=2)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of an empty platform."""
    return Settings(home=tmp_path / "home")


@pytest.fixture(scope="session")
def served(
    tmp_path_factory: pytest.TempPathFactory, bundle: ModelBundle
) -> Iterator[RunningServer]:
    """A server with one process, a history, a small body limit and an admin key."""
    settings = Settings(home=tmp_path_factory.mktemp("served"))
    promote(settings, bundle)
    publish_history(settings)
    environment = {
        "IBOOK_ADMIN_KEY": ADMIN_KEY,
        "IBOOK_MAX_BATCH_ROWS": "100",
        "IBOOK_MAX_BODY_BYTES": "65536",
    }
    with running(settings, environment=environment) as server:
        yield server
