"""The live store embedded: one LMDB file that one worker writes and many processes read.

```
<folder>/data.mdb                 LMDB
<folder>/writing                  locked by whoever writes
<folder>/boot                     since which start of the machine pages may only be in memory
keys: 00000000 <name>             version, published generation, last number given out
      <generation, 4 bytes> <key> expiry (8 bytes, 0: never), value
```

A commit is one LMDB transaction: a process killed at any instruction leaves all or nothing of it,
and keeps what was acknowledged. Pages go to the disk when the system likes, which is twice as fast
as waiting for them. Only a power cut or a crash of the whole machine can lose them, and then any
part of the file may be old: the file `boot` tells it, and the store starts empty, to be filled
again. A store that was closed has everything on the disk.
"""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import struct
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import lmdb

from ibook_assets.core.errors import ConflictError, NotFoundError, StoreUnavailableError
from ibook_assets.core.features.plan import Layout
from ibook_assets.core.features.requests import Request
from ibook_assets.stores.boots import boot_id, forget_lost
from ibook_assets.stores.online.format import META_KEY, PROGRESS_KEY
from ibook_assets.stores.online.live import (
    BACKFILL,
    Entry,
    LiveStore,
    Progress,
    Reading,
    Write,
    first_entries,
)
from ibook_assets.stores.online.reading import OnlineFeatures, driven

MAP_BYTES: Final = 1 << 36
"""Most the file may grow to; the file itself is only as large as what it holds."""

SWEEP_KEYS: Final = 64
"""Keys whose expiry each commit looks at, and one more for every two that it writes."""

_READERS: Final = 1_024
_LOAD_KEYS: Final = 20_000
_LOCK_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.002

_log: Final = logging.getLogger(__name__)

_CONTROL: Final = bytes(4)
_VERSION: Final = _CONTROL + b"version"
_CURRENT: Final = _CONTROL + b"current"
_NUMBERS: Final = _CONTROL + b"numbers"

_NUMBER: Final = struct.Struct("<q")
_EXPIRY: Final = _NUMBER.size


class _Environment:
    """An open database."""

    def __init__(self, folder: Path, map_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.lock = os.open(folder / "writing", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        weakref.finalize(self, os.close, self.lock)
        self.writing = threading.Lock()
        self._boot = folder / "boot"
        self._booted = boot_id()
        with self.locked():
            if forget_lost(self._boot):
                _log.warning("%s may have lost pages with the machine; it starts empty", folder)
                self._boot.unlink()
            self.lmdb = lmdb.open(
                str(folder),
                map_size=map_bytes,
                sync=not self._booted,
                max_readers=_READERS,
                readahead=False,
            )
        weakref.finalize(self, self.lmdb.close)
        # Killed readers keep their places, and with them pages that nobody needs.
        self.lmdb.reader_check()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else writes; StoreUnavailableError when somebody does for too long."""
        deadline = time.monotonic() + _LOCK_SECONDS
        if not self.writing.acquire(timeout=_LOCK_SECONDS):
            raise self._busy()
        try:
            while not _try_lock(self.lock):
                if time.monotonic() > deadline:
                    raise self._busy()
                time.sleep(_POLL_SECONDS)
            yield
        finally:
            fcntl.flock(self.lock, fcntl.LOCK_UN)
            self.writing.release()

    def _busy(self) -> StoreUnavailableError:
        msg = (
            f"another process has been writing the live store {self.folder} for more than "
            f"{_LOCK_SECONDS:.0f} s; see whether it hangs, end it, then retry"
        )
        return StoreUnavailableError(msg)

    @contextmanager
    def transaction(self) -> Iterator[lmdb.Transaction]:
        """A write transaction, committed at the end."""
        with self.locked():
            if not self._boot.exists():
                # Known on the disk before the first page that is not.
                with self._boot.open("w") as file:
                    file.write(self._booted)
                    file.flush()
                    os.fsync(file.fileno())
            with self.lmdb.begin(write=True) as transaction:
                yield transaction

    def flush(self) -> None:
        """Bring everything to the disk."""
        with self.locked():
            self.lmdb.sync(True)
            self._boot.unlink(missing_ok=True)


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# LMDB refuses to open one database twice in a process, so everybody shares what is open.
_OPEN: Final[weakref.WeakValueDictionary[Path, _Environment]] = weakref.WeakValueDictionary()
_OPENING: Final = threading.Lock()


class LmdbLiveStore(LiveStore):
    """A live store in a local folder.

    Open it in the process that uses it; it must not cross a fork.
    """

    def __init__(self, folder: Path, map_bytes: int = MAP_BYTES) -> None:
        super().__init__(str(folder))
        self._map_bytes = map_bytes
        self._sweep_from = b""
        self._wrote = False
        folder = folder.resolve()
        with self._explained(), _OPENING:
            found = _OPEN.get(folder)
            if found is None:
                found = _OPEN[folder] = _Environment(folder, map_bytes)
        self._environment = found

    def read(self, keys: Sequence[bytes]) -> Reading:
        """See LiveStore.read."""
        with self._explained(), self._environment.lmdb.begin(buffers=True) as transaction:
            mapped = self._mapped(transaction, keys)
            values = [None if value is None else bytes(value) for value in mapped.values]
            return mapped._replace(values=values)

    def _mapped(self, transaction: lmdb.Transaction, keys: Sequence[bytes]) -> Reading:
        """As `read`, but values are views that end with the transaction."""
        generation = self._published(transaction)
        prefix = _prefix(generation)
        found = [transaction.get(prefix + key) for key in keys]
        values: list[Any] = [None if value is None else value[_EXPIRY:] for value in found]
        return Reading(_number(transaction, _VERSION), values, generation)

    def fetch(
        self, features: Sequence[str], rows: Sequence[Request], as_of_us: int | None = None
    ) -> OnlineFeatures:
        """See LiveStore.fetch; records are copied once, from the map to where the kernel reads."""
        with self._explained(), self._environment.lmdb.begin(buffers=True) as transaction:
            return driven(
                self._questions.fetching(tuple(features), rows, as_of_us),
                partial(self._mapped, transaction),
            )

    def commit(self, version: int, writes: Mapping[bytes, Write]) -> bool:
        """See LiveStore.commit."""
        with self._writing() as transaction:
            if _number(transaction, _VERSION) != version:
                return False
            prefix = _prefix(_number(transaction, _CURRENT))
            items = []
            for key, write in writes.items():
                held = transaction.get(prefix + key, b"") if write.offset else b""
                if len(held) < write.offset + bool(write.offset) * _EXPIRY:
                    return False
                head = bytes(held[_EXPIRY : _EXPIRY + write.offset])
                items.append((prefix + key, _stored(head + write.data, write.expires_us)))
            for key, stored in items:
                transaction.put(key, stored)
            if PROGRESS_KEY in writes:
                now_us = Progress.decode(writes[PROGRESS_KEY].data).watermark_us
                self._sweep(transaction, prefix, now_us, SWEEP_KEYS + len(writes) // 2)
            _set(transaction, _VERSION, version + 1)
        return True

    def _sweep(self, transaction: lmdb.Transaction, prefix: bytes, now_us: int, keys: int) -> None:
        """Delete what expired among the next `keys` keys, from the start again after the last."""
        with transaction.cursor() as cursor:
            there = cursor.set_range(max(self._sweep_from, prefix))
            for _ in range(keys):
                if not there or bytes(cursor.key())[:4] != prefix:
                    self._sweep_from = prefix
                    return
                expires = _NUMBER.unpack_from(cursor.value())[0]
                # Deleting moves the cursor to the next key.
                there = cursor.delete() if 0 < expires <= now_us else cursor.next()
            self._sweep_from = bytes(cursor.key()) if there else prefix

    def begin_generation(
        self, layouts: Sequence[Layout], spec_hashes: Mapping[str, str], base_us: int
    ) -> int:
        """See LiveStore.begin_generation."""
        with self._writing() as transaction:
            generation = _number(transaction, _NUMBERS) + 1
            _set(transaction, _NUMBERS, generation)
        self.load(generation, first_entries(layouts, spec_hashes, base_us))
        return generation

    def load(self, generation: int, entries: Iterable[Entry]) -> int:
        """See LiveStore.load."""
        prefix = _prefix(generation)
        items = ((prefix + key, _stored(value, expires)) for key, value, expires in entries)
        loaded = 0
        while chunk := list(itertools.islice(items, _LOAD_KEYS)):
            with self._writing() as transaction, transaction.cursor() as cursor:
                cursor.putmulti(chunk)
            loaded += len(chunk)
        return loaded

    def publish_generation(self, generation: int) -> None:
        """See LiveStore.publish_generation."""
        with self._writing() as transaction:
            current = _number(transaction, _CURRENT)
            if generation <= current:
                msg = f"{self.address}: generation {current} was published meanwhile; {BACKFILL}"
                raise ConflictError(msg)
            version = max(_number(transaction, _VERSION) + 1, time.time_ns() // 1_000)
            _set(transaction, _CURRENT, generation)
            _set(transaction, _VERSION, version)
        while self._delete_before(generation):
            pass

    def _delete_before(self, generation: int) -> bool:
        end = _prefix(generation)
        with self._writing() as transaction, transaction.cursor() as cursor:
            there = cursor.set_range(_prefix(1))
            for _ in range(_LOAD_KEYS):
                if not there or bytes(cursor.key()) >= end:
                    return False
                there = cursor.delete()
        return True

    def entries(self) -> Iterator[Entry]:
        """See LiveStore.entries; commits go on meanwhile."""
        with (
            self._explained(),
            self._environment.lmdb.begin() as transaction,
            transaction.cursor() as cursor,
        ):
            prefix = _prefix(self._published(transaction))
            cursor.set_range(prefix)
            for key, stored in cursor:
                if key[:4] != prefix:
                    return
                if key[4:] != META_KEY:
                    expires_us = _NUMBER.unpack_from(stored)[0]
                    yield bytes(key[4:]), bytes(stored[_EXPIRY:]), expires_us or None

    def close(self) -> None:
        """See LiveStore.close; the file is closed with the last store of this process on it."""
        environment = self.__dict__.pop("_environment", None)
        if environment is not None and self._wrote:
            with self._explained():
                environment.flush()

    def _published(self, transaction: lmdb.Transaction) -> int:
        generation = _number(transaction, _CURRENT)
        if not generation:
            msg = f"the live store {self.address} is empty; {BACKFILL}"
            raise NotFoundError(msg)
        return generation

    @contextmanager
    def _writing(self) -> Iterator[lmdb.Transaction]:
        """A write transaction, committed at the end; waits a bounded time for other writers."""
        self._wrote = True
        with self._explained(), self._environment.transaction() as transaction:
            yield transaction

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except lmdb.MapFullError as error:
            msg = (
                f"the live store {self.address} has reached {self._map_bytes} bytes; open it with "
                f"a larger map, or {BACKFILL} to leave out what is old"
            )
            raise StoreUnavailableError(msg) from error
        except (lmdb.Error, OSError) as error:
            msg = f"cannot use the live store {self.address}: {error}. Mend it, then retry"
            raise StoreUnavailableError(msg) from error


def _prefix(generation: int) -> bytes:
    return generation.to_bytes(4, "big")


def _stored(value: bytes, expires_us: int | None) -> bytes:
    return _NUMBER.pack(expires_us or 0) + value


def _number(transaction: lmdb.Transaction, key: bytes) -> int:
    value = transaction.get(key)
    return 0 if value is None else int(_NUMBER.unpack(value)[0])


def _set(transaction: lmdb.Transaction, key: bytes, number: int) -> None:
    transaction.put(key, _NUMBER.pack(number))
