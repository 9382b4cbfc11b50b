"""Publishing the online store: an immutable snapshot, then one atomic pointer swap."""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

import lmdb
import pyarrow as pa

from ibook_assets.core.errors import ContractError, StoreUnavailableError
from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.features.packing import (
    absent_columns,
    in_known_order,
)
from ibook_assets.core.features.plan import Layout, layouts_of
from ibook_assets.core.features.spec import FeatureView
from ibook_assets.stores.online.format import (
    DATA,
    FORMAT,
    LEASE,
    META,
    POINTER,
    STAGING_PREFIX,
    SnapshotMeta,
    file_sha256,
)
from ibook_assets.stores.online.packed import Item, packed_events, packed_records

_OVERHEAD: Final = 64
"""Bytes a record costs beside itself, generously; large ones also round up to pages."""
_PAGE: Final = 4_096
_SPARE: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class Published:
    """A snapshot that readers now see."""

    snapshot_id: str
    as_of_us: int
    entities: int
    """Records of all entity kinds together."""
    bytes: int


class OnlineWriter:
    """Publishes snapshots below `root`; `keep` of them stay, and any that is still read."""

    def __init__(self, root: Path, *, keep: int = 2) -> None:
        if keep < 1:
            msg = f"keep is {keep}; the current snapshot must stay, so it is at least 1"
            raise ContractError(msg)
        self._root = root
        self._keep = keep

    def publish(
        self,
        sources: Mapping[str, pa.Table | None],
        events: pa.Table | None,
        *,
        as_of_us: int,
        views: Sequence[FeatureView] = FEATURE_VIEWS,
        precommit: Callable[[], None] | None = None,
    ) -> Published:
        """Make everything known before `as_of_us` what readers see.

        Args:
            sources: fact tables by name; None declares one that does not exist.
            events: the catalogue (tables.EVENTS), or None.
            as_of_us: facts at or after it are left out.
            views: what must be answerable.
            precommit: called when the snapshot is durable, just before readers see it; what it
                raises leaves them the old one.

        Raises:
            ContractError: a source is missing or has wrong columns.
            StoreUnavailableError: the disk is full or refuses; readers keep the old snapshot.
        """
        layouts = layouts_of(views)
        missing = {layout.source for layout in layouts} - sources.keys()
        if missing:
            msg = f"publish needs {sorted(missing)}; pass None for a table that does not exist"
            raise ContractError(msg)
        ordered = {n: None if t is None else in_known_order(t, n) for n, t in sources.items()}
        staging = self._root / f"{STAGING_PREFIX}{uuid4().hex}"
        try:
            staging.mkdir(parents=True)
            entities = _write_records(staging, layouts, ordered, events, as_of_us)
            meta = SnapshotMeta(
                format=FORMAT,
                as_of_us=as_of_us,
                spec_hashes={view.name: view.spec_hash for view in views},
                layouts=layouts,
                absent=tuple(_absent_positions(x, ordered[x.source]) for x in layouts),
                entities=entities,
                data_sha256=file_sha256(staging / DATA),
            )
            return self._reveal(staging, meta, precommit)
        except (OSError, lmdb.Error) as error:
            msg = f"cannot publish below {self._root}: {error}. Free space or mend it, then retry"
            raise StoreUnavailableError(msg) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _reveal(
        self, staging: Path, meta: SnapshotMeta, precommit: Callable[[], None] | None
    ) -> Published:
        size = (staging / DATA).stat().st_size
        _write_durably(staging / META, meta.encoded())
        _write_durably(staging / LEASE, b"")
        _sync(staging)
        folder = self._root / meta.snapshot_id
        if not folder.exists():
            staging.rename(folder)
            _sync(self._root)
        swap = self._root / f"{STAGING_PREFIX}{uuid4().hex}"
        _write_durably(swap, meta.snapshot_id.encode())
        try:
            if precommit is not None:
                precommit()
            swap.replace(self._root / POINTER)
        finally:
            swap.unlink(missing_ok=True)
        _sync(self._root)
        self._collect(folder)
        return Published(meta.snapshot_id, meta.as_of_us, meta.entities, size)

    def _collect(self, current: Path) -> None:
        """Delete snapshots that are neither among the newest nor locked by a reader."""
        others = [p.parent for p in self._root.glob(f"*/{META}") if p.parent != current]
        others.sort(key=lambda folder: (folder / META).stat().st_mtime_ns, reverse=True)
        for folder in others[self._keep - 1 :]:
            with (folder / LEASE).open("rb") as lease:
                try:
                    fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                shutil.rmtree(folder)


def _absent_positions(layout: Layout, table: pa.Table | None) -> tuple[int, ...] | None:
    absent = absent_columns(layout, table)
    return None if absent is None else tuple(layout.columns.index(c) for c in absent)


def _write_records(
    staging: Path,
    layouts: Sequence[Layout],
    sources: Mapping[str, pa.Table | None],
    events: pa.Table | None,
    as_of_us: int,
) -> int:
    groups: list[list[Item]] = []
    for number, layout in enumerate(layouts):
        table = sources[layout.source]
        if table is not None and absent_columns(layout, table) is not None:
            groups.append(list(packed_records(number, table, layout, as_of_us)))
    if events is not None:
        groups.append(list(packed_events(events)))
    sizes = [_stored_bytes(len(value)) for items in groups for _, value in items]
    environment = lmdb.open(
        str(staging), map_size=2 * sum(sizes) + _SPARE, lock=False, max_dbs=0, sync=True
    )
    try:
        with environment.begin(write=True) as transaction, transaction.cursor() as cursor:
            cursor.putmulti(itertools.chain.from_iterable(groups), append=True)
    finally:
        environment.close()
    return len(sizes)


def _stored_bytes(length: int) -> int:
    stored = length + _OVERHEAD
    return stored if stored < _PAGE // 2 else -(-stored // _PAGE) * _PAGE


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
