"""One connection to Redis for one event loop: commands go out at once, answers come in order.

redis.asyncio takes 50 µs of CPU for a read of nine keys, this 11: what is left is packing and
parsing, both hiredis's. A command that is not answered in time ends the connection, because the
answers that follow could not be told apart any more.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, cast

import hiredis
from redis.connection import SSLConnection, parse_url

from ibook_assets.core.errors import StoreUnavailableError

_LATE_SECONDS: Final = 0.01
"""A loop that is later than this was busy itself; answers may lie unread."""

_TOO_LATE: Final = "no answer in time"
_CLOSED: Final = "the connection is closed"

Command = Sequence[bytes | str | int]


class RedisPipe(asyncio.Protocol):
    """A connection; use `connect`."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._reader = hiredis.Reader()
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def connect(cls, url: str, address: str, *, timeout_seconds: float) -> RedisPipe:
        """A connection to `url`, signed in; messages call it `address`.

        Raises:
            StoreUnavailableError: nobody answers there in time, or not as Redis does.
        """
        options = parse_url(url)  # type: ignore[no-untyped-call]
        pipe = cls(address)
        try:
            async with asyncio.timeout(timeout_seconds):
                await _open(pipe, options)
                for command in _greetings(options):
                    await pipe.ask(command, timeout_seconds=timeout_seconds)
        except (TimeoutError, OSError) as error:
            pipe.close()
            raise pipe._unavailable(str(error) or _TOO_LATE) from error
        except StoreUnavailableError:
            pipe.close()
            raise
        return pipe

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return self._transport is None

    async def ask(self, command: Command, *, timeout_seconds: float) -> Any:  # noqa: ANN401 - Redis's
        """Redis's answer to `command`.

        Raises:
            StoreUnavailableError: none came in time, the connection broke, or it is an error.
        """
        if self._transport is None:
            raise self._unavailable(_CLOSED)
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append(answer)
        self._transport.write(hiredis.pack_command(tuple(command)))  # type: ignore[arg-type]
        due = self._loop.time() + timeout_seconds
        timer = self._loop.call_at(due, self._expire, answer, due)
        try:
            return await answer
        finally:
            timer.cancel()

    def _expire(self, answer: asyncio.Future[Any], due: float) -> None:
        if self._loop.time() > due + _LATE_SECONDS:
            # The loop was held up, not Redis: look at what has come before judging.
            self._loop.call_later(_LATE_SECONDS, self._give_up, answer)
        else:
            self._give_up(answer)

    def _give_up(self, answer: asyncio.Future[Any]) -> None:
        if not answer.done():
            answer.set_exception(self._unavailable(_TOO_LATE))
            self.close()

    def close(self) -> None:
        """End the connection at once; who waits is told."""
        if self._transport is not None:
            self._transport.abort()
        self._lost(_CLOSED)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        self._reader.feed(data)
        while (found := self._reader.gets()) is not False:
            answer = self._waiting.popleft()
            if answer.done():
                continue
            if isinstance(found, hiredis.ReplyError):
                answer.set_exception(self._unavailable(str(found)))
            else:
                answer.set_result(found)

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.Protocol."""
        self._lost(str(exc or "the connection was closed"))

    def _lost(self, why: str) -> None:
        self._transport = None
        while self._waiting:
            answer = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(self._unavailable(why))

    def _unavailable(self, why: str) -> StoreUnavailableError:
        msg = (
            f"the live store {self._address} does not answer as it should: {why}. See whether "
            "Redis runs there (IBOOK_ONLINE_URL), then retry"
        )
        return StoreUnavailableError(msg)


async def _open(pipe: RedisPipe, options: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    if path := options.get("path"):
        await loop.create_unix_connection(lambda: pipe, path)
        return
    secure = issubclass(options.get("connection_class", object), SSLConnection)
    await loop.create_connection(
        lambda: pipe,
        options.get("host", "localhost"),
        options.get("port", 6379),
        ssl=ssl.create_default_context(cafile=options.get("ssl_ca_certs")) if secure else None,
    )


def _greetings(options: dict[str, Any]) -> list[Command]:
    """What Redis must be told before anything else; it shows too that Redis is there."""
    found: list[Command] = []
    if password := options.get("password"):
        user = options.get("username")
        found.append(("AUTH", user, password) if user else ("AUTH", password))
    return [*found, ("SELECT", options.get("db", 0))]
