"""Opening the live store that an address names."""

from __future__ import annotations

from pathlib import Path

from ibook_assets.stores.online.live import LiveStore


def open_live(address: str) -> LiveStore:
    """The live store at `redis://host:port/db`, `rediss://…`, `unix:///socket`, or in a folder."""
    if address.startswith(("redis://", "rediss://", "unix://")):
        from ibook_assets.stores.online.redis_live import RedisLiveStore

        return RedisLiveStore(address)
    from ibook_assets.stores.online.lmdb_live import LmdbLiveStore

    return LmdbLiveStore(Path(address))
