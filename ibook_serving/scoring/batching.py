"""Requests that arrive in the same tick of the event loop share one call into the model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from ibook_serving.http.problems import ProblemError

BATCH_ROWS: Final = 64
"""Rows scored before the event loop gets its turn again (rows)."""
RETRY_AFTER_SECONDS: Final = 1

Key = TypeVar("Key")
Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(slots=True)
class _Batch(Generic[Key, Item, Answer]):
    key: Key
    items: list[Item] = field(default_factory=list)
    task: asyncio.Task[Sequence[Answer]] | None = None


class Batcher(Generic[Key, Item, Answer]):
    """Coalesces rows without a timer: at low load nothing waits, at high load batches grow.

    Rows are only ever scored together when they were submitted for the same `key`, the deployment
    in use at admission, so a swap can never split a request over two versions.
    """

    def __init__(
        self, answer: Callable[[Key, Sequence[Item]], Awaitable[Sequence[Answer]]], *, limit: int
    ) -> None:
        self._answer = answer
        self._limit = limit
        self._pending = 0
        self._open: _Batch[Key, Item, Answer] | None = None

    @property
    def pending(self) -> int:
        """Rows admitted and not answered yet."""
        return self._pending

    async def submit(self, key: Key, items: Sequence[Item]) -> list[Answer]:
        """The answers to `items`, in order.

        Raises:
            ProblemError: 503 with Retry-After when more rows are waiting than `limit`.
        """
        if self._pending and self._pending + len(items) > self._limit:
            raise ProblemError(
                503,
                "Overloaded",
                f"{self._pending} rows are waiting and {self._limit} may; "
                f"send the request again in {RETRY_AFTER_SECONDS} s.",
                headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
            )
        self._pending += len(items)
        try:
            answers: list[Answer] = []
            for start in range(0, len(items), BATCH_ROWS):
                answers += await self._join(key, items[start : start + BATCH_ROWS])
            return answers
        finally:
            self._pending -= len(items)

    async def _join(self, key: Key, items: Sequence[Item]) -> Sequence[Answer]:
        batch = self._open
        if batch is None or batch.key is not key or len(batch.items) + len(items) > BATCH_ROWS:
            batch = self._open = _Batch(key)
            # The task runs after every request that is ready in this tick has joined.
            batch.task = asyncio.get_running_loop().create_task(self._run(batch))
        start = len(batch.items)
        batch.items += items
        assert batch.task is not None
        # One caller hanging up must not take the answer from the others.
        answers = await asyncio.shield(batch.task)
        return answers[start : start + len(items)]

    async def _run(self, batch: _Batch[Key, Item, Answer]) -> Sequence[Answer]:
        if self._open is batch:
            self._open = None
        return await self._answer(batch.key, batch.items)
