"""One rule for repeated rows, the same at every door: the first known row of a key counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ibook_assets.core.arrow import Column, Mask, Positions, as_mask, integers, one_chunk, pc
from ibook_assets.core.ids import MISSING_ID
from ibook_assets.core.tables import TableSpec


@dataclass(frozen=True, slots=True)
class Deduplicated:
    """Positions in the table, each row in exactly one of the three."""

    kept: Positions
    """One row of each key, in the order of (time, key)."""
    repeated: Positions
    """Rows that say the same as the kept row of their key; a later known_ts is the same saying."""
    conflicting: Positions
    """Rows that contradict the kept row of their key."""


def deduplicate(table: pa.Table, spec: TableSpec) -> Deduplicated:
    """Which rows of `table` count, which repeat one and which contradict one.

    The first row of a key by the spec's time column is kept, ties going to the smaller content
    in column order, so the answer never depends on the order rows arrived in. Keys are integers
    or text, without nulls.
    """
    order = _key_order(table, spec)
    keys = [_ordinals(table[name])[order] for name in spec.key]
    same_key = _repeats_previous(keys)
    in_group = same_key.copy()
    in_group[:-1] |= same_key[1:]
    singles = order[~in_group]
    groups = table.take(order[in_group])
    ranked = _content_order(groups, spec)
    members = order[in_group][ranked]
    groups = groups.take(ranked)
    repeats = _repeats_previous([_ordinals(groups[n]) for n in spec.key])
    says_same = _equals_first(groups, spec, starts=~repeats)
    kept = np.concatenate([singles, members[~repeats]])
    return Deduplicated(
        kept=kept[_time_order(table.take(kept), spec)],
        repeated=np.sort(members[repeats & says_same]),
        conflicting=np.sort(members[repeats & ~says_same]),
    )


def _ordinals(column: Column) -> Positions:
    """Integers that are equal, and ordered, as the values are."""
    if not pa.types.is_string(column.type):
        return integers(column, null=MISSING_ID)
    ranks = pc.rank(one_chunk(column), sort_keys="ascending", tiebreaker="dense")
    return integers(ranks.cast(pa.int64()), null=MISSING_ID)


def _key_order(table: pa.Table, spec: TableSpec) -> Positions:
    columns = [_ordinals(table[name]) for name in reversed(spec.key)]
    return np.lexsort(columns).astype(np.int64)


def _time_order(table: pa.Table, spec: TableSpec) -> Positions:
    time = () if spec.time_column is None else (spec.time_column,)
    names = dict.fromkeys((*time, *spec.key))
    columns = [_ordinals(table[name]) for name in reversed(names)]
    return np.lexsort(columns).astype(np.int64)


def _content_order(table: pa.Table, spec: TableSpec) -> Positions:
    time = () if spec.time_column is None else (spec.time_column,)
    names = dict.fromkeys((*spec.key, *time, *spec.column_names))
    order = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in names])
    return np.asarray(order, dtype=np.int64)


def _repeats_previous(keys: list[Positions]) -> Mask:
    repeats = np.ones(len(keys[0]), dtype=np.bool_)
    repeats[:1] = False
    for key in keys:
        repeats[1:] &= key[1:] == key[:-1]
    return repeats


def _equals_first(groups: pa.Table, spec: TableSpec, *, starts: Mask) -> Mask:
    """Which rows equal the first row of their group in every column but the time."""
    first = np.maximum.accumulate(np.where(starts, np.arange(len(starts)), 0))
    same = np.ones(len(starts), dtype=np.bool_)
    for name in spec.column_names:
        if name != spec.time_column:
            same &= _equal_or_both_null(groups[name], groups[name].take(first))
    return same


def _equal_or_both_null(left: Column, right: Column) -> Mask:
    both_null = as_mask(pc.is_null(left)) & as_mask(pc.is_null(right))
    return as_mask(pc.equal(left, right)) | both_null
