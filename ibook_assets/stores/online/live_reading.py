"""Reading the live store in an event loop: LMDB at once, Redis without holding anybody up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Final, Protocol

from ibook_assets.core.errors import NotFoundError, StoreUnavailableError
from ibook_assets.core.features.requests import Request
from ibook_assets.stores.online.live import BACKFILL
from ibook_assets.stores.online.lmdb_live import LmdbLiveStore
from ibook_assets.stores.online.opening import is_server
from ibook_assets.stores.online.reading import OnlineFeatures

_DATA: Final = "data.mdb"


class LiveReading(Protocol):
    """A live store as one event loop reads it."""

    address: str
    """Where it is, without credentials."""

    async def open(self, executor: Executor) -> None:
        """Get ready to read, or see whether that still holds; slow work goes to `executor`.

        Raises:
            NotFoundError: nobody has begun the store.
            StoreUnavailableError: it does not answer.
        """
        ...

    async def fetch(self, features: Sequence[str], rows: Sequence[Request]) -> OnlineFeatures:
        """The `features` of every row as of the watermark, see LiveStore.fetch."""
        ...

    async def close(self) -> None:
        """Let go of files and connections."""
        ...


def open_reading(address: str, *, timeout_seconds: float) -> LiveReading:
    """Reads the live store at `address`, see `open_live`; nothing is opened yet."""
    if is_server(address):
        from ibook_assets.stores.online.redis_reading import RedisReading

        return RedisReading(address, timeout_seconds=timeout_seconds)
    return LmdbReading(Path(address))


class LmdbReading:
    """Reads the embedded store: memory that is mapped, so there is nothing to wait for."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder)
        self._folder = folder
        self._opened: tuple[int, LmdbLiveStore] | None = None

    async def open(self, executor: Executor) -> None:
        """See LiveReading.open; a store that was replaced on the disk is opened anew."""
        loop = asyncio.get_running_loop()
        inode = await loop.run_in_executor(executor, self._inode)
        if inode is None:
            self._opened = None
            msg = f"there is no live store in {self.address}; {BACKFILL}"
            raise NotFoundError(msg)
        if self._opened is None or self._opened[0] != inode:
            # The old one must be closed first: one process opens a file of LMDB only once.
            self._opened = None
            store = await loop.run_in_executor(executor, LmdbLiveStore, self._folder)
            self._opened = inode, store

    def _inode(self) -> int | None:
        try:
            return (self._folder / _DATA).stat().st_ino
        except FileNotFoundError:
            return None
        except OSError as error:
            msg = f"cannot see the live store {self.address}: {error}. Mend it, then retry"
            raise StoreUnavailableError(msg) from error

    async def fetch(self, features: Sequence[str], rows: Sequence[Request]) -> OnlineFeatures:
        """See LiveReading.fetch."""
        if self._opened is None:
            msg = f"the live store {self.address} is not open; {BACKFILL}"
            raise NotFoundError(msg)
        return self._opened[1].fetch(features, rows)

    async def close(self) -> None:
        """See LiveReading.close."""
        self._opened = None
