"""What tests of live stores share: filling one, and merging facts into it as a worker does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.features.packing import in_known_order, pack_rows
from ibook_assets.core.features.plan import Layout, layouts_of
from ibook_assets.core.features.spec import FeatureView
from ibook_assets.stores.online.format import PROGRESS_KEY, key_of, record_expires_us
from ibook_assets.stores.online.live import Entry, LiveStore, Position, Write
from ibook_assets.stores.online.merging import merge_all

PART = "raw.transactions/0"


def publish(
    store: LiveStore,
    entries: Sequence[Entry] = (),
    *,
    base_us: int = 0,
    views: Sequence[FeatureView] = FEATURE_VIEWS,
) -> int:
    """A new generation with `entries`, for all to read."""
    hashes = {view.name: view.spec_hash for view in views}
    generation = store.begin_generation(layouts_of(views), hashes, base_us)
    store.load(generation, entries)
    store.publish_generation(generation)
    return generation


def put(store: LiveStore, writes: Mapping[bytes, bytes | Write]) -> bool:
    """Commit `writes` on whatever is there."""
    typed = {k: w if isinstance(w, Write) else Write(w) for k, w in writes.items()}
    return store.commit(store.read([]).version, typed)


def applied(store: LiveStore, watermark_us: int) -> Write:
    """Progress of the only partition."""
    progress = store.progress().advanced({PART: Position(0, watermark_us)})
    return Write(progress.encoded())


def apply(
    store: LiveStore,
    sources: Mapping[str, pa.Table | None],
    watermark_us: int,
    views: Sequence[FeatureView] = FEATURE_VIEWS,
) -> None:
    """Merge facts into all records and move the watermark, in one commit."""
    for number, layout in enumerate(layouts_of(views)):
        table = sources[layout.source]
        if table is not None:
            merge_table(store, number, layout, in_known_order(table, layout.source))
    assert put(store, {PROGRESS_KEY: applied(store, watermark_us)})


def merge_table(store: LiveStore, number: int, layout: Layout, table: pa.Table) -> None:
    """Merge `table` into the records of one layout, in a commit of its own."""
    ids, rows, starts = pack_rows(table, layout)
    keys = [key_of(bytes([number]), entity) for entity in ids.tolist()]
    version, records, _ = store.read(keys)
    merged = merge_all(records, rows, starts, layout, store.progress().watermark_us)
    writes = {
        key: Write(tail, offset, record_expires_us(layout, tail))
        for key, (offset, tail) in zip(keys, merged, strict=True)
    }
    assert store.commit(version, writes)
