"""Live stores under test: the same contract embedded and on a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ibook_assets.stores.online.live import LiveStore
from ibook_assets.stores.online.opening import open_live


@pytest.fixture(params=["lmdb", "redis"])
def live_address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty live store of each kind."""
    if request.param == "lmdb":
        return str(tmp_path / "live")
    url: str = request.getfixturevalue("redis_url")
    return url


@pytest.fixture
def live(live_address: str) -> Iterator[LiveStore]:
    """An empty live store of each kind."""
    store = open_live(live_address)
    yield store
    store.close()
