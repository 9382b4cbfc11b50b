"""Following what batch publishes: load the newest beside the one in use, swap, or refuse."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Generic, TypeVar

from ibook_assets.core.errors import IbookError
from ibook_serving.api import Refusal

RETRY_REFUSED_SECONDS: Final = 10.0
"""How often something refused is tried again, in case it was repaired in place."""

Published = TypeVar("Published")
Loaded = TypeVar("Loaded")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Publication(Generic[Published]):
    """Something published. Equal keys mean equal bytes; `name` is what people call it."""

    key: str
    name: str
    content: Published


class Follower(Generic[Published, Loaded]):
    """Keeps the newest published thing loaded.

    Whatever goes wrong on the way, from an unreachable store to a flipped bit, is a refusal: it
    is logged once, shown in `/readyz`, tried again later, and what was loaded before stays.
    """

    def __init__(
        self,
        what: str,
        newest: Callable[[], Publication[Published] | None],
        load: Callable[[Published], Loaded],
        *,
        hide: str = "",
    ) -> None:
        """Make a follower; nothing is read yet.

        Args:
            what: the kind of thing, as `/readyz` names it.
            newest: finds the newest publication; runs in a thread.
            load: returns it checked and warm; runs in a thread.
            hide: where the store is on this machine, which is nobody else's business.
        """
        self._what = what
        self._newest = newest
        self._load = load
        self._hide = hide
        self._key: str | None = None
        self._attempt: Publication[Published] | None = None
        self._refused: tuple[str | None, str] | None = None
        self._retry_at = 0.0
        self._turn = asyncio.Lock()
        self.loaded: Loaded | None = None
        self.refusal: Refusal | None = None

    async def refresh(self, executor: Executor, *, force: bool = False) -> bool:
        """Catch up with what is published; whether `loaded` changed.

        Args:
            executor: where reading and loading happen, off the event loop.
            force: try something refused again at once.
        """
        async with self._turn:
            if force:
                self._retry_at = 0.0
            task = asyncio.get_running_loop().run_in_executor(executor, self._advance)
            # Any failure at all must leave the old model serving, so none may escape from here.
            await asyncio.wait({task})
            error = task.exception()
            if error is not None:
                self._refuse(error)
                return False
            return task.result()

    def _advance(self) -> bool:
        self._attempt = None
        newest = self._newest()
        if newest is None or newest.key == self._key:
            self.refusal = self._refused = None
            return False
        self._attempt = newest
        if self.refusal is not None and self._refused is not None:
            tried_before = self._refused[0] == newest.key
            if tried_before and time.monotonic() < self._retry_at:
                return False
        started = time.perf_counter()
        loaded = self._load(newest.content)
        self.loaded, self._key = loaded, newest.key
        self.refusal = self._refused = None
        _log.info(
            "loaded",
            extra={
                "what": self._what,
                "version": newest.name,
                "seconds": round(time.perf_counter() - started, 3),
            },
        )
        return True

    def _refuse(self, error: BaseException) -> None:
        attempt = self._attempt
        # What we raise on purpose is written to be read; anything else stays in the log.
        known = isinstance(error, IbookError)
        reason = str(error) if known else f"{type(error).__name__} while loading; see the log"
        if self._hide:
            reason = reason.replace(self._hide, "…")
        self._retry_at = time.monotonic() + RETRY_REFUSED_SECONDS
        refused = (attempt.key if attempt else None, reason)
        if refused == self._refused:
            return
        self._refused = refused
        self.refusal = Refusal(
            what=self._what,
            name=attempt.name if attempt else "unknown",
            reason=reason,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        _log.error(
            "refused",
            extra={"what": self._what, "version": self.refusal.name, "reason": reason},
            exc_info=None if known else error,
        )
