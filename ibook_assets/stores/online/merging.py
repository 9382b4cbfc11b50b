"""Merging new facts into the records of their entities, late ones in their place.

A record is an anchor, then rows in time order with running totals. Merging gives the part of it
that changed: whatever the split of facts into batches, and whatever the order in which batches of
several workers come, point queries answer as if all facts had been packed at once.
"""

# Compiled functions take their arrays by position.
# ruff: noqa: PLR0917

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ibook_assets.core.arrow import Mask
from ibook_assets.core.features.kernel import Ints, compiled, inner
from ibook_assets.core.features.plan import Layout
from ibook_assets.stores.online.format import CAP_LATENESS_US, LATENESS_US


class Merged(NamedTuple):
    """What became of a record: its bytes from `offset` on are now `tail`."""

    offset: int
    tail: bytes


@inner
def _first_after(records: Ints, time: int) -> int:
    """The first row, after the anchor, that is later than `time`."""
    low = 1
    high = len(records)
    while low < high:
        middle = (low + high) // 2
        if records[middle, 0] <= time:
            low = middle + 1
        else:
            high = middle
    return low


@inner
def _time(old: Ints, kept: int, tail: Ints, row: int) -> int:
    return int(old[row, 0] if row < kept else tail[row - kept, 0])


@inner
def _before(old: Ints, kept: int, tail: Ints, time: int) -> int:
    """How many rows, the anchor left out, are before `time`."""
    low = 1
    high = kept + len(tail)
    while low < high:
        middle = (low + high) // 2
        if _time(old, kept, tail, middle) < time:
            low = middle + 1
        else:
            high = middle
    return low - 1


@inner
def _carry(old: Ints, i: int, totals: Mask, running: Ints, row: Ints) -> None:
    row[0] = old[i, 0]
    for c in range(1, len(row)):
        running[c] += old[i, c] - old[i - 1, c]
        row[c] = running[c] if totals[c] else old[i, c]


@inner
def _add(new: Ints, time: int, fold: bool, totals: Mask, running: Ints, row: Ints) -> None:  # noqa: FBT001
    row[0] = time
    for c in range(1, len(row)):
        running[c] += new[c]
        if totals[c]:
            row[c] = running[c]
        else:
            row[c] = max(row[c], new[c]) if fold else new[c]


@inner
def _interleave(
    old: Ints, kept: int, new: Ints, resolution: int, totals: Mask, running: Ints, out: Ints
) -> int:
    """Write the rows after the `kept` unchanged ones to `out`; returns where they end."""
    running[:] = 0
    first = 0
    i = len(old)
    if kept > 0:
        running[:] = old[kept - 1]
        i = kept
    else:
        out[0] = 0
        first = 1
    at = first
    for j in range(len(new)):
        time = new[j, 0] - (new[j, 0] % resolution if resolution > 0 else 0)
        while i < len(old) and old[i, 0] <= time:
            _carry(old, i, totals, running, out[at])
            i += 1
            at += 1
        fold = resolution > 0 and at > first and out[at - 1, 0] == time
        if fold:
            at -= 1
        _add(new[j], time, fold, totals, running, out[at])
        at += 1
    for rest in range(i, len(old)):
        _carry(old, rest, totals, running, out[at])
        at += 1
    return at


@inner
def _droppable(old: Ints, kept: int, tail: Ints, as_of: int, bounds: tuple[int, int, int]) -> int:
    """How many leading rows no query can reach, when they are enough to be worth a rewrite."""
    horizon, cap = bounds[0], bounds[1]
    rows = kept + len(tail) - 1
    dead = _before(old, kept, tail, as_of - LATENESS_US - horizon)
    worth = 4 * dead >= rows
    if cap > 0 and rows > 2 * cap + cap // 4:
        # Later rows than the as-of time may surround a query's end, so the cap counts before it.
        needed = _before(old, kept, tail, as_of - CAP_LATENESS_US) - cap
        over = min(needed, rows - 2 * cap)
        worth |= 4 * over >= cap
        dead = max(dead, over)
    return dead if worth else 0


@inner
def _rewrite(old: Ints, kept: int, out: Ints, count: int, dead: int) -> int:
    """Make `out` the record from row `dead`, its new anchor, on; returns its length."""
    if dead >= kept:
        length = count - (dead - kept)
        for row in range(length):
            out[row] = out[row + dead - kept]
        return length
    moved = kept - dead
    for row in range(count - 1, -1, -1):
        out[row + moved] = out[row]
    for row in range(moved):
        out[row] = old[dead + row]
    return moved + count


@compiled
def _merge(
    records: Ints,
    lengths: Ints,
    rows: Ints,
    starts: Ints,
    as_of: int,
    bounds: tuple[int, int, int],
    totals: Mask,
    out: Ints,
    places: Ints,
) -> None:
    running = np.empty(rows.shape[1], np.int64)
    resolution = bounds[2]
    at = 0
    first = 0
    for key in range(len(lengths)):
        old = records[first : first + lengths[key]]
        first += lengths[key]
        new = rows[starts[key] : starts[key + 1]]
        room = out[at : at + len(old) + len(new) + 1]
        kept = 0
        if len(old) > 0:
            time = new[0, 0] if len(new) > 0 else old[len(old) - 1, 0]
            # A bucket is changed by rows of its own time, other rows go behind equal ones.
            kept = _first_after(old, time - time % resolution - 1 if resolution > 0 else time)
        count = _interleave(old, kept, new, resolution, totals, running, room)
        dead = _droppable(old, kept, room[:count], as_of, bounds)
        if dead > 0:
            count = _rewrite(old, kept, room, count, dead)
            kept = 0
        places[key, 0] = kept
        places[key, 1] = at
        places[key, 2] = at + count
        at += count


def merge_all(
    records: Sequence[bytes | None], rows: Ints, starts: Ints, layout: Layout, as_of_us: int
) -> list[Merged]:
    """Merge new rows into the records of some entities of one layout.

    Args:
        records: each entity's record, None where it has none.
        rows: new rows of all of them, as `packing.pack_rows` gives them.
        starts: where each entity's rows start, and the end.
        layout: what a record holds.
        as_of_us: no query's window ends earlier (less LATENESS_US, or CAP_LATENESS_US where a cap
            cuts), and no row that comes later is older: the committed watermark. Rows that cannot
            count any more are dropped, in one go when they are many.
    """
    width = layout.width
    lengths = np.array([len(r) // (8 * width) if r else 0 for r in records], np.int64)
    held = np.frombuffer(b"".join(r for r in records if r), np.int64).reshape(-1, width)
    # Arrays of one kind only, so that the kernel compiles once.
    new = np.ascontiguousarray(rows).view()
    new.flags.writeable = False
    out = np.empty((len(held) + len(new) + len(lengths), width), np.int64)
    places = np.empty((len(lengths), 3), np.int64)
    bounds = (layout.horizon_us, layout.cap, layout.resolution_us)
    _merge(held, lengths, new, starts, as_of_us, bounds, layout.flags(total=True), out, places)
    data = out.reshape(-1).view(np.uint8).data
    row = 8 * width
    return [
        Merged(kept * row, bytes(data[start * row : end * row]))
        for kept, start, end in places.tolist()
    ]


def merge(record: bytes | None, rows: Ints, layout: Layout, as_of_us: int) -> Merged:
    """Merge `rows` of one entity into its record; see merge_all."""
    starts = np.array([0, len(rows)], np.int64)
    return merge_all([record], rows, starts, layout, as_of_us)[0]
