"""Reading the online store: features of requests from the newest published snapshot."""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import lmdb
import numpy as np

from ibook_assets.core.errors import (
    ContractError,
    NotFoundError,
    StoreUnavailableError,
)
from ibook_assets.core.facts import ENTITY_COLUMNS
from ibook_assets.core.features.catalog import resolve
from ibook_assets.core.features.kernel import MISSING, Floats, Ints
from ibook_assets.core.features.plan import plan_features
from ibook_assets.core.features.point import NO_ENTITY, UNKNOWN_ENTITY, PointPlan
from ibook_assets.core.features.requests import Request, check_columns, request_integers
from ibook_assets.core.features.spec import Transform
from ibook_assets.core.features.transforms import TRANSFORMS
from ibook_assets.core.ids import check_name
from ibook_assets.stores.online_format import (
    EVENT_ATTRIBUTES,
    EVENT_PREFIX,
    LEASE,
    POINTER,
    SnapshotMeta,
    key_of,
    read_meta,
)
from ibook_assets.stores.online_writer import OnlineWriter, Published

__all__ = [
    "OnlineFeatures",
    "OnlineSnapshot",
    "OnlineStore",
    "OnlineWriter",
    "Published",
    "current_snapshot_id",
    "fetch_online_features",
]

_PLANS: Final = 64
"""Feature lists whose plan a snapshot remembers."""

_OPEN_ATTEMPTS: Final = 3

_ATTRIBUTES: Final = struct.Struct(f"={len(EVENT_ATTRIBUTES)}q")


@dataclass(frozen=True, slots=True)
class OnlineFeatures:
    """Features of some requests."""

    values: Floats
    """(requests, features); NaN where undefined."""
    unknown: tuple[tuple[str, ...], ...]
    """Per request, the entities it names that the snapshot has never seen."""
    as_of_us: int
    """Time the windows end at."""
    snapshot_id: str


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


class _Prepared(NamedTuple):
    """A feature list, planned against one snapshot."""

    point: PointPlan
    names: tuple[str, ...]
    """Request columns to read."""
    entities: tuple[tuple[str, int, bytes], ...]
    """Per group: the entity, where its id is among `names`, prefix of its records' keys."""
    operands: tuple[tuple[int, Transform], ...]
    """Per row operand: where it is among `names`, how it is read."""
    attributes: tuple[tuple[int, int], ...]
    """Where the event's attributes are among `names`, and in their packed record."""


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
        self._prepared: dict[tuple[str, ...], _Prepared] = {}

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
        prepared = self._prepare(tuple(features))
        check_columns(rows)
        values = request_integers(rows, prepared.names)
        with self._environment.lmdb.begin(buffers=True) as transaction:
            _complete(transaction, values, prepared, as_of)
            buffer, places, unknown = _gather(transaction, values, prepared)
        requests = [
            [MISSING if row[at] < 0 else TRANSFORMS[how](row[at]) for at, how in prepared.operands]
            for row in values
        ]
        answer = prepared.point.answer(
            buffer,
            places,
            np.full(len(rows), as_of, np.int64),
            np.array(requests, np.int64).reshape(len(rows), len(prepared.operands)),
        )
        return OnlineFeatures(answer, unknown, as_of, self.snapshot_id)

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

    def _prepare(self, features: tuple[str, ...]) -> _Prepared:
        found = self._prepared.get(features)
        if found is None:
            found = self._plan(features)
            if len(self._prepared) >= _PLANS:
                self._prepared.clear()
            self._prepared[features] = found
        return found

    def _plan(self, features: tuple[str, ...]) -> _Prepared:
        pairs = [resolve(name) for name in features]
        for view, _ in pairs:
            published = self.meta.spec_hashes.get(view.name)
            if published != view.spec_hash:
                held = f"at spec {published[:12]}" if published else "not at all"
                msg = (
                    f"snapshot {self.snapshot_id} holds {view.name} {held}, this code defines "
                    f"{view.spec_hash[:12]}; publish the online store with this code"
                )
                raise ContractError(msg)
        plan = plan_features(pairs, self.meta.layouts)
        number = {layout.key: n for n, layout in enumerate(self.meta.layouts)}
        absent = [self.meta.absent_columns(number[g.layout.key]) for g in plan.groups]
        plan = plan.without(absent)
        names = {ENTITY_COLUMNS[g.layout.entity]: None for g in plan.groups}
        names |= dict.fromkeys(["event_id", *(name for name, _ in plan.row_operands)])
        at = {name: k for k, name in enumerate(names)}
        return _Prepared(
            PointPlan.of(plan),
            tuple(names),
            tuple(
                (
                    g.layout.entity,
                    at[ENTITY_COLUMNS[g.layout.entity]],
                    bytes([number[g.layout.key]]),
                )
                for g in plan.groups
            ),
            tuple((at[name], transform) for name, transform in plan.row_operands),
            tuple((at[n], k) for k, n in enumerate(EVENT_ATTRIBUTES) if n in at),
        )


def _complete(
    transaction: lmdb.Transaction, values: list[list[int]], prepared: _Prepared, as_of_us: int
) -> None:
    """Fill in what a request need not say: its time and its event's attributes."""
    event = prepared.names.index("event_id")
    clock = prepared.names.index("known_ts") if "known_ts" in prepared.names else None
    for row in values:
        if clock is not None and row[clock] < 0:
            row[clock] = as_of_us
        if prepared.attributes and row[event] >= 0:
            packed = transaction.get(key_of(EVENT_PREFIX, row[event]))
            if packed is not None:
                known = _ATTRIBUTES.unpack(packed)
                for at, k in prepared.attributes:
                    if row[at] < 0:
                        row[at] = known[k]


def _gather(
    transaction: lmdb.Transaction, values: list[list[int]], prepared: _Prepared
) -> tuple[Ints, Ints, tuple[tuple[str, ...], ...]]:
    """Records of all entities in one buffer, where each row's are, and who is unknown."""
    buffer = bytearray()
    places = np.empty((len(values), len(prepared.entities), 2), np.int64)
    seen: dict[bytes, tuple[int, int]] = {}
    unknown = []
    for r, row in enumerate(values):
        named: dict[str, bool] = {}
        for g, (entity, at, prefix) in enumerate(prepared.entities):
            if row[at] < 0:
                places[r, g] = 0, NO_ENTITY
                continue
            key = key_of(prefix, row[at])
            place = seen.get(key)
            if place is None:
                record = transaction.get(key)
                if record is None:
                    place = 0, UNKNOWN_ENTITY
                else:
                    place = len(buffer) // 8, len(record) // 8
                    buffer += record
                seen[key] = place
            places[r, g] = place
            named[entity] = named.get(entity, False) or place[1] > 0
        unknown.append(tuple(entity for entity, known in named.items() if not known))
    return np.frombuffer(buffer, np.int64), places, tuple(unknown)


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


def fetch_online_features(
    store: OnlineStore | OnlineSnapshot,
    *,
    features: Sequence[str],
    rows: Sequence[Request],
    as_of_us: int | None = None,
) -> OnlineFeatures:
    """The `features` (`view:feature`) of every row; see OnlineSnapshot.fetch."""
    return store.fetch(features, rows, as_of_us)
