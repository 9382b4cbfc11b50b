"""Parquet files that prove their own footer, for files that no record vouches for.

Page checksums leave the footer out, where a flipped bit may yield wrong rows or crash the parser.
Readers find the footer from the end and pages from the start, so a hash between the two is in
nobody's way: a sealed file is an ordinary Parquet file.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

import pyarrow as pa

from ibook_assets.stores.parquet import footer_of

_SEAL_BYTES: Final = 32
_FOOTER_GUESS: Final = 32_768
"""Bytes read from the end of a file at first; most footers are within them."""


def sealed(encoded: memoryview) -> bytes:
    """The Parquet file `encoded` with the SHA-256 of its footer before its footer."""
    footer = footer_of(encoded)
    return bytes(encoded[: -len(footer)]) + sha256(footer).digest() + footer


def sealed_tail(file: pa.NativeFile) -> bytes:
    """The last bytes of a sealed file, seal and footer among them."""
    size = file.size()
    tail = _last(file, min(size, _FOOTER_GUESS))
    length = min(_sealed_length(tail), size)
    return tail if length <= len(tail) else _last(file, length)


def check_seal(tail: bytes) -> None:
    """pa.ArrowInvalid unless the footer that `tail` ends with has the hash before it."""
    whole = tail[-_sealed_length(tail) :]
    if sha256(whole[_SEAL_BYTES:]).digest() != whole[:_SEAL_BYTES]:
        msg = "the footer does not have the hash that was written before it"
        raise pa.ArrowInvalid(msg)


def _sealed_length(tail: bytes) -> int:
    """Bytes of seal and footer, by the length that ends every Parquet file."""
    return int.from_bytes(tail[-8:-4], "little") + 8 + _SEAL_BYTES


def _last(file: pa.NativeFile, length: int) -> bytes:
    file.seek(file.size() - length)
    return file.read(length)
