"""What goes wrong on the way: faults of rows and of requests, on their own random stream.

Which row suffers what is a pure function of (seed, table, row): it depends neither on the other
rows nor on how the day was cut, and a world without faults draws the same orders as one with them.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from ibook_assets.core.arrow import array, integers, pc
from ibook_assets.core.ids import MISSING_ID
from ibook_assets.core.tables import Column, TableSpec
from ibook_assets.core.times import DAY_US, SECOND_US
from ibook_sim.world.randomness import (
    Bools,
    Floats,
    Ints,
    Stream,
    Words,
    jit,
    philox,
    row_key,
    unit,
)

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Milliseconds = Annotated[float, Field(ge=0.0, le=600_000.0)]
Seconds = Annotated[float, Field(ge=0.0, le=86_400.0)]


class Chaos(BaseModel):
    """How often what goes wrong; the default is that nothing does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    latency_share: Share = 0.0
    """Share of requests that the network delays."""
    latency_ms: Milliseconds = 0.0
    """Mean of that delay, which is exponential."""
    error_share: Share = 0.0
    """Share of requests that end in an error instead of an answer."""
    drop_share: Share = 0.0
    """Share of rows that never arrive."""
    duplicate_share: Share = 0.0
    """Share of rows that arrive twice, the second time up to a second later."""
    disorder_share: Share = 0.0
    """Share of rows that arrive late, behind rows that happened after them."""
    disorder_seconds: Seconds = 30.0
    """Longest such delay; it is uniform."""
    corrupt_share: Share = 0.0
    """Share of rows with one value that breaks the table's contract."""
    late_label_share: Share = 0.0
    """Share of outcomes that are reported late."""
    late_label_days: Annotated[float, Field(ge=0.0, le=180.0)] = 14.0
    """Mean of that delay, which is exponential."""
    clock_skew_share: Share = 0.0
    """Share of devices (else sessions, else rows) whose clock is off."""
    clock_skew_seconds: Seconds = 120.0
    """Furthest that a clock is ahead or behind; it is uniform."""

    @property
    def spoils_rows(self) -> bool:
        """Whether any row can arrive other than it was sent."""
        return any(
            (
                self.drop_share,
                self.duplicate_share,
                self.disorder_share,
                self.corrupt_share,
                self.late_label_share,
                self.clock_skew_share,
            )
        )

    @property
    def spoils_requests(self) -> bool:
        """Whether any request can be delayed or fail."""
        return bool(self.error_share or (self.latency_share and self.latency_ms))


NO_CHAOS: Final = Chaos()

_SECOND_COPY_US: Final = SECOND_US
_CLOCK_OF: Final[Mapping[str, str]] = {"transactions": "device_id", "views": "session_id"}
_LABELS: Final = "outcomes"
_FATES, _CHOICES, _DELAYS = range(3)
"""Blocks of four draws of a row."""
_REQUESTS: Final = "requests"
_CLOCKS: Final = "clocks"


@dataclass(frozen=True, slots=True)
class Delivery:
    """What arrives of rows that were sent.

    Sent rows - `dropped` + `duplicated` = arriving rows, always.
    """

    rows: pa.Table
    """Sorted by (known_ts, key, copy)."""
    origin: Ints
    """Position among the sent rows of each row that arrives."""
    dropped: int
    duplicated: int
    disordered: int
    corrupted: int
    late_labels: int
    skewed: int


@dataclass(frozen=True, slots=True)
class RequestFaults:
    """What happens to requests on their way; shape (n,) each."""

    delay_seconds: Floats
    fails: Bools


def deliver(rows: pa.Table, spec: TableSpec, chaos: Chaos, *, seed: int) -> Delivery:
    """`rows` of the table `spec` as they arrive under `chaos`.

    Delays move `known_ts`, so a row may arrive on a later day than it was sent; deliver the parts
    of a table in any cut and merge them by (known_ts, key) to get the delivery of the whole.

    Args:
        rows: with all columns of `spec`, which has `known_ts`.
        spec: the table's contract, whose key names a row.
        chaos: how often what goes wrong.
        seed: of the world.
    """
    numbers = _numbers(rows, spec)
    key = _key(seed, spec.name)
    fate = _draws(numbers, _FATES, key)
    choice = _draws(numbers, _CHOICES, key)
    delay = _draws(numbers, _DELAYS, key)
    keeps = fate[:, 0] >= chaos.drop_share
    twice = keeps & (fate[:, 1] < chaos.duplicate_share)
    moved = keeps & (fate[:, 2] < chaos.disorder_share)
    broken = keeps & (fate[:, 3] < chaos.corrupt_share)
    late = keeps & (delay[:, 2] < chaos.late_label_share) & (spec.name == _LABELS)

    known = integers(rows["known_ts"], null=0).copy()
    known += np.where(moved, delay[:, 0] * chaos.disorder_seconds * SECOND_US, 0.0).astype(np.int64)
    days = -np.log(delay[:, 3]) * chaos.late_label_days
    known += np.where(late, days * DAY_US, 0.0).astype(np.int64)
    skew_us = np.where(keeps, _skew_us(rows, spec, numbers, chaos, seed), 0)
    spoilt = _with_skew(rows, skew_us)
    spoilt = _corrupted(spoilt, spec, broken, choice[:, 0])

    again = np.flatnonzero(twice)
    origin = np.concatenate([np.flatnonzero(keeps), again])
    copies_known = known[again] + 1 + (delay[again, 1] * _SECOND_COPY_US).astype(np.int64)
    arrives = np.concatenate([known[keeps], copies_known])
    order = np.lexsort((np.arange(origin.size), numbers[origin], arrives))
    taken = _replaced(spoilt.take(array(origin)), "known_ts", arrives).take(array(order))
    return Delivery(
        rows=taken,
        origin=origin[order],
        dropped=int((~keeps).sum()),
        duplicated=int(twice.sum()),
        disordered=int(moved.sum()),
        corrupted=int(broken.sum()),
        late_labels=int(late.sum()),
        skewed=int((skew_us != 0).sum()),
    )


def longest_delay_us(spec: TableSpec, chaos: Chaos) -> int | None:
    """How long after it was sent a row of `spec` can arrive (microseconds); None has no bound."""
    if spec.name == _LABELS and chaos.late_label_share:
        return None
    moved = int(chaos.disorder_seconds * SECOND_US) if chaos.disorder_share else 0
    return moved + (_SECOND_COPY_US if chaos.duplicate_share else 0)


def request_faults(numbers: Ints, chaos: Chaos, *, seed: int) -> RequestFaults:
    """What happens to the requests with these `numbers` (non-negative)."""
    draws = _draws(numbers.astype(np.uint64), _FATES, _key(seed, _REQUESTS))
    delayed = draws[:, 0] < chaos.latency_share
    seconds = -np.log(draws[:, 1]) * chaos.latency_ms / 1_000.0
    return RequestFaults(
        delay_seconds=np.where(delayed, seconds, 0.0), fails=draws[:, 2] < chaos.error_share
    )


def _key(seed: int, what: str) -> Words:
    return row_key(seed, Stream.CHAOS, zlib.crc32(what.encode()))


def _numbers(rows: pa.Table, spec: TableSpec) -> Words:
    """One number a row, made of its key alone."""
    total = np.zeros(rows.num_rows, np.uint64)
    for name in spec.key:
        column = integers(rows[name], null=0).astype(np.uint64)
        total = total * np.uint64(0x9E3779B97F4A7C15) + column
    return total


@jit
def _fill(numbers: Words, block: int, key: Words, out: Floats) -> None:
    for i in range(numbers.size):
        a, b, c, d = philox(numbers[i], block, key[0], key[1])
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = unit(a), unit(b), unit(c), unit(d)


def _draws(numbers: Words, block: int, key: Words) -> Floats:
    """Shape (n, 4): uniform in (0, 1)."""
    out = np.empty((numbers.size, 4))
    _fill(numbers, block, key, out)
    return out


def _clock_numbers(rows: pa.Table, spec: TableSpec, numbers: Words) -> Words:
    """Whose clock a row's event time was read from."""
    owner = _CLOCK_OF.get(spec.name)
    if owner is None:
        return numbers
    owners = integers(rows[owner], null=MISSING_ID)
    return np.where(owners == MISSING_ID, numbers, owners.astype(np.uint64))


def _skew_us(rows: pa.Table, spec: TableSpec, numbers: Words, chaos: Chaos, seed: int) -> Ints:
    """How far the clock of each row is ahead (microseconds); 0 for a clock that is right."""
    if "occurred_ts" not in spec.column_names or not chaos.clock_skew_share:
        return np.zeros(rows.num_rows, np.int64)
    draws = _draws(_clock_numbers(rows, spec, numbers), _FATES, _key(seed, _CLOCKS))
    skew = ((2.0 * draws[:, 1] - 1.0) * chaos.clock_skew_seconds * SECOND_US).astype(np.int64)
    return np.where(draws[:, 0] < chaos.clock_skew_share, skew, 0)


def _with_skew(rows: pa.Table, skew_us: Ints) -> pa.Table:
    if not skew_us.any():
        return rows
    occurred = integers(rows["occurred_ts"], null=0)
    return _replaced(rows, "occurred_ts", np.maximum(occurred + skew_us, 0))


def _corrupted(rows: pa.Table, spec: TableSpec, broken: Bools, choice: Floats) -> pa.Table:
    """`rows` with one value of each broken row outside its contract."""
    if not broken.any():
        return rows
    candidates = [c for c in spec.columns if _breakable(c, spec)]
    chosen = (choice * len(candidates)).astype(np.int64)
    for number, column in enumerate(candidates):
        hit = broken & (chosen == number)
        if not hit.any():
            continue
        index = rows.column_names.index(column.name)
        values = pc.if_else(array(hit), _bad_value(column), rows[column.name])
        rows = rows.set_column(index, rows.schema.field(index), values)
    return rows


def _breakable(column: Column, spec: TableSpec) -> bool:
    times = {"known_ts", "occurred_ts"}
    return (
        column.name not in spec.key
        and column.name not in times
        and (column.allowed is not None or column.minimum is not None)
    )


def _bad_value(column: Column) -> Any:  # noqa: ANN401 - a scalar of the column's own type
    if column.allowed is not None:
        return pa.scalar("corrupted", column.type)
    return pa.scalar((column.minimum or 0) - 1, column.type)


def _replaced(rows: pa.Table, name: str, values: Ints) -> pa.Table:
    index = rows.column_names.index(name)
    return rows.set_column(index, rows.schema.field(index), array(values))
