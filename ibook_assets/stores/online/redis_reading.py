"""Reading the live store in Redis from an event loop: one round trip a fetch, nobody held up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor

from ibook_assets.core.errors import NotFoundError
from ibook_assets.core.features.requests import Request
from ibook_assets.stores.online.live import BACKFILL, LiveQuestions, Reading
from ibook_assets.stores.online.reading import OnlineFeatures
from ibook_assets.stores.online.redis_live import (
    CURRENT_KEY,
    VERSION_KEY,
    generation_prefix,
    shown_address,
)
from ibook_assets.stores.online.redis_pipe import RedisPipe


class RedisReading:
    """Reads Redis over one connection: the ticks' reads follow each other without waiting."""

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        self.address = shown_address(url)
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._questions = LiveQuestions(self.address)
        self._generation = 0
        self._pipe: RedisPipe | None = None
        self._connecting: asyncio.Task[RedisPipe] | None = None

    async def open(self, executor: Executor) -> None:
        """See LiveReading.open."""
        del executor
        await self.read([])

    async def fetch(self, features: Sequence[str], rows: Sequence[Request]) -> OnlineFeatures:
        """See LiveReading.fetch; one round trip."""
        steps = self._questions.fetching(tuple(features), rows, None)
        keys = next(steps)
        while True:
            reading = await self.read(keys)
            try:
                keys = steps.send(reading)
            except StopIteration as done:
                found: OnlineFeatures = done.value
                return found

    async def read(self, keys: Sequence[bytes]) -> Reading:
        """See LiveStore.read."""
        pipe = self._pipe
        if pipe is None or pipe.closed:
            pipe = await self._connected()
        while True:
            generation = self._generation
            prefix = generation_prefix(generation)
            command = (b"MGET", VERSION_KEY, CURRENT_KEY, *[prefix + key for key in keys])
            version, current, *values = await pipe.ask(
                command, timeout_seconds=self._timeout_seconds
            )
            if current is None or version is None:
                msg = f"the live store {self.address} is empty; {BACKFILL}"
                raise NotFoundError(msg)
            if int(current) == generation:
                return Reading(int(version), values, generation)
            self._generation = int(current)

    async def _connected(self) -> RedisPipe:
        if self._connecting is None:
            self._connecting = asyncio.create_task(
                RedisPipe.connect(self._url, self.address, timeout_seconds=self._timeout_seconds)
            )
            self._connecting.add_done_callback(self._keep)
        # Whoever hangs up must not take the connection from the others.
        return await asyncio.shield(self._connecting)

    def _keep(self, task: asyncio.Task[RedisPipe]) -> None:
        self._connecting = None
        if not task.cancelled() and task.exception() is None:
            self._pipe = task.result()

    async def close(self) -> None:
        """See LiveReading.close."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._pipe is not None:
            self._pipe.close()
