"""Record batches (format 2): what the broker reads of them and the offset it writes into them.

Source: Apache Kafka, "Message Format": record batch on disk.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from kafka.record.default_records import DefaultRecordBatch
from kafka.record.util import calc_crc32c

from ibook_assets.streaming.broker.codes import Code, RefusedError

HEADER_BYTES: Final = 61
_FORMAT: Final = 2
_LENGTH_AT: Final = 8
_OVERHEAD: Final = 12
_MAGIC_AT: Final = 16
_CRC_AT: Final = 17
_CHECKED_FROM: Final = 21
# attributes, last offset delta, base and maximum timestamp, producer id, epoch, sequence, records
_FIELDS: Final = struct.Struct(">hiqqqhii")


@dataclass(frozen=True, slots=True)
class Batch:
    """One record batch as a producer sent it; offsets are still relative to its start."""

    data: bytes
    last_delta: int
    max_timestamp_ms: int
    producer_id: int
    """-1 when the producer is not idempotent."""
    producer_epoch: int
    sequence: int

    @property
    def last_sequence(self) -> int:
        """Sequence number of the last record; numbers wrap to 0 after 2**31 - 1."""
        return (self.sequence + self.last_delta) % 2**31

    def at(self, offset: int) -> bytes:
        """The batch as it is stored: starting at `offset`, written under leader epoch 0."""
        return struct.pack(">q", offset) + self.data[8:12] + bytes(4) + self.data[16:]


def parse(records: bytes, *, max_bytes: int) -> Batch:
    """The single batch in a partition's produce data.

    Raises:
        RefusedError: not exactly one sound batch of format 2 with at most `max_bytes`.
    """
    if len(records) < HEADER_BYTES:
        raise RefusedError(Code.CORRUPT_MESSAGE, f"a batch of {len(records)} bytes has no header")
    if records[_MAGIC_AT] != _FORMAT:
        msg = f"message format {records[_MAGIC_AT]} is not supported, only {_FORMAT}"
        raise RefusedError(Code.UNSUPPORTED_FOR_MESSAGE_FORMAT, msg)
    if len(records) > max_bytes:
        msg = f"a batch has {len(records)} bytes, at most {max_bytes} are taken"
        raise RefusedError(Code.MESSAGE_TOO_LARGE, msg)
    (length,) = struct.unpack_from(">i", records, _LENGTH_AT)
    if length + _OVERHEAD != len(records):
        msg = f"a batch says {length + _OVERHEAD} bytes, {len(records)} came; send one at a time"
        raise RefusedError(Code.INVALID_RECORD, msg)
    (crc,) = struct.unpack_from(">I", records, _CRC_AT)
    if crc != calc_crc32c(records[_CHECKED_FROM:]):
        raise RefusedError(Code.CORRUPT_MESSAGE, "a batch does not match its checksum")
    _, last_delta, _, max_timestamp, producer, epoch, sequence, count = _FIELDS.unpack_from(
        records, _CHECKED_FROM
    )
    if count < 1 or last_delta != count - 1:
        msg = f"a batch of {count} records ends at relative offset {last_delta}"
        raise RefusedError(Code.INVALID_RECORD, msg)
    return Batch(bytes(records), last_delta, max_timestamp, producer, epoch, sequence)


def first_at_or_after(stored: bytes, timestamp_ms: int) -> tuple[int, int] | None:
    """Offset and timestamp of the first record that is not older than `timestamp_ms`."""
    for record in DefaultRecordBatch(stored):
        if record.timestamp >= timestamp_ms:
            return int(record.offset), int(record.timestamp)
    return None
