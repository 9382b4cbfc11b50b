"""The broker's sockets: frames in, frames out, one request at a time on each connection."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import struct
from collections.abc import Mapping, Sequence
from typing import Final

from kafka.errors import KafkaError
from kafka.protocol.api_message import ApiMessage

from ibook_assets.core.errors import ContractError
from ibook_assets.streaming.broker.apis import APIS, versions_answer
from ibook_assets.streaming.broker.broker import Broker, Limits
from ibook_assets.streaming.broker.codes import Code
from ibook_assets.streaming.broker.topics import NOWHERE

MAX_REQUEST_BYTES: Final = 100 * 2**20
"""Bytes of one request; a longer frame ends the connection. Apache Kafka's default."""

_API_VERSIONS: Final = 18
_HEADER: Final = struct.Struct(">hhi")
_log: Final = logging.getLogger(__name__)


class DevBroker:
    """A development broker on a loopback address; nothing is kept when it stops.

    Args:
        host: a loopback address; ContractError for any other, because there is no log-in.
        port: 0 takes a free one.
        limits: sizes of messages and logs.
        begin: by topic, the offset at which each partition begins: where the messages of an
            earlier broker have been landed up to.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 9092,
        limits: Limits | None = None,
        begin: Mapping[str, Sequence[int]] = NOWHERE,
    ) -> None:
        self._begin = begin
        self._host = loopback(host)
        self._port = port
        self._limits = limits or Limits()
        self._server: asyncio.Server | None = None
        self._broker: Broker | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        """Listen; returns `host:port`."""
        self._server = await asyncio.start_server(self._connected, self._host, self._port)
        port: int = self._server.sockets[0].getsockname()[1]
        self._broker = Broker(self._host, port, self._limits, self._begin)
        return f"[{self._host}]:{port}" if ":" in self._host else f"{self._host}:{port}"

    async def stop(self) -> None:
        """Take no more requests and close every connection after the answers under way."""
        if self._server is None or self._broker is None:
            return
        self._server.close()
        self._broker.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
        try:
            while await self._serve_one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            _log.debug("a client hung up")
        except asyncio.CancelledError:
            _log.debug("closing a connection")
        finally:
            # Closing still sends what was answered.
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        (size,) = struct.unpack(">i", await reader.readexactly(4))
        if not _HEADER.size <= size <= MAX_REQUEST_BYTES:
            _log.warning("a frame of %d bytes is refused; the connection is closed", size)
            return False
        frame = await reader.readexactly(size)
        key, version, correlation = _HEADER.unpack_from(frame)
        api = APIS.get(key)
        if key == _API_VERSIONS and version > APIS[key].last:
            # KIP-511: answer in version 0, so that a newer client learns what it may ask.
            answer: ApiMessage | None = versions_answer(Code.UNSUPPORTED_VERSION)
            version = 0
        elif api is None or not api.first <= version <= api.last:
            _log.warning("request %d of version %d is not supported", key, version)
            return False
        else:
            request = _decoded(api.request, frame, version)
            if request is None or self._broker is None:
                return False
            answer = await api.handle(self._broker, request, version)
        if answer is not None:
            answer.API_VERSION = version
            answer.with_header(correlation_id=correlation)
            writer.write(bytes(answer.encode(header=True, framed=True)))
            await writer.drain()
        return True


def loopback(host: str) -> str:
    """`host` as an address when it is a loopback one, ContractError otherwise."""
    address = "127.0.0.1" if host == "localhost" else host
    try:
        local = ipaddress.ip_address(address).is_loopback
    except ValueError:
        local = False
    if not local:
        msg = (
            f"host {host!r} is refused: the development broker has no log-in and listens on "
            "loopback only, e.g. 127.0.0.1. Run Apache Kafka to serve other machines"
        )
        raise ContractError(msg)
    return address


def _decoded(kind: type[ApiMessage], frame: bytes, version: int) -> ApiMessage | None:
    try:
        return kind.decode(frame, version=version, header=True)
    except (KafkaError, ValueError, TypeError, IndexError, struct.error, EOFError) as error:
        _log.warning("a request could not be read (%s); the connection is closed", error)
        return None
