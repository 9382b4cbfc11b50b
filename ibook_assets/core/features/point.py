"""Online: the features of a few requests from their entities' packed records."""

# Compiled functions take their arrays by position.
# ruff: noqa: PLR0917

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from ibook_assets.core.features.kernel import (
    MISSING,
    Floats,
    Ints,
    compiled,
    evaluate,
    inner,
    link_values,
    most_frequent,
    table_bits,
)
from ibook_assets.core.features.plan import (
    ABSENT,
    COUNT,
    DISTINCT,
    MAX,
    MODE,
    SINCE,
    SUM,
    Plan,
)
from ibook_assets.core.features.spec import MODE_CODES

UNKNOWN_ENTITY: Final = -1
"""Record length of an entity without history: it counts nothing, but it exists."""

NO_ENTITY: Final = -2
"""Record length when the request names no entity: everything about it is undefined."""


@inner
def _first_at(records: Ints, time: int) -> int:
    """The first row, after the anchor, that is not before `time`."""
    low = 1
    high = len(records)
    while low < high:
        middle = (low + high) // 2
        if records[middle, 0] < time:
            low = middle + 1
        else:
            high = middle
    return low


@inner
def _distinct(records: Ints, column: int, lo: int, hi: int) -> int:
    links = np.empty((hi - lo, 2), np.int64)
    table = np.full(1 << table_bits(hi - lo), MISSING, np.int64)
    link_values(records, lo, hi, column, table, links)
    count = 0
    for i in range(hi - lo):
        if links[i, 0] == MISSING:
            count += 1
    return count


@inner
def _latest(records: Ints, column: int, lo: int, hi: int) -> int:
    for i in range(hi - 1, lo - 1, -1):
        if records[i, column] >= 0:
            return int(records[i, column])
    return MISSING


@inner
def _mode(records: Ints, column: int, lo: int, hi: int) -> int:
    counts = np.zeros(MODE_CODES, np.int64)
    for i in range(lo, hi):
        if 0 <= records[i, column] < MODE_CODES:
            counts[records[i, column]] += 1
    return most_frequent(counts)


@inner
def _largest(records: Ints, column: int, lo: int, hi: int) -> int:
    largest = MISSING
    for i in range(lo, hi):
        largest = max(largest, records[i, column])
    return largest


@inner
def _scanned(records: Ints, function: int, column: int, lo: int, hi: int, time: int) -> int:
    """The functions that look at every row of their window."""
    if function == MAX:
        return _largest(records, column, lo, hi)
    if function == DISTINCT:
        return _distinct(records, column, lo, hi)
    if function == MODE:
        return _mode(records, column, lo, hi)
    latest = _latest(records, column, lo, hi)
    return time - latest if function == SINCE and latest >= 0 else latest


@inner
def _aggregate(records: Ints, function: int, column: int, lo: int, hi: int, time: int) -> int:
    if function == ABSENT:
        return MISSING
    if function == COUNT:
        return hi - lo
    if function == SUM:
        return int(records[hi - 1, column] - records[lo - 1, column]) if lo < hi else 0
    return _scanned(records, function, column, lo, hi, time)


@inner
def _aggregate_group(
    records: Ints, time: int, resolution: int, spans: Ints, aggregates: Ints, operands: Ints
) -> None:
    """All aggregates of one entity's records (anchor first) at `time`."""
    if resolution > 0:
        time -= time % resolution
    hi = _first_at(records, time)
    lows = np.empty(len(spans), np.int64)
    for j in range(len(spans)):
        lows[j] = max(min(_first_at(records, time - spans[j, 0]), hi), hi - spans[j, 1])
    for k in range(len(aggregates)):
        lo = lows[aggregates[k, 1]]
        operands[k] = _aggregate(records, aggregates[k, 0], aggregates[k, 2], lo, hi, time)


@compiled
def _answer(
    buffer: Ints,
    places: Ints,
    times: Ints,
    groups: Ints,
    spans: Ints,
    aggregates: Ints,
    requests: Ints,
    program: Ints,
    out: Floats,
) -> None:
    operands = np.empty(len(aggregates) + requests.shape[1] + 2, np.int64)
    operands[-2] = 1
    operands[-1] = 0
    empty = np.zeros((1, 1), np.int64)
    for row in range(len(times)):
        for g in range(len(groups)):
            width, resolution, first, end = groups[g, 0], groups[g, 1], groups[g, 2], groups[g, 3]
            start, length = places[row, g, 0], places[row, g, 1]
            if length == NO_ENTITY:
                for k in range(first, end):
                    operands[k] = MISSING
                continue
            records = empty
            if length > 0:
                records = buffer[start : start + length].reshape(length // width, width)
            own = spans[groups[g, 4] : groups[g, 5]]
            _aggregate_group(
                records, times[row], resolution, own, aggregates[first:end], operands[first:end]
            )
        for k in range(requests.shape[1]):
            operands[len(aggregates) + k] = requests[row, k]
        for f in range(len(program)):
            a, b = operands[program[f, 0]], operands[program[f, 1]]
            c, d = operands[program[f, 2]], operands[program[f, 3]]
            out[row, f] = np.float32(evaluate(a, b, c, d, program[f, 4], program[f, 5]))


@dataclass(frozen=True, slots=True)
class PointPlan:
    """A plan flattened to the arrays that answer requests."""

    plan: Plan
    groups: Ints
    """(groups, 6): record width, resolution, own range of aggregates, own range of spans."""
    spans: Ints
    aggregates: Ints

    @classmethod
    def of(cls, plan: Plan) -> PointPlan:
        """The flattened `plan`."""
        rows = []
        aggregate = span = 0
        for group in plan.groups:
            to = aggregate + len(group.aggregates)
            spans_to = span + len(group.spans)
            layout = group.layout
            rows.append([layout.width, layout.resolution_us, aggregate, to, span, spans_to])
            aggregate, span = to, spans_to
        none = np.empty((0, 3), np.int64)
        return cls(
            plan,
            np.array(rows, np.int64).reshape(-1, 6),
            np.concatenate([none[:, :2], *(g.spans for g in plan.groups)]),
            np.concatenate([none, *(g.aggregates for g in plan.groups)]),
        )

    def answer(self, buffer: Ints, places: Ints, times: Ints, requests: Ints) -> Floats:
        """The plan's features, (rows, features) float32.

        Args:
            buffer: records of all entities involved, one after the other.
            places: (rows, groups, 2), where a row's record of a group starts in `buffer` and its
                length, in integers; or length UNKNOWN_ENTITY or NO_ENTITY.
            times: (rows,), the as-of time of each row.
            requests: (rows, row operands), transformed; MISSING where unknown.
        """
        out = np.empty((len(times), len(self.plan.features)), np.float32)
        _answer(
            buffer,
            places,
            times,
            self.groups,
            self.spans,
            self.aggregates,
            requests,
            self.plan.program,
            out,
        )
        return out
