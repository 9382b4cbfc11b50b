"""Facts and catalogue as the keys and values of a store."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from ibook_assets.core.arrow import pc
from ibook_assets.core.features.kernel import MISSING
from ibook_assets.core.features.packing import integers, pack_keys
from ibook_assets.core.features.plan import Layout
from ibook_assets.core.tables import CATEGORIES
from ibook_assets.stores.online.format import EVENT_ATTRIBUTES, EVENT_PREFIX, key_of

Item = tuple[bytes, bytes | memoryview]


def packed_records(number: int, table: pa.Table, layout: Layout, as_of_us: int) -> Iterator[Item]:
    """The record of every entity in `table` (facts in known order), in order of their keys."""
    prefix = bytes([number])
    ids, kept, starts = pack_keys(table, layout, as_of_us)
    data = kept.reshape(-1).view(np.uint8).data
    row_bytes = 8 * layout.width
    offsets = (starts * row_bytes).tolist()
    for entity_id, first, end in zip(ids.tolist(), offsets, offsets[1:], strict=False):
        if first < end:
            yield key_of(prefix, entity_id), data[first:end]


def packed_events(events: pa.Table) -> Iterator[Item]:
    """The attributes of every event of the catalogue, in order of their keys."""
    category = pc.index_in(events["category"], value_set=pa.array(CATEGORIES))
    known = events.append_column("category_code", pc.cast(category, pa.int64()))
    ids = integers(known["event_id"], None, "event_id")
    packed = np.full((len(ids), len(EVENT_ATTRIBUTES)), MISSING, np.int64)
    for k, name in enumerate(EVENT_ATTRIBUTES):
        if name in known.column_names:
            packed[:, k] = integers(known[name], None, name)
    for row in np.argsort(ids, kind="stable").tolist():
        yield key_of(EVENT_PREFIX, int(ids[row])), packed[row].tobytes()
