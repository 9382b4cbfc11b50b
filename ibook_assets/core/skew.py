"""Skew between what was computed online and what batch computes for the same orders.

A vector that was logged online is compared bit by bit with the batch values of its order. Three
counts say what is wrong: vectors that differ, vectors of orders that batch does not have, and
orders that should have a logged vector and have none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ibook_assets.core.arrow import Array, Mask, Positions, array, as_mask, integers, nulls, pc
from ibook_assets.core.canonical import sha256_hex
from ibook_assets.core.features.catalog import view
from ibook_assets.core.ids import MISSING_ID
from ibook_assets.core.tables import Column, TableSpec

MISMATCH: Final = "mismatch"
MISSING: Final = "missing"
EXTRA: Final = "extra"
KINDS: Final = (MISMATCH, MISSING, EXTRA)

FEATURE_SKEW: Final = TableSpec(
    name="feature_skew",
    description=(
        "Orders whose online and batch features disagree: `mismatch` differs, `missing` was "
        "logged but batch has no such order, `extra` should have been logged and was not."
    ),
    key=("transaction_id", "kind"),
    columns=(
        Column("transaction_id", pa.int64(), "Order", minimum=0),
        Column(
            "known_ts", pa.int64(), "As-of of the vector, of an extra the order's (microseconds)"
        ),
        Column("kind", pa.string(), "Which of the three counts", allowed=KINDS),
        Column(
            "reason",
            pa.string(),
            "What differs first in a mismatch",
            nullable=True,
            allowed=("definition", "length", "as_of", "value"),
        ),
        Column("differing", pa.int64(), "Values that differ", nullable=True, minimum=1),
        Column("feature", pa.string(), "First feature that differs", nullable=True),
        Column("logged", pa.float32(), "Its value online; NaN is undefined", nullable=True),
        Column("batch", pa.float32(), "Its value in batch; NaN is undefined", nullable=True),
    ),
)

_DEFINITION_CHARACTERS: Final = 16
_VALUE_BYTES: Final = 4
_HASH_BITS: Final = 53


def definition_of(features: Sequence[str], spec_hashes: Mapping[str, str] | None = None) -> str:
    """What a logged vector of `features` (`view:feature` each) means, as a hash prefix.

    It changes with the names, their order and every definition of a view among them, which are
    this code's own unless `spec_hashes` says how the views were defined.
    """
    names = dict.fromkeys(name.partition(":")[0] for name in features)
    views = {v: spec_hashes[v] if spec_hashes else view(v).spec_hash for v in names}
    meaning = {"features": list(features), "views": views}
    text = json.dumps(meaning, sort_keys=True, separators=(",", ":"))
    return sha256_hex(text.encode())[:_DEFINITION_CHARACTERS]


def sampled(transaction_ids: npt.NDArray[np.int64], share: float) -> Mask:
    """Which orders are logged and checked when `share` (0 to 1) of them are, by hash of the id.

    The answer depends on the id alone, and who is in a share is in every greater share.

    Source: splitmix64, the finaliser of Steele, Lea and Flood (2014).
    """
    mixed = transaction_ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    uniform = (mixed >> np.uint64(64 - _HASH_BITS)).astype(np.float64) / 2**_HASH_BITS
    return np.asarray(uniform < share, dtype=np.bool_)


@dataclass(frozen=True, slots=True)
class BatchVectors:
    """Batch features of the orders of a day; ids are unique, rows belong together."""

    transaction_ids: npt.NDArray[np.int64]
    known_ts: npt.NDArray[np.int64]
    values: npt.NDArray[np.float32]
    """(orders, features), in the order of the features compared."""


@dataclass(frozen=True, slots=True)
class Skew:
    """What comparing a day found."""

    vectors: int
    """Logged vectors."""
    rows: pa.Table
    """Every order that disagrees, in the schema of FEATURE_SKEW."""

    def count(self, kind: str) -> int:
        """Orders of one of KINDS."""
        return int(pc.sum(pc.equal(self.rows["kind"], kind)).as_py() or 0)

    @property
    def counts(self) -> dict[str, int]:
        """Orders of each of KINDS."""
        return {kind: self.count(kind) for kind in KINDS}


def compare(
    logged: pa.Table, batch: BatchVectors, *, features: Sequence[str], share: float
) -> Skew:
    """Hold logged vectors against the batch values of the same orders.

    Args:
        logged: rows of FEATURE_LOG of a day, one an order.
        batch: the day's orders.
        features: `view:feature` of each value of a vector; a vector that was logged under another
            definition of them is a mismatch.
        share: share of the orders that are logged, see `sampled`. Orders of that share between
            the first and the last logged as-of that have no vector are extra.
    """
    ids = integers(logged["transaction_id"], null=MISSING_ID)
    as_of = integers(logged["known_ts"], null=0)
    at = _positions(ids, batch.transaction_ids)
    due = sampled(batch.transaction_ids, share) & ~np.isin(batch.transaction_ids, ids)
    due &= _between(batch.known_ts, as_of)
    found = pa.concat_tables(
        [
            _mismatches(logged.filter(array(at >= 0)), at[at >= 0], batch, features),
            _rows(MISSING, ids[at < 0], as_of[at < 0]),
            _rows(EXTRA, batch.transaction_ids[due], batch.known_ts[due]),
        ]
    )
    ordered = found.sort_by([("known_ts", "ascending"), ("transaction_id", "ascending")])
    return Skew(vectors=logged.num_rows, rows=ordered.combine_chunks())


def _positions(ids: Positions, among: Positions) -> Positions:
    """Where each id stands in `among`, -1 where it does not."""
    if not len(among):
        return np.full(len(ids), -1, dtype=np.int64)
    order = np.argsort(among, kind="stable")
    nearest = order[np.searchsorted(among, ids, sorter=order).clip(max=len(among) - 1)]
    return np.where(among[nearest] == ids, nearest, -1).astype(np.int64)


def _between(times: Positions, as_of: Positions) -> Mask:
    if not len(as_of):
        return np.zeros(len(times), dtype=np.bool_)
    return np.asarray((times >= as_of.min()) & (times <= as_of.max()), dtype=np.bool_)


def _mismatches(
    logged: pa.Table, at: Positions, batch: BatchVectors, features: Sequence[str]
) -> pa.Table:
    """Rows for the vectors that differ from the batch values at positions `at`."""
    as_of = integers(logged["known_ts"], null=0)
    wrong = {
        "definition": ~as_mask(pc.equal(logged["definition"], definition_of(features))),
        "length": ~as_mask(
            pc.equal(pc.binary_length(logged["vector"]), _VALUE_BYTES * len(features))
        ),
        "as_of": as_of != batch.known_ts[at],
    }
    comparable = ~np.logical_or.reduce(list(wrong.values()))
    online = _vectors(logged.filter(array(comparable)), len(features))
    offline = batch.values[at[comparable]].astype(np.float32, copy=False)
    differs = ~_same_bits(online, offline)
    rows = np.flatnonzero(differs.any(axis=1))
    first = differs[rows].argmax(axis=1)
    found = [
        _rows(
            MISMATCH,
            _taken(logged, "transaction_id", np.flatnonzero(comparable)[rows]),
            as_of[comparable][rows],
            reason=["value"] * len(rows),
            differing=differs[rows].sum(axis=1),
            feature=[features[column] for column in first],
            logged=online[rows, first],
            batch=offline[rows, first],
        )
    ]
    for reason, flags in _first_reasons(wrong).items():
        ids = _taken(logged, "transaction_id", np.flatnonzero(flags))
        found.append(_rows(MISMATCH, ids, as_of[flags], reason=[reason] * len(ids)))
    return pa.concat_tables(found)


def _first_reasons(wrong: dict[str, Mask]) -> dict[str, Mask]:
    """The same flags, each row under its first reason only."""
    before = np.zeros(len(next(iter(wrong.values()))), dtype=np.bool_)
    first = {}
    for reason, flags in wrong.items():
        first[reason] = flags & ~before
        before = before | flags
    return first


def _vectors(logged: pa.Table, width: int) -> npt.NDArray[np.float32]:
    vectors: Array = logged["vector"].to_pylist()
    packed = b"".join(vectors)
    return np.frombuffer(packed, dtype="<f4").reshape(logged.num_rows, width)


def _same_bits(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> Mask:
    """Bitwise equality; any NaN equals any NaN, but 0.0 is not -0.0."""
    bits = np.ascontiguousarray(left).view(np.uint32), np.ascontiguousarray(right).view(np.uint32)
    return np.asarray((bits[0] == bits[1]) | (np.isnan(left) & np.isnan(right)), dtype=np.bool_)


def _taken(table: pa.Table, name: str, rows: npt.NDArray[np.intp]) -> Positions:
    return integers(table[name], null=MISSING_ID)[rows]


def _rows(kind: str, ids: Positions, known_ts: Positions, **details: Array) -> pa.Table:
    known: dict[str, Array] = {
        "transaction_id": ids,
        "known_ts": known_ts,
        "kind": [kind] * len(ids),
        **details,
    }
    columns = [
        # NaN is a value here, so nothing may read it as null.
        array(known[column.name], column.type, from_pandas=False)
        if column.name in known
        else nulls(len(ids), column.type)
        for column in FEATURE_SKEW.columns
    ]
    return pa.table(columns, schema=FEATURE_SKEW.schema)
