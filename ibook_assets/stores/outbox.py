"""Outboxes: messages that processes of one machine must not lose until they are shipped.

```
<folder>/data.mdb       LMDB, written and read by many processes, shipped by one
  <outbox>              number (8 bytes) -> time, key and message, in the order they came
  <outbox>.keys         key, 0, number -> nothing
  counters              the last number given out and the last one shipped, of each outbox
```

A commit is one transaction that is on the disk when it returns: a process killed at any
instruction leaves all or nothing of a batch, and a power cut takes the last commit at most.
Messages stay for look-up after they were shipped, until they are too old or too many; what was
not shipped is never evicted.
"""

from __future__ import annotations

import fcntl
import struct
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import lmdb

from ibook_assets.core.errors import IntegrityError, StoreUnavailableError
from ibook_assets.stores.boots import boot_id, forget_lost

EVICTED_AT_ONCE: Final = 2_000
"""Messages that one transaction evicts: others wait to write meanwhile."""
MAX_KEY: Final = 400
"""Characters of a message's key."""

_HEADROOM: Final = 2
"""The file may grow to this many times what is kept of shipped messages."""
_READERS: Final = 1_024
_DATABASES: Final = 16
_COUNTERS: Final = b"counters"
_NUMBER: Final = struct.Struct(">Q")
_HEAD: Final = struct.Struct(">QH")
_END: Final = b"\0"


class Environment:
    """An open database; open it in the process that uses it, it must not cross a fork."""

    def __init__(self, folder: Path, max_bytes: int, *, durable: bool = True) -> None:
        """Open or make the database.

        Args:
            folder: where it is.
            max_bytes: what is kept of shipped messages; the file may grow to twice that.
            durable: commits are on the disk when they return. Otherwise they cost a hundredth,
                outlive processes only, and after a crash of the machine the database is empty.
        """
        self.folder = folder
        self.max_bytes = max_bytes
        with self.explained(), _opening(folder, forget_crashed=not durable):
            self._lmdb = lmdb.open(
                str(folder),
                map_size=_HEADROOM * max_bytes,
                max_dbs=_DATABASES,
                max_readers=_READERS,
                # Data is flushed with each commit, the root that shows it with the next one.
                metasync=False,
                # Where a crash cannot be told from a restart, nothing may be half written.
                sync=durable or not boot_id(),
                readahead=False,
            )
            weakref.finalize(self, self._lmdb.close)
            # Killed readers keep their places, and with them pages that nobody needs.
            self._lmdb.reader_check()
        self._databases: dict[bytes, Any] = {}

    def database(self, name: bytes) -> Any:  # noqa: ANN401 - lmdb has no type for it
        """The database of that name, made when it is not there."""
        with self.explained():
            if name not in self._databases:
                self._databases[name] = self._lmdb.open_db(name)
            return self._databases[name]

    @contextmanager
    def writing(self) -> Iterator[lmdb.Transaction]:
        """A write transaction, committed at the end."""
        with self.explained(), self._lmdb.begin(write=True) as transaction:
            yield transaction

    @contextmanager
    def reading(self) -> Iterator[lmdb.Transaction]:
        """A view of one moment; writers go on meanwhile."""
        with self.explained(), self._lmdb.begin() as transaction:
            yield transaction

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Errors of the database inside become StoreUnavailableError."""
        try:
            yield
        except lmdb.MapFullError as error:
            msg = (
                f"{self.folder} is full ({_HEADROOM * self.max_bytes:,} bytes) of what has not "
                "been shipped: the recorder's log says why; IBOOK_TRACE_STORE_BYTES allows more"
            )
            raise StoreUnavailableError(msg) from error
        except (lmdb.Error, OSError) as error:
            msg = f"{self.folder} cannot be used as a trace store: {error}"
            raise StoreUnavailableError(msg) from error

    def used_bytes(self) -> int:
        """Bytes of the pages that hold something."""
        with self.reading() as transaction:
            stats = [transaction.stat(database) for database in self._databases.values()]
        pages = sum(s["branch_pages"] + s["leaf_pages"] + s["overflow_pages"] for s in stats)
        return int(pages * self._lmdb.stat()["psize"])


@contextmanager
def _opening(folder: Path, *, forget_crashed: bool) -> Iterator[None]:
    """Nobody else opens it; what a machine that crashed left half written is deleted before."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "opening").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        boot = folder / "boot"
        if forget_crashed:
            forget_lost(boot)
            boot.write_text(boot_id())
        yield


# LMDB refuses to open one database twice in a process, so everybody shares what is open.
_OPEN: Final[weakref.WeakValueDictionary[Path, Environment]] = weakref.WeakValueDictionary()
_OPENING: Final = threading.Lock()


def open_environment(folder: Path, max_bytes: int, *, durable: bool = True) -> Environment:
    """This process's environment in `folder`; StoreUnavailableError when it cannot be opened."""
    with _OPENING:
        found = _OPEN.get(folder.resolve())
        if found is None:
            found = Environment(folder, max_bytes, durable=durable)
            _OPEN[folder.resolve()] = found
        return found


class Entry(NamedTuple):
    """A message on its way in."""

    key: str
    """What it is looked up by, at most MAX_KEY characters of ASCII; several may share one."""
    known_us: int
    """When it became known (microseconds): its age counts from here."""
    message: bytes


class Stored(NamedTuple):
    """A message as it is kept."""

    number: int
    """Position in the order messages came, from 1 on."""
    key: str
    known_us: int
    message: bytes


class Outbox:
    """One queue of messages. All methods raise StoreUnavailableError when the disk fails."""

    def __init__(self, environment: Environment, name: str) -> None:
        self._environment = environment
        self._name = name
        self._messages = environment.database(name.encode())
        self._keys = environment.database(f"{name}.keys".encode())
        self._counters = environment.database(_COUNTERS)
        self._last = f"{name}.last".encode()
        self._shipped = f"{name}.shipped".encode()

    def append(self, entries: Sequence[Entry]) -> None:
        """Keep all of `entries`, durably, or none."""
        with self._environment.writing() as transaction:
            self._append(transaction, entries)

    def append_new(self, entry: Entry) -> bool:
        """Keep `entry` unless there is one with its key; whether it was kept."""
        with self._environment.writing() as transaction:
            if next(self._numbers(transaction, entry.key), None) is not None:
                return False
            self._append(transaction, [entry])
            return True

    def find(self, key: str) -> list[Stored]:
        """Messages of that key, oldest first.

        Raises:
            IntegrityError: what is stored is not a message of that key.
        """
        with self._environment.reading() as transaction:
            found = []
            for number in self._numbers(transaction, key):
                value = transaction.get(_NUMBER.pack(number), db=self._messages)
                if value is not None:
                    found.append(self._stored(number, bytes(value)))
            return found

    def unshipped(self, limit: int) -> list[Stored]:
        """The oldest messages that are not shipped, at most `limit`.

        A damaged one comes as it is, without its key and known now: whoever gets it refuses it.
        """
        with self._environment.reading() as transaction:
            first = self._counter(transaction, self._shipped) + 1
            return list(self._from(transaction, first, limit, as_is=True))

    def backlog(self) -> int:
        """How many messages are not shipped."""
        with self._environment.reading() as transaction:
            last = self._counter(transaction, self._last)
            return last - self._counter(transaction, self._shipped)

    def mark_shipped(self, number: int) -> None:
        """Messages up to `number` have arrived: they may be evicted, and are not shipped again."""
        with self._environment.writing() as transaction:
            before = self._counter(transaction, self._shipped)
            transaction.put(self._shipped, _NUMBER.pack(max(before, number)), db=self._counters)

    def newest(self, limit: int) -> list[Stored]:
        """The newest messages, newest first, at most `limit`."""
        with self._environment.reading() as transaction:
            last = self._counter(transaction, self._last)
            found = list(self._from(transaction, max(1, last - limit + 1), limit))
        return found[::-1]

    def evict(self, *, before_us: int) -> int:
        """Forget shipped messages known before `before_us`, and as many as are too many."""
        evicted = 0
        while True:
            excess = self._environment.used_bytes() > self._environment.max_bytes
            count = self._evict(None if excess else before_us)
            evicted += count
            if count < EVICTED_AT_ONCE:
                return evicted

    def _append(self, transaction: lmdb.Transaction, entries: Sequence[Entry]) -> None:
        number = self._counter(transaction, self._last)
        messages, keys = [], []
        for key, known_us, message in entries:
            number += 1
            packed, name = _NUMBER.pack(number), key.encode()
            messages.append((packed, _HEAD.pack(known_us, len(name)) + name + message))
            keys.append((name + _END + packed, b""))
        with transaction.cursor(self._messages) as cursor:
            cursor.putmulti(messages, append=True)
        with transaction.cursor(self._keys) as cursor:
            cursor.putmulti(keys)
        transaction.put(self._last, _NUMBER.pack(number), db=self._counters)

    def _numbers(self, transaction: lmdb.Transaction, key: str) -> Iterator[int]:
        prefix = key.encode() + _END
        if len(prefix) > MAX_KEY:
            return
        with transaction.cursor(self._keys) as cursor:
            there = cursor.set_range(prefix)
            while there and (found := bytes(cursor.key())).startswith(prefix):
                yield _NUMBER.unpack(found[len(prefix) :])[0]
                there = cursor.next()

    def _from(
        self, transaction: lmdb.Transaction, first: int, limit: int, *, as_is: bool = False
    ) -> Iterator[Stored]:
        with transaction.cursor(self._messages) as cursor:
            there = cursor.set_range(_NUMBER.pack(first))
            while there and limit > 0:
                number = _NUMBER.unpack(cursor.key())[0]
                yield self._stored(number, bytes(cursor.value()), as_is=as_is)
                there = cursor.next()
                limit -= 1

    def _stored(self, number: int, value: bytes, *, as_is: bool = False) -> Stored:
        try:
            known_us, length = _HEAD.unpack_from(value)
            key = value[_HEAD.size : _HEAD.size + length].decode("ascii")
        except (struct.error, UnicodeDecodeError) as error:
            if as_is:
                return Stored(number, "", time.time_ns() // 1_000, value)
            raise IntegrityError(
                path=f"message {number} of {self._name} in {self._environment.folder}",
                expected="that of a message with its key",
                found=f"(unreadable: {error})",
            ) from error
        return Stored(number, key, known_us, value[_HEAD.size + length :])

    def _counter(self, transaction: lmdb.Transaction, name: bytes) -> int:
        value = transaction.get(name, db=self._counters)
        return 0 if value is None else int(_NUMBER.unpack(value)[0])

    def _evict(self, before_us: int | None) -> int:
        """Forget the oldest shipped messages, of any age without `before_us`; how many."""
        with self._environment.writing() as transaction:
            shipped = self._counter(transaction, self._shipped)
            old = [
                stored
                for stored in self._from(transaction, 1, EVICTED_AT_ONCE, as_is=True)
                if stored.number <= shipped and (before_us is None or stored.known_us < before_us)
            ]
            for stored in old:
                packed = _NUMBER.pack(stored.number)
                transaction.delete(packed, db=self._messages)
                transaction.delete(stored.key.encode() + _END + packed, db=self._keys)
            return len(old)
