"""Batch: every query of every key in one pass over the key's records."""

# Compiled functions take their arrays by position.
# ruff: noqa: PLR0917

from __future__ import annotations

import numpy as np

from ibook_assets.core.features.kernel import (
    MISSING,
    Ints,
    compiled,
    inner,
    link_values,
    most_frequent,
    table_bits,
)
from ibook_assets.core.features.plan import COUNT, DISTINCT, LAST, MAX, MODE, SINCE, SUM
from ibook_assets.core.features.spec import MODE_CODES


@inner
def _first_at(records: Ints, first: int, end: int, time: int) -> int:
    """The first row of `[first, end)` that is not before `time`."""
    while first < end:
        middle = (first + end) // 2
        if records[middle, 0] < time:
            first = middle + 1
        else:
            end = middle
    return first


@inner
def _bound(
    records: Ints, first: int, end: int, queries: Ints, resolution: int, spans: Ints, bounds: Ints
) -> int:
    """Per query: its time, one past its last row, and per span its first row.

    Returns the first row that any query counts.
    """
    time = queries[0, 0] - (queries[0, 0] % resolution if resolution > 0 else 0)
    hi = _first_at(records, first, end, time)
    for q in range(len(queries)):
        time = queries[q, 0]
        if resolution > 0:
            time -= time % resolution
        while hi < end and records[hi, 0] < time:
            hi += 1
        bounds[0, q] = time
        bounds[1, q] = hi
    lowest = end
    for j in range(len(spans)):
        lo = _first_at(records, first, bounds[1, 0], bounds[0, 0] - spans[j, 0])
        for q in range(len(queries)):
            hi = bounds[1, q]
            lo = max(lo, hi - spans[j, 1])
            edge = bounds[0, q] - spans[j, 0]
            while lo < hi and records[lo, 0] < edge:
                lo += 1
            bounds[2 + j, q] = lo
        lowest = min(lowest, bounds[2 + j, 0])
    return lowest


@inner
def _nothing(values: Ints) -> None:
    for q in range(len(values)):
        values[q] = MISSING


@inner
def _counts(his: Ints, los: Ints, values: Ints) -> None:
    for q in range(len(his)):
        values[q] = his[q] - los[q]


@inner
def _sums(records: Ints, column: int, his: Ints, los: Ints, values: Ints) -> None:
    for q in range(len(his)):
        values[q] = records[his[q] - 1, column] - records[los[q] - 1, column]


@inner
def _maxima(records: Ints, column: int, his: Ints, los: Ints, values: Ints, stack: Ints) -> None:
    """Sliding maximum; `stack[head:tail]` are the rows that no later row reaches."""
    head = 0
    tail = 0
    row = los[0]
    for q in range(len(his)):
        while row < his[q]:
            value = records[row, column]
            if value >= 0:
                while tail > head and records[stack[tail - 1], column] <= value:
                    tail -= 1
                stack[tail] = row
                tail += 1
            row += 1
        while head < tail and stack[head] < los[q]:
            head += 1
        values[q] = records[stack[head], column] if head < tail else MISSING


@inner
def _distincts(links: Ints, first: int, his: Ints, los: Ints, values: Ints) -> None:
    """Sliding distinct count: a row counts when its value is not earlier in the window."""
    count = 0
    lo = first
    hi = first
    for q in range(len(his)):
        while hi < his[q]:
            if links[hi - first, 0] < lo:
                count += 1
            hi += 1
        while lo < los[q]:
            if links[lo - first, 1] >= hi:
                count -= 1
            lo += 1
        values[q] = count


@inner
def _latest(
    records: Ints, first: int, column: int, his: Ints, los: Ints, times: Ints, values: Ints
) -> None:
    """Last value of the window; with `times`, how long before them it is."""
    row = first
    latest = MISSING
    for q in range(len(his)):
        while row < his[q]:
            if records[row, column] >= 0:
                latest = row
            row += 1
        if latest < los[q]:
            values[q] = MISSING
        elif len(times) > 0:
            values[q] = times[q] - records[latest, column]
        else:
            values[q] = records[latest, column]


@inner
def _modes(
    records: Ints, first: int, column: int, his: Ints, los: Ints, values: Ints, codes: int
) -> None:
    counts = np.zeros(codes, np.int64)
    lo = first
    hi = first
    for q in range(len(his)):
        while hi < his[q]:
            if 0 <= records[hi, column] < codes:
                counts[records[hi, column]] += 1
            hi += 1
        while lo < los[q]:
            if 0 <= records[lo, column] < codes:
                counts[records[lo, column]] -= 1
            lo += 1
        values[q] = most_frequent(counts)


@inner
def _windowed(
    records: Ints, first: int, aggregate: Ints, bounds: Ints, values: Ints, scratch: Ints
) -> None:
    """The functions that need nothing but the records."""
    function = aggregate[0]
    column = aggregate[2]
    his = bounds[1]
    los = bounds[2 + aggregate[1]]
    if function == COUNT:
        _counts(his, los, values)
    elif function == SUM:
        _sums(records, column, his, los, values)
    elif function == MAX:
        _maxima(records, column, his, los, values, scratch)
    elif function == LAST:
        _latest(records, first, column, his, los, bounds[0, :0], values)
    elif function == SINCE:
        _latest(records, first, column, his, los, bounds[0], values)
    elif function == MODE:
        _modes(records, first, column, his, los, values, MODE_CODES)
    else:
        _nothing(values)


@inner
def _longest(starts: Ints) -> int:
    longest = 1
    for key in range(len(starts) - 1):
        longest = max(longest, starts[key + 1] - starts[key])
    return longest


@inner
def _distinct_columns(aggregates: Ints) -> int:
    columns = 0
    last = MISSING
    for k in range(len(aggregates)):
        if aggregates[k, 0] == DISTINCT and aggregates[k, 2] != last:
            last = aggregates[k, 2]
            columns += 1
    return columns


@compiled
def sweep(
    records: Ints,
    starts: Ints,
    queries: Ints,
    query_starts: Ints,
    resolution: int,
    spans: Ints,
    aggregates: Ints,
    out: Ints,
) -> None:
    """Answer all queries of all keys into `out`.

    Args:
        records: (rows + 1, width), grouped by key, in time order within it; row 0 is all zeros;
            columns that are totals run over the whole array.
        starts: (keys + 1,), the rows of key k are `[starts[k], starts[k + 1])`.
        queries: (n, 2), time and row of `out`, grouped by key, in time order within it.
        query_starts: (keys + 1,), likewise.
        resolution: what times are floored to; 0 leaves them.
        spans: see GroupPlan.
        aggregates: see GroupPlan; those that count distinct values of a column are adjacent.
        out: (rows, len(aggregates)); rows of a missing entity are left alone.
    """
    longest = _longest(starts)
    most_queries = _longest(query_starts)
    bounds_all = np.empty((2 + len(spans), most_queries), np.int64)
    values_all = np.empty((len(aggregates), most_queries), np.int64)
    scratch = np.empty(longest, np.int64)
    links = np.empty((longest, 2), np.int64)
    columns = _distinct_columns(aggregates)
    tables = np.full((columns, 1 << table_bits(longest)), MISSING, np.int64)
    for key in range(len(starts) - 1):
        asked = queries[query_starts[key] : query_starts[key + 1]]
        if len(asked) == 0:
            continue
        bounds = bounds_all[:, : len(asked)]
        values = values_all[:, : len(asked)]
        first = _bound(records, starts[key], starts[key + 1], asked, resolution, spans, bounds)
        end = bounds[1, len(asked) - 1]
        linked = MISSING
        table = -1
        for k in range(len(aggregates)):
            column = aggregates[k, 2]
            if aggregates[k, 0] != DISTINCT:
                _windowed(records, first, aggregates[k], bounds, values[k], scratch)
                continue
            if column != linked:
                table += 1
                linked = column
                link_values(records, first, end, column, tables[table], links)
            _distincts(links, first, bounds[1], bounds[2 + aggregates[k, 1]], values[k])
        for q in range(len(asked)):
            for k in range(len(aggregates)):
                out[asked[q, 1], k] = values[k, q]
