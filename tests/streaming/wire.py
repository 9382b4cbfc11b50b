"""One request and its answer over a plain socket, for what the client libraries never send."""

from __future__ import annotations

import socket
import struct

from kafka.protocol.api_message import ApiMessage
from kafka.record.default_records import DefaultRecordBatchBuilder


class Wire:
    """A connection that sends requests one at a time."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=30)

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(
        self,
        request: ApiMessage,
        answer: type[ApiMessage],
        version: int,
        *,
        sent_as: int | None = None,
        read_as: int | None = None,
    ) -> ApiMessage:
        """The decoded answer; its version and the one in the request's header may differ."""
        self.begin(request, version, sent_as=sent_as)
        return self.finish(answer, version if read_as is None else read_as)

    def begin(self, request: ApiMessage, version: int, *, sent_as: int | None = None) -> None:
        """Send a request only."""
        request.API_VERSION = version
        request.with_header(correlation_id=1, client_id="test")
        frame = bytearray(request.encode(header=True, framed=False))
        struct.pack_into(">h", frame, 2, version if sent_as is None else sent_as)
        self._socket.sendall(struct.pack(">i", len(frame)) + frame)

    def finish(self, answer: type[ApiMessage], version: int) -> ApiMessage:
        """The answer to what was sent."""
        frame = self._frame()
        assert frame is not None, "the broker closed the connection"
        return answer.decode(frame, version=version, header=True)

    def send(self, frame: bytes, size: int | None = None) -> bytes | None:
        """The frame that answers `frame`, None when the connection is closed instead."""
        self._socket.sendall(struct.pack(">i", len(frame) if size is None else size) + frame)
        return self._frame()

    def _frame(self) -> bytes | None:
        head = self._read(4)
        return None if head is None else self._read(struct.unpack(">i", head)[0])

    def _read(self, size: int) -> bytes | None:
        data = b""
        while len(data) < size:
            try:
                part = self._socket.recv(size - len(data))
            except ConnectionError:
                return None
            if not part:
                return None
            data += part
        return data


def a_batch(
    *values: bytes, producer: int = -1, epoch: int = -1, sequence: int = -1, size: int = 2**20
) -> bytes:
    """A record batch as a producer builds it; timestamps are 1000, 1001, …"""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=False,
        producer_id=producer,
        producer_epoch=epoch,
        base_sequence=sequence,
        batch_size=size,
    )
    for number, value in enumerate(values):
        builder.append(number, timestamp=1_000 + number, key=None, value=value, headers=[])
    return bytes(builder.build())
