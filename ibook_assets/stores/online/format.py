"""Format of the online store: published snapshots, and keys and values that live stores share.

A snapshot:

```
<root>/current                    name of the snapshot to read, replaced atomically
<root>/<snapshot id>/data.mdb     LMDB: packed records per entity, event attributes
<root>/<snapshot id>/meta.json    SnapshotMeta; its hash is part of the snapshot's id
<root>/<snapshot id>/lease        locked (shared) by every reader while it reads
```

Keys of a live store, and when what they name has no more use:

```
<layout number> <entity id>       packed record             the layout's horizon after its last row
ff <event id>                     EVENT_ATTRIBUTES          never
fe <order id>                     OrderRecord               ORDER_LOOKBACK_DAYS after its day
fd <refund id>                    when it was last seen     ID_LOOKBACK_DAYS after its day
fc <view id>                      when it was last seen     the day after
f0 progress | meta                Progress, LiveMeta        never
```

Ids in keys are 8 bytes, big-endian; values are little-endian.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from ibook_assets.core.errors import ContractError, IntegrityError
from ibook_assets.core.fact_rules import ID_LOOKBACK_DAYS, ORDER_LOOKBACK_DAYS
from ibook_assets.core.features.plan import Layout, RecordColumn
from ibook_assets.core.times import DAY_US, HOUR_US, MINUTE_US

POINTER: Final = "current"
DATA: Final = "data.mdb"
META: Final = "meta.json"
LEASE: Final = "lease"
STAGING_PREFIX: Final = ".staging-"

FORMAT: Final = 1
EVENT_PREFIX: Final = b"\xff"
ORDER_PREFIX: Final = b"\xfe"
REFUND_PREFIX: Final = b"\xfd"
VIEW_PREFIX: Final = b"\xfc"
META_KEY: Final = b"\xf0meta"
PROGRESS_KEY: Final = b"\xf0progress"

LATENESS_US: Final = HOUR_US
"""How long before the watermark windows may end that a record still answers."""

CAP_LATENESS_US: Final = 2 * MINUTE_US
"""The same for records that hold more rows than their cap: they grow with it."""

EVENT_ATTRIBUTES: Final = (
    "promoter_id",
    "category_code",
    "capacity",
    "list_price_cents",
    "starts_ts",
)
"""What the catalogue knows about an event, in the order it is packed; -1 is null."""


_ATTRIBUTES: Final = struct.Struct(f"<{len(EVENT_ATTRIBUTES)}q")
_ORDER: Final = struct.Struct("<7qi")
_SEEN: Final = struct.Struct("<q")


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


def pack_attributes(attributes: tuple[int, ...]) -> bytes:
    """EVENT_ATTRIBUTES of an event, -1 for null, as they are stored."""
    return _ATTRIBUTES.pack(*attributes)


def unpack_attributes(value: bytes | memoryview) -> tuple[int, ...]:
    """EVENT_ATTRIBUTES of a stored event, -1 for null."""
    return _ATTRIBUTES.unpack(value)


class OrderRecord(NamedTuple):
    """What refunds, outcomes and repetitions of an order need to know of it; ids are -1 for null.

    `known_ts` is -1 when the order itself is out of reach and only its id was seen again.
    """

    known_ts: int
    user_id: int
    event_id: int
    promoter_id: int
    card_id: int
    device_id: int
    ip_id: int
    last_seen_day: int
    """UTC day (since the epoch) on which the id came last, as an order or as a repetition."""

    def pack(self) -> bytes:
        """As it is stored."""
        return _ORDER.pack(*self)

    @classmethod
    def unpack(cls, value: bytes) -> OrderRecord:
        """A stored one."""
        return cls(*_ORDER.unpack(value))

    @property
    def expires_us(self) -> int:
        """From when on neither its entities nor its id are looked for."""
        joined = self.known_ts // DAY_US + ORDER_LOOKBACK_DAYS if self.known_ts >= 0 else 0
        return (max(joined, self.last_seen_day + ID_LOOKBACK_DAYS) + 1) * DAY_US


def pack_seen(known_ts: int) -> bytes:
    """When an id was last seen, as it is stored."""
    return _SEEN.pack(known_ts)


def unpack_seen(value: bytes) -> int:
    """When a stored id was last seen."""
    return int(_SEEN.unpack(value)[0])


def seen_expires_us(prefix: bytes, known_ts: int) -> int:
    """From when on an id, last seen at `known_ts`, is new again: whole days, as in `fact_rules`."""
    days = ID_LOOKBACK_DAYS if prefix == REFUND_PREFIX else 1
    return (known_ts // DAY_US + days + 1) * DAY_US


def record_expires_us(layout: Layout, record: bytes) -> int:
    """From when on no query reaches a row of `record`, of which a tail is enough."""
    at = len(record) - 8 * layout.width
    last = int.from_bytes(record[at : at + 8], "little", signed=True)
    return last + layout.horizon_us + LATENESS_US


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
