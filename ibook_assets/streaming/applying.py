"""Applying released rows to the live store: read, merge, commit, or nothing at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import pyarrow as pa

from ibook_assets.core.arrow import Column, pc
from ibook_assets.core.errors import IbookError, StoreUnavailableError
from ibook_assets.core.features.packing import in_known_order, pack_rows
from ibook_assets.core.features.plan import Layout
from ibook_assets.stores.online.format import (
    EVENT_PREFIX,
    ORDER_PREFIX,
    PROGRESS_KEY,
    REFUND_PREFIX,
    VIEW_PREFIX,
    OrderRecord,
    key_of,
    pack_seen,
    record_expires_us,
    seen_expires_us,
    unpack_seen,
)
from ibook_assets.stores.online.live import LiveStore, Position, Progress, Write, progress_of
from ibook_assets.stores.online.merging import merge_all
from ibook_assets.streaming.cataloguing import NO_NEWS, News, catalogue_of
from ibook_assets.streaming.recognising import Memory, facts_of

ATTEMPTS: Final = 20
"""Commits that others may win before this one gives up for a while."""

_ORDER_TABLES: Final = ("transactions", "refunds", "outcomes")


class OvertakenError(IbookError):
    """Another worker has applied these partitions: they are not ours any more."""


class Applier:
    """Commits rows and progress of some partitions to one live store."""

    def __init__(self, store: LiveStore) -> None:
        """Begin.

        Args:
            store: one whose published generation has this code's definitions.

        Raises:
            ContractError: it has others; nothing can be merged into those.
        """
        self._store = store
        self._layouts = store.require().layouts

    def commit(
        self,
        raw: Mapping[str, pa.Table],
        *,
        before: Mapping[str, Position],
        after: Mapping[str, Position],
        news: News = NO_NEWS,
        everybody: Iterable[str] = (),
    ) -> None:
        """Apply raw rows by table, and move progress from `before` to `after`.

        Args:
            raw: rows of our partitions that are complete up to the new positions' time.
            before: positions by partition that must still be the store's.
            after: theirs when the rows are in.
            news: of the catalogue, read as far as the rows need it.
            everybody: partitions that anybody reads; the watermark waits for all of them.

        Raises:
            OvertakenError: the store's progress is not `before`; nothing changed.
            StoreUnavailableError: the store does not answer, or others commit all the time.
        """
        for _ in range(ATTEMPTS):
            attempt = _Attempt(self._store, self._layouts)
            progress = attempt.progress(before).including(everybody)
            fresh = news.beyond(progress)
            writes = {key_of(EVENT_PREFIX, event): Write(a) for event, a in fresh.items()}
            if any(table.num_rows for table in raw.values()):
                writes |= attempt.writes_of(raw, progress.watermark_us, fresh)
            until_us = max((position.applied_us for position in after.values()), default=0)
            moved = progress.advanced({**after, **news.advanced(progress, until_us)})
            writes[PROGRESS_KEY] = Write(moved.encoded())
            if attempt.commit(writes):
                return
        msg = f"{ATTEMPTS} commits to the online store were overtaken by other workers'; retrying"
        raise StoreUnavailableError(msg)


class _Attempt:
    """Reads of one version of the store, and a commit that only succeeds on that version."""

    def __init__(self, store: LiveStore, layouts: Sequence[Layout]) -> None:
        self._store = store
        self._layouts = layouts
        self._version: int | None = None
        self._moved = False

    def progress(self, before: Mapping[str, Position]) -> Progress:
        """The store's progress; OvertakenError when it is not `before` for these partitions."""
        progress = progress_of(self._read([PROGRESS_KEY])[0])
        begun = progress.including(before)
        for name, ours in before.items():
            theirs = begun.positions[name]
            if theirs != ours:
                msg = f"{name} is at {theirs} in the store, not at our {ours}"
                raise OvertakenError(msg)
        return progress

    def writes_of(
        self, raw: Mapping[str, pa.Table], watermark_us: int, fresh: Mapping[int, bytes]
    ) -> dict[bytes, Write]:
        """What applying `raw` changes; `fresh` events are not in the store yet."""
        memory, events = self._recall(raw, fresh)
        facts = facts_of(raw, memory, events=events)
        writes = dict(_memory_writes(memory, raw))
        for number, layout in enumerate(self._layouts):
            table = facts.get(layout.source)
            if table is not None and table.num_rows:
                writes |= dict(self._merged(number, layout, table, watermark_us))
        return writes

    def commit(self, writes: Mapping[bytes, Write]) -> bool:
        """Whether everything was written; False when somebody else committed meanwhile."""
        if self._moved or self._version is None:
            return False
        return self._store.commit(self._version, writes)

    def _read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        reading = self._store.read(keys)
        if self._version is None:
            self._version = reading.version
        self._moved |= reading.version != self._version
        return reading.values

    def _found(self, prefix: bytes, ids: Sequence[int]) -> dict[int, bytes]:
        values = self._read([key_of(prefix, i) for i in ids])
        return {i: value for i, value in zip(ids, values, strict=True) if value is not None}

    def _recall(
        self, raw: Mapping[str, pa.Table], fresh: Mapping[int, bytes]
    ) -> tuple[Memory, pa.Table]:
        """What the store knows of the ids in `raw`, and the catalogue of its events."""
        orders = self._found(ORDER_PREFIX, _ids(raw, _ORDER_TABLES, "transaction_id"))
        refunds = self._found(REFUND_PREFIX, _ids(raw, ("refunds",), "refund_id"))
        views = self._found(VIEW_PREFIX, _ids(raw, ("views",), "view_id"))
        named = _ids(raw, ("transactions",), "event_id")
        events = self._found(EVENT_PREFIX, named)
        newer = {event: fresh[event] for event in named if event in fresh}
        memory = Memory(
            {i: OrderRecord.unpack(value) for i, value in orders.items()},
            {i: unpack_seen(value) for i, value in refunds.items()},
            {i: unpack_seen(value) for i, value in views.items()},
        )
        return memory, catalogue_of({**events, **newer})

    def _merged(
        self, number: int, layout: Layout, table: pa.Table, watermark_us: int
    ) -> Iterator[tuple[bytes, Write]]:
        ids, rows, starts = pack_rows(in_known_order(table, layout.source), layout)
        keys = [key_of(bytes([number]), entity) for entity in ids.tolist()]
        merged = merge_all(self._read(keys), rows, starts, layout, watermark_us)
        for key, (offset, tail) in zip(keys, merged, strict=True):
            yield key, Write(tail, offset, record_expires_us(layout, tail))


def _ids(raw: Mapping[str, pa.Table], tables: Iterable[str], column: str) -> list[int]:
    named: list[Column] = [raw[t][column].combine_chunks() for t in tables if t in raw]
    if not named:
        return []
    ids: list[int] = pc.unique(pa.concat_arrays(named)).to_pylist()
    return ids


def _memory_writes(memory: Memory, raw: Mapping[str, pa.Table]) -> Iterator[tuple[bytes, Write]]:
    """Everything remembered of ids that came now."""
    for i in _ids(raw, ("transactions",), "transaction_id"):
        order = memory.orders[i]
        yield key_of(ORDER_PREFIX, i), Write(order.pack(), expires_us=order.expires_us)
    for prefix, seen, table, column in (
        (REFUND_PREFIX, memory.refunds, "refunds", "refund_id"),
        (VIEW_PREFIX, memory.views, "views", "view_id"),
    ):
        for i in _ids(raw, (table,), column):
            expires_us = seen_expires_us(prefix, seen[i])
            yield key_of(prefix, i), Write(pack_seen(seen[i]), expires_us=expires_us)
