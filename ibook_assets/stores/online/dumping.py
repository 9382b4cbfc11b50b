"""A live store in one verified file, to move it or to keep it; the same for every kind of store.

```
magic, length of the meta (4 bytes), meta (JSON)
per entry: lengths of key and value, expiry (0: never), key, value
an entry without key, then the sha256 of everything before it
```
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final
from uuid import uuid4

from ibook_assets.core.errors import ConflictError, ContractError, IntegrityError, NotFoundError
from ibook_assets.stores.online.live import Entry, LiveMeta, LiveStore

MAGIC: Final = b"ibook live store 1\n"

_LENGTH: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HIq")
_DIGEST_BYTES: Final = hashlib.sha256().digest_size
_BLOCK: Final = 1 << 20


def dump(store: LiveStore, path: Path) -> int:
    """Write what `store` serves to `path`, which appears only when it is whole.

    LMDB is copied while it is written; Redis cannot hold a moment still.

    Returns:
        How many entries it holds.

    Raises:
        ConflictError: the store was written meanwhile; stop its worker, then dump again.
        StoreUnavailableError: the store does not answer.
    """
    staging = path.with_name(f".{path.name}-{uuid4().hex}")
    generation = store.read([]).generation
    try:
        with staging.open("wb") as file:
            count = _write(_Hashed(file), store.meta(), store.entries())
            file.flush()
            os.fsync(file.fileno())
        if store.read([]).generation != generation:
            msg = f"{store.address} was published anew while it was dumped; dump it again"
            raise ConflictError(msg)
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)
    return count


def restore(store: LiveStore, path: Path) -> int:
    """Fill a new generation of `store` from a dump and let everybody read it.

    The file is verified first. A worker goes on in the log where the dump's progress says.

    Returns:
        How many entries it holds.

    Raises:
        IntegrityError: the file is not what was dumped.
        ContractError: it is no dump, or one of another format.
        StoreUnavailableError: the store does not answer; what it serves has not changed.
    """
    _verify(path)
    with path.open("rb") as file:
        file.seek(len(MAGIC))
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
        meta = LiveMeta.decode(file.read(length))
        generation = store.begin_generation(meta.layouts, meta.spec_hashes, meta.base_us)
        count = store.load(generation, _entries(file))
    store.publish_generation(generation)
    return count


class _Hashed:
    """A file being written, and the hash of what was."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self.sha256.update(data)
        self._file.write(data)


def _write(file: _Hashed, meta: LiveMeta, entries: Iterator[Entry]) -> int:
    encoded = meta.encoded()
    file.write(MAGIC + _LENGTH.pack(len(encoded)) + encoded)
    count = 0
    for key, value, expires_us in entries:
        file.write(_ENTRY.pack(len(key), len(value), expires_us or 0) + key + value)
        count += 1
    file.write(_ENTRY.pack(0, 0, 0))
    file.write(file.sha256.digest())
    return count


def _entries(file: BinaryIO) -> Iterator[Entry]:
    while True:
        key_length, length, expires_us = _ENTRY.unpack(file.read(_ENTRY.size))
        if not key_length:
            return
        yield file.read(key_length), file.read(length), expires_us or None


def _verify(path: Path) -> None:
    if not path.exists():
        msg = f"there is no dump at {path}"
        raise NotFoundError(msg)
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            msg = f"{path} does not start as a dump of a live store does; dump one with this code"
            raise ContractError(msg)
        left = path.stat().st_size - len(MAGIC) - _DIGEST_BYTES
        sha256 = hashlib.sha256(MAGIC)
        while left > 0 and (block := file.read(min(left, _BLOCK))):
            sha256.update(block)
            left -= len(block)
        expected = file.read(_DIGEST_BYTES).hex()
    if expected != sha256.hexdigest():
        raise IntegrityError(path=str(path), expected=expected, found=sha256.hexdigest())
