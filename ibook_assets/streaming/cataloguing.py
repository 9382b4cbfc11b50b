"""The catalogue of events as the log tells it, read by every worker whole.

Orders of one partition name events of any other, so no worker may wait for somebody else to have
read about them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
from kafka import KafkaConsumer

from ibook_assets.core.arrow import integers, pc
from ibook_assets.core.ids import MISSING_ID
from ibook_assets.core.messages import topic_of
from ibook_assets.core.tables import CATEGORIES, EVENTS
from ibook_assets.core.watermark import Partition
from ibook_assets.stores.intake import intake, log_records
from ibook_assets.stores.log import LogAddress, answering, open_consumer, partitions_of
from ibook_assets.stores.online.format import (
    EVENT_ATTRIBUTES,
    pack_attributes,
    unpack_attributes,
)
from ibook_assets.stores.online.live import Position, Progress, partition_name

TOPIC: Final = topic_of(EVENTS.name)

POLL_RECORDS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Learnt:
    """What a message said of an event."""

    partition: str
    """Where it said so, as the store's progress names it."""
    offset: int
    attributes: bytes
    """EVENT_ATTRIBUTES, packed."""


@dataclass(frozen=True, slots=True)
class News:
    """What may not be in the store yet, and how far the catalogue is read."""

    events: Mapping[int, Learnt]
    read: Mapping[str, int]
    """Next offset of each partition."""

    def beyond(self, progress: Progress) -> dict[int, bytes]:
        """Events that the store at `progress` knows less of."""
        positions = progress.positions
        return {
            event: learnt.attributes
            for event, learnt in self.events.items()
            if learnt.partition not in positions
            or learnt.offset >= positions[learnt.partition].offset
        }

    def advanced(self, progress: Progress, until_us: int) -> dict[str, Position]:
        """The catalogue's positions when this is in the store; none goes back."""
        start = Position(0, progress.base_us)
        found = {}
        for name, offset in self.read.items():
            held = progress.positions.get(name, start)
            found[name] = Position(max(offset, held.offset), max(until_us, held.applied_us))
        return found


NO_NEWS: Final = News({}, {})


class CatalogueReader:
    """Reads every partition of the catalogue's topic."""

    def __init__(self, address: LogAddress) -> None:
        """Connect; StoreUnavailableError when no broker answers."""
        self._address = address
        self._consumer: KafkaConsumer = open_consumer(address)
        self._places = partitions_of(address, self._consumer, TOPIC)
        self._consumer.assign(self._places)
        self._events: dict[int, Learnt] = {}
        self.read: dict[Partition, int] = {}
        """Next offset of each partition."""

    def restart(self, progress: Progress) -> None:
        """Read on from where the store is."""
        self._events.clear()
        for place in self._places:
            position = progress.positions.get(partition_name(*place))
            offset = position.offset if position else 0
            self._consumer.seek(place, offset)
            self.read[tuple(place)] = offset

    def poll(self) -> None:
        """Take what has come."""
        with answering(self._address):
            found = self._consumer.poll(timeout_ms=0, max_records=POLL_RECORDS)
        for place, records in found.items():
            taken = intake(TOPIC, log_records(records))
            for offset, (event, attributes) in zip(
                taken.offsets.tolist(), _packed(taken.rows), strict=True
            ):
                self._events[event] = Learnt(partition_name(*place), offset, attributes)
            self.read[tuple(place)] = records[-1].offset + 1

    def news(self) -> News:
        """What has been read since the last `forget`."""
        read = {partition_name(*place): offset for place, offset in self.read.items()}
        return News(dict(self._events), read)

    def forget(self) -> None:
        """What was read is in the store."""
        self._events.clear()

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()


def news_of(events: pa.Table) -> News:
    """A whole catalogue as news, with no place in the log."""
    return News({event: Learnt("", 0, a) for event, a in _packed(events)}, {})


def catalogue_of(packed: Mapping[int, bytes]) -> pa.Table:
    """Events as the facts' rules take them; what no feature reads is zero."""
    rows = []
    for event, value in packed.items():
        known = dict(zip(EVENT_ATTRIBUTES, unpack_attributes(value), strict=True))
        category = CATEGORIES[known.pop("category_code")]
        unread = {"venue_id": 0, "on_sale_ts": 0}
        rows.append({"event_id": event, "category": category, **known, **unread})
    return pa.Table.from_pylist(rows, schema=EVENTS.schema)


def _packed(events: pa.Table) -> Iterator[tuple[int, bytes]]:
    codes = pc.index_in(events["category"], value_set=pa.array(CATEGORIES))
    known = events.append_column("category_code", codes)
    columns = [
        integers(known[n], null=MISSING_ID).tolist() for n in ("event_id", *EVENT_ATTRIBUTES)
    ]
    for event, *attributes in zip(*columns, strict=True):
        yield event, pack_attributes(tuple(attributes))
