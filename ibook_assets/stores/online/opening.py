"""Opening the live store that an address names."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ibook_assets.stores.online.live import LiveStore

TIMEOUT_SECONDS: Final = 2.0
"""Longest wait for a connection to a server, and for its answer."""


def is_server(address: str) -> bool:
    """Whether `address` names a server, not a folder."""
    return address.startswith(("redis://", "rediss://", "unix://"))


def open_live(address: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> LiveStore:
    """The live store at `redis://host:port/db`, `rediss://…`, `unix:///socket`, or in a folder."""
    if is_server(address):
        from ibook_assets.stores.online.redis_live import RedisLiveStore

        return RedisLiveStore(address, timeout_seconds=timeout_seconds)
    from ibook_assets.stores.online.lmdb_live import LmdbLiveStore

    return LmdbLiveStore(Path(address))
