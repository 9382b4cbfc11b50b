"""Applying released rows to the live store: read, merge, commit, or nothing at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple

import pyarrow as pa

from ibook_assets.core.arrow import Column, pc
from ibook_assets.core.errors import IbookError, StoreUnavailableError
from ibook_assets.core.features.kernel import Ints
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

_NAMED: Final = {
    ORDER_PREFIX: (("transactions", "refunds", "outcomes"), "transaction_id"),
    REFUND_PREFIX: (("refunds",), "refund_id"),
    VIEW_PREFIX: (("views",), "view_id"),
    EVENT_PREFIX: (("transactions",), "event_id"),
}
"""Tables and the column of theirs that names what the store may know, by its keys' prefix."""


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
        named = {prefix: _ids(raw, *where) for prefix, where in _NAMED.items()}
        for _ in range(ATTEMPTS):
            attempt = _Attempt(self._store, self._layouts)
            held = attempt.recall(named)
            progress = _continued(held.progress, before).including(everybody)
            fresh = news.beyond(progress)
            writes = {key_of(EVENT_PREFIX, event): Write(a) for event, a in fresh.items()}
            if any(table.num_rows for table in raw.values()):
                memory = held.memory()
                facts = facts_of(raw, memory, events=held.catalogue(named[EVENT_PREFIX], fresh))
                writes |= dict(_memory_writes(memory, raw))
                writes |= dict(attempt.merged(facts, progress.watermark_us))
            until_us = max((position.applied_us for position in after.values()), default=0)
            moved = progress.advanced({**after, **news.advanced(progress, until_us)})
            writes[PROGRESS_KEY] = Write(moved.encoded())
            if attempt.commit(writes):
                return
        msg = f"{ATTEMPTS} commits to the online store were overtaken by other workers'; retrying"
        raise StoreUnavailableError(msg)


class _Held(NamedTuple):
    """What the store knows before a commit."""

    progress: Progress
    found: Mapping[bytes, Mapping[int, bytes]]
    """Values by prefix of their keys and id."""

    def memory(self) -> Memory:
        """Of orders, refunds and views."""
        return Memory(
            {i: OrderRecord.unpack(value) for i, value in self.found[ORDER_PREFIX].items()},
            {i: unpack_seen(value) for i, value in self.found[REFUND_PREFIX].items()},
            {i: unpack_seen(value) for i, value in self.found[VIEW_PREFIX].items()},
        )

    def catalogue(self, events: Iterable[int], fresh: Mapping[int, bytes]) -> pa.Table:
        """The `events`, `fresh` ones not as the store has them."""
        newer = {event: fresh[event] for event in events if event in fresh}
        return catalogue_of({**self.found[EVENT_PREFIX], **newer})


class _Packed(NamedTuple):
    """New rows of one layout."""

    layout: Layout
    keys: list[bytes]
    rows: Ints
    starts: Ints


class _Attempt:
    """Two reads of one version of the store, and a commit that only succeeds on that version."""

    def __init__(self, store: LiveStore, layouts: Sequence[Layout]) -> None:
        self._store = store
        self._layouts = layouts
        self._version: int | None = None
        self._moved = False

    def recall(self, named: Mapping[bytes, Sequence[int]]) -> _Held:
        """The store's progress, and what it has of the ids by their keys' prefix."""
        keys = [key_of(prefix, i) for prefix, ids in named.items() for i in ids]
        progress, *values = self._read([PROGRESS_KEY, *keys])
        at = iter(values)
        found = {
            prefix: {
                i: value
                for i, value in zip(ids, islice(at, len(ids)), strict=True)
                if value is not None
            }
            for prefix, ids in named.items()
        }
        return _Held(progress_of(progress), found)

    def merged(
        self, facts: Mapping[str, pa.Table], watermark_us: int
    ) -> Iterator[tuple[bytes, Write]]:
        """What new facts change in the records of their entities."""
        packed = list(self._packed(facts))
        values = iter(self._read([key for some in packed for key in some.keys]))
        for layout, keys, rows, starts in packed:
            records = list(islice(values, len(keys)))
            merged = merge_all(records, rows, starts, layout, watermark_us)
            for key, (offset, tail) in zip(keys, merged, strict=True):
                yield key, Write(tail, offset, record_expires_us(layout, tail))

    def commit(self, writes: Mapping[bytes, Write]) -> bool:
        """Whether everything was written; False when somebody else committed meanwhile."""
        if self._moved or self._version is None:
            return False
        return self._store.commit(self._version, writes)

    def _packed(self, facts: Mapping[str, pa.Table]) -> Iterator[_Packed]:
        ordered = {name: in_known_order(t, name) for name, t in facts.items() if t.num_rows}
        for number, layout in enumerate(self._layouts):
            if layout.source in ordered:
                ids, rows, starts = pack_rows(ordered[layout.source], layout)
                keys = [key_of(bytes([number]), entity) for entity in ids.tolist()]
                yield _Packed(layout, keys, rows, starts)

    def _read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        reading = self._store.read(keys)
        if self._version is None:
            self._version = reading.version
        self._moved |= reading.version != self._version
        return reading.values


def _continued(progress: Progress, before: Mapping[str, Position]) -> Progress:
    """`progress`, which must be `before` for these partitions; OvertakenError otherwise."""
    begun = progress.including(before)
    for name, ours in before.items():
        theirs = begun.positions[name]
        if theirs != ours:
            msg = f"{name} is at {theirs} in the store, not at our {ours}"
            raise OvertakenError(msg)
    return progress


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
