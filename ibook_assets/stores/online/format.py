"""Format of the online store's snapshots, shared by its writer and its readers.

```
<root>/current                    name of the snapshot to read, replaced atomically
<root>/<snapshot id>/data.mdb     LMDB: packed records per entity, event attributes
<root>/<snapshot id>/meta.json    SnapshotMeta; its hash is part of the snapshot's id
<root>/<snapshot id>/lease        locked (shared) by every reader while it reads
```
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from ibook_assets.core.errors import ContractError, IntegrityError
from ibook_assets.core.features.plan import Layout, RecordColumn

POINTER: Final = "current"
DATA: Final = "data.mdb"
META: Final = "meta.json"
LEASE: Final = "lease"
STAGING_PREFIX: Final = ".staging-"

FORMAT: Final = 1
EVENT_PREFIX: Final = b"\xff"
EVENT_ATTRIBUTES: Final = (
    "promoter_id",
    "category_code",
    "capacity",
    "list_price_cents",
    "starts_ts",
)
"""What the catalogue knows about an event, in the order it is packed; -1 is null."""


@dataclass(frozen=True)
class SnapshotMeta:
    """What a snapshot holds."""

    format: int
    as_of_us: int
    """Facts known before this time are in it."""
    spec_hashes: dict[str, str]
    layouts: tuple[Layout, ...]
    absent: tuple[tuple[int, ...] | None, ...]
    """Per layout, positions of columns its source did not have; None: the source had nothing."""
    entities: int
    data_sha256: str

    def encoded(self) -> bytes:
        """Canonical JSON."""
        return msgspec.json.encode(self, order="deterministic")

    @property
    def snapshot_id(self) -> str:
        """Time and content: `<as of, us>-<hash>`."""
        return f"{self.as_of_us}-{hashlib.sha256(self.encoded()).hexdigest()[:12]}"


def absent_of(layout: Layout, positions: tuple[int, ...] | None) -> tuple[RecordColumn, ...] | None:
    """Columns of `layout` that nothing is known of; None: of none at all."""
    return None if positions is None else tuple(layout.columns[k] for k in positions)


def key_of(prefix: bytes, entity_id: int) -> bytes:
    """Database key of an entity's record; keys sort as (prefix, id)."""
    return prefix + entity_id.to_bytes(8, "big")


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_meta(folder: Path) -> SnapshotMeta:
    """The meta data of the snapshot in `folder`, checked against its name and its data.

    Raises:
        IntegrityError: a file is not what was published.
        ContractError: the snapshot has a format this code does not read.
    """
    encoded = (folder / META).read_bytes()
    found = hashlib.sha256(encoded).hexdigest()[:12]
    expected = folder.name.rpartition("-")[2]
    if found != expected:
        raise IntegrityError(path=str(folder / META), expected=expected, found=found)
    meta = msgspec.json.decode(encoded, type=SnapshotMeta)
    if meta.format != FORMAT:
        msg = f"{folder} has format {meta.format}, this code reads {FORMAT}; publish again"
        raise ContractError(msg)
    data_sha256 = file_sha256(folder / DATA)
    if data_sha256 != meta.data_sha256:
        raise IntegrityError(path=str(folder / DATA), expected=meta.data_sha256, found=data_sha256)
    return meta
