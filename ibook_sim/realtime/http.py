"""A small HTTP/1.1 client that costs the generator little: kept connections, ready-made bytes."""

from __future__ import annotations

import asyncio
import math
import re
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import SplitResult, urlsplit

from ibook_assets.core.errors import ContractError
from ibook_sim.chaos import RequestFaults
from ibook_sim.realtime.recording import BROKEN, INJECTED, TIMED_OUT, Answer

MAX_CONNECTIONS: Final = 1_000
TIMEOUT_SECONDS: Final = 30.0
PREDICT_PATH: Final = "/predict"
_REVIEW: Final = b'"decision":"review"'
_SCORE: Final = re.compile(rb'"score":\s*([0-9][0-9.eE+-]*)')
_MAX_LINE: Final = 2**20


def scoring_url(base: str) -> SplitResult:
    """Where orders are posted to at the scoring API `base`; a base with a path keeps its own.

    Raises:
        ContractError: `base` is no HTTP URL.
    """
    url = urlsplit(base if "//" in base else f"http://{base}")
    if url.scheme not in {"http", "https"} or not url.hostname:
        msg = f"{base!r} is no address of a scoring API: write http://host:port"
        raise ContractError(msg)
    return url if url.path.strip("/") else url._replace(path=PREDICT_PATH)


@dataclass(slots=True, eq=False)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    used: bool = False

    async def exchange(self, request: bytes) -> tuple[int, bytes, bool]:
        """Status, body, and whether the connection may be used again."""
        self.writer.write(request)
        await self.writer.drain()
        head = await self.reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        fields = head.lower()
        if b"\r\ntransfer-encoding: chunked" in fields:
            body = await self._chunks()
        elif (at := fields.find(b"\r\ncontent-length:")) >= 0:
            length = int(fields[at + 17 : fields.index(b"\r\n", at + 2)])
            body = await self.reader.readexactly(length)
        else:
            return status, await self.reader.read(), False
        self.used = True
        return status, body, b"\r\nconnection: close" not in fields

    async def _chunks(self) -> bytes:
        parts = []
        while size := int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16):
            parts.append(await self.reader.readexactly(size))
            await self.reader.readexactly(2)
        await self.reader.readuntil(b"\r\n")
        return b"".join(parts)

    def close(self) -> None:
        self.writer.close()


class HttpTarget:
    """The scoring API, over as many connections as requests are on their way.

    An async context manager. Its limit of connections bounds what is on its way; a request that
    waits for one shows as lag of the generator.
    """

    def __init__(
        self,
        url: SplitResult,
        requests: Sequence[bytes],
        *,
        faults: RequestFaults | None = None,
        connections: int = MAX_CONNECTIONS,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._host = url.hostname or ""
        self._tls = ssl.create_default_context() if url.scheme == "https" else None
        self._port = url.port or (443 if self._tls else 80)
        self._requests = requests
        self._faults = faults
        self._timeout_seconds = timeout_seconds
        self._places = asyncio.Semaphore(connections)
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        writers = [connection.writer for connection in self._open]
        for writer in writers:
            writer.close()
        for writer in writers:
            with suppress(OSError, ssl.SSLError):
                await writer.wait_closed()

    async def send(self, number: int) -> Answer:
        """Send request `number` and wait for its answer."""
        loop = asyncio.get_running_loop()
        async with self._places:
            sent_at = loop.time()
            delay = 0.0
            if self._faults is not None:
                delay = float(self._faults.delay_seconds[number])
                if self._faults.fails[number]:
                    await asyncio.sleep(delay)
                    return Answer(INJECTED, sent_at)
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    await asyncio.sleep(delay)
                    status, body = await self._exchange(self._requests[number])
            except TimeoutError:
                return Answer(TIMED_OUT, sent_at)
            except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):
                return Answer(BROKEN, sent_at)
        return Answer(status, sent_at, _REVIEW in body, _score(body))

    async def _exchange(self, request: bytes) -> tuple[int, bytes]:
        connection = self._idle.pop() if self._idle else await self._connect()
        try:
            status, body, lasts = await connection.exchange(request)
        except (OSError, asyncio.IncompleteReadError) as error:
            self._drop(connection)
            # A server may close a kept connection just when it is used again.
            unanswered = not isinstance(error, asyncio.IncompleteReadError) or not error.partial
            if not (connection.used and unanswered):
                raise
            return await self._once(request)
        except BaseException:  # cancelled, too: half an answer is still on this connection
            self._drop(connection)
            raise
        self._keep(connection, lasts=lasts)
        return status, body

    async def _once(self, request: bytes) -> tuple[int, bytes]:
        connection = await self._connect()
        try:
            status, body, lasts = await connection.exchange(request)
        except BaseException:  # cancelled, too: half an answer is still on this connection
            self._drop(connection)
            raise
        self._keep(connection, lasts=lasts)
        return status, body

    async def _connect(self) -> _Connection:
        reader, writer = await asyncio.open_connection(
            self._host, self._port, ssl=self._tls, limit=_MAX_LINE
        )
        connection = _Connection(reader, writer)
        self._open.add(connection)
        return connection

    def _keep(self, connection: _Connection, *, lasts: bool) -> None:
        if lasts:
            self._idle.append(connection)
        else:
            self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        self._open.discard(connection)
        connection.close()


def _score(body: bytes) -> float:
    """The first score in an answer; the generator has no time to read the rest of it."""
    found = _SCORE.search(body)
    return float(found[1]) if found else math.nan
