"""Published snapshots of the online store: immutable, verified, followed as new ones appear."""

from __future__ import annotations

import fcntl
import os
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import lmdb

from ibook_assets.core.errors import (
    ContractError,
    NotFoundError,
    StoreUnavailableError,
)
from ibook_assets.core.features.requests import Request
from ibook_assets.core.ids import check_name
from ibook_assets.stores.online.format import LEASE, POINTER, SnapshotMeta, read_meta
from ibook_assets.stores.online.reading import Definition, OnlineFeatures, Planner, answer

_OPEN_ATTEMPTS: Final = 3


class _Environment:
    """An open database; a snapshot's lease is held as long as this object lives."""

    def __init__(self, folder: Path) -> None:
        lease = os.open(folder / LEASE, os.O_RDONLY)
        weakref.finalize(self, os.close, lease)
        fcntl.flock(lease, fcntl.LOCK_SH)
        # The collector may have won the race for the lease, and is deleting now.
        self.meta: SnapshotMeta = read_meta(folder)
        self.lmdb = lmdb.open(str(folder), readonly=True, lock=False, readahead=False)
        weakref.finalize(self, self.lmdb.close)


# LMDB refuses to open one database twice in a process, so everybody shares what is open.
_OPEN: Final[weakref.WeakValueDictionary[Path, _Environment]] = weakref.WeakValueDictionary()
_OPENING: Final = threading.Lock()


def _environment(folder: Path) -> _Environment:
    with _OPENING:
        found = _OPEN.get(folder)
        if found is None:
            found = _OPEN[folder] = _Environment(folder)
        return found


class OnlineSnapshot:
    """One published snapshot: immutable, safe to read from several threads.

    Open it in the process that reads it; it must not cross a fork.
    """

    def __init__(self, folder: Path) -> None:
        """Open the snapshot in `folder`, verifying every byte of it.

        Raises:
            IntegrityError: a file is not what was published.
            NotFoundError: there is no such snapshot, or it has just been collected.
            StoreUnavailableError: the files cannot be read.
        """
        try:
            self._environment = _environment(folder.resolve())
        except FileNotFoundError as error:
            msg = f"{folder} is gone or incomplete; publish the online store again"
            raise NotFoundError(msg) from error
        except (OSError, lmdb.Error) as error:
            msg = f"cannot read {folder}: {error}"
            raise StoreUnavailableError(msg) from error
        self.meta = self._environment.meta
        self.snapshot_id = self.meta.snapshot_id
        self._planner = Planner(
            Definition(
                f"snapshot {self.snapshot_id}",
                "publish the online store with this code",
                self.meta.spec_hashes,
                self.meta.layouts,
                self.meta.absent,
            )
        )

    @property
    def as_of_us(self) -> int:
        """Facts known before this time are in it."""
        return self.meta.as_of_us

    def fetch(
        self, features: Sequence[str], rows: Sequence[Request], as_of_us: int | None = None
    ) -> OnlineFeatures:
        """The `features` of every row.

        Args:
            features: qualified names, `view:feature`.
            rows: columns of facts/transactions; what is unknown is left out. The event's
                attributes are taken from the catalogue, `known_ts` (the clock that row features
                read) from the as-of time.
            as_of_us: where windows end; the snapshot's own time when None, never before it.

        Raises:
            UnknownFeatureError: no view defines a feature.
            ContractError: a row or the time is not allowed, or the snapshot was published with
                another definition of a view.
        """
        as_of = self._as_of(as_of_us)
        prepared = self._planner.prepare(tuple(features))
        with self._environment.lmdb.begin(buffers=True) as transaction:
            found = self._planner.look_up(
                prepared, rows, lambda keys: [transaction.get(key) for key in keys]
            )
        values = answer(prepared, found, as_of)
        return OnlineFeatures(values, found.unknown, as_of, self.snapshot_id)

    def _as_of(self, as_of_us: int | None) -> int:
        if as_of_us is None:
            return self.as_of_us
        if as_of_us < self.as_of_us:
            msg = (
                f"as-of {as_of_us} is before the snapshot's {self.as_of_us}, which has forgotten "
                "older windows; read history from the feature tables of the lake"
            )
            raise ContractError(msg)
        return as_of_us


def current_snapshot_id(root: Path) -> str | None:
    """Id of the snapshot that readers below `root` should use; None before the first."""
    try:
        return check_name((root / POINTER).read_text().strip(), what="online snapshot")
    except FileNotFoundError:
        return None
    except OSError as error:
        msg = f"cannot read {root / POINTER}: {error}"
        raise StoreUnavailableError(msg) from error


class OnlineStore:
    """The newest snapshot below a folder, followed as new ones are published."""

    def __init__(self, root: Path, snapshot: OnlineSnapshot) -> None:
        self._root = root
        self._snapshot = snapshot

    @classmethod
    def open(cls, root: Path) -> OnlineStore:
        """Open the newest snapshot; NotFoundError before the first publication."""
        return cls(root, _open_current(root))

    def refresh(self) -> OnlineSnapshot:
        """The newest snapshot, opened when it is not the one in use."""
        newest = current_snapshot_id(self._root)
        if newest is not None and newest != self._snapshot.snapshot_id:
            self._snapshot = _open_current(self._root)
        return self._snapshot

    def fetch(
        self, features: Sequence[str], rows: Sequence[Request], as_of_us: int | None = None
    ) -> OnlineFeatures:
        """See OnlineSnapshot.fetch; always from the newest snapshot."""
        return self.refresh().fetch(features, rows, as_of_us)


def _open_current(root: Path) -> OnlineSnapshot:
    # Between reading the pointer and locking the lease, two publications may collect what it named.
    for attempt in range(_OPEN_ATTEMPTS):
        newest = current_snapshot_id(root)
        if newest is None:
            msg = f"nothing is published below {root}; materialise the online store asset first"
            raise NotFoundError(msg)
        try:
            return OnlineSnapshot(root / newest)
        except NotFoundError:
            if attempt == _OPEN_ATTEMPTS - 1:
                raise
    raise AssertionError
