"""Compiled pieces that the batch sweep and the point query share: hashing, links, formulas."""

# Compiled functions take their arrays by position.
# ruff: noqa: PLR0917

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

MISSING: Final = -1
"""Stands for null, for a value that does not count, and for an undefined aggregate."""

NEVER: Final = 2**62
"""Link of a value that was not seen before, or will not be seen again."""

_HASH: Final = np.uint64(0x9E3779B97F4A7C15)

# Numba's own annotations refuse options that it takes.
_njit: Any = numba.njit
_config: Any = numba.config

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _cache_folder() -> str:
    # Numba dates cached code by the function's own file. Ours call across files, so the folder is
    # named by the hash of them all: a change in one can never leave another's old code in use.
    # Specs are data to them: a new feature compiles nothing.
    sources = [
        path
        for path in sorted(Path(__file__).parent.glob("*.py"))
        if path.stem not in {"catalog", "families"}
    ]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    base = _config.CACHE_DIR or Path(__file__).parent / "__pycache__"
    return str(Path(base) / f"kernels-{digest[:16]}")


_CACHE_FOLDER: Final = _cache_folder()


def compiled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """`function` as machine code: compiled on first use, cached on disk, without the GIL."""
    elsewhere = _config.CACHE_DIR
    _config.CACHE_DIR = _CACHE_FOLDER
    try:
        jit = _njit(cache=True, nogil=True, error_model="numpy")(function)
    finally:
        _config.CACHE_DIR = elsewhere
    return cast("Callable[_P, _R]", jit)


def inner(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """`function` as machine code for compiled callers only; it becomes part of their cache."""
    jit = _njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
    return cast("Callable[_P, _R]", jit(function))


@inner
def _slot(key: int, bits: int) -> int:
    mixed = np.uint64(key) * _HASH
    return int(np.int64(mixed >> np.uint64(64 - bits)))


@inner
def _insert(table: Ints, key: int, number: int, bits: int) -> int:
    mask = (1 << bits) - 1
    at = _slot(key, bits)
    while table[at, 1] >= 0 and table[at, 0] != key:
        at = (at + 1) & mask
    if table[at, 1] < 0:
        table[at, 0] = key
        table[at, 1] = number
    return int(table[at, 1])


@inner
def _doubled(table: Ints, bits: int) -> Ints:
    wider = np.full((1 << (bits + 1), 2), MISSING, np.int64)
    for at in range(len(table)):
        if table[at, 1] >= 0:
            _insert(wider, table[at, 0], table[at, 1], bits + 1)
    return wider


@compiled
def number_keys(keys: Ints, numbers: Ints) -> tuple[Ints, int]:
    """Number the different `keys` 0, 1, … as they appear; negative keys get MISSING.

    Returns the hash table for `find_keys` and how many keys there are.
    """
    bits = 12
    table = np.full((1 << bits, 2), MISSING, np.int64)
    count = 0
    for i in range(len(keys)):
        if keys[i] < 0:
            numbers[i] = MISSING
            continue
        found = _insert(table, keys[i], count, bits)
        numbers[i] = found
        if found == count:
            count += 1
            if 2 * count > len(table):
                table = _doubled(table, bits)
                bits += 1
    return table, count


@compiled
def find_keys(table: Ints, keys: Ints, numbers: Ints) -> None:
    """The number of each key in `table`, MISSING for a key that is not there."""
    bits = 0
    while (1 << bits) < len(table):
        bits += 1
    mask = len(table) - 1
    for i in range(len(keys)):
        numbers[i] = MISSING
        if keys[i] >= 0:
            at = _slot(keys[i], bits)
            while table[at, 1] >= 0 and table[at, 0] != keys[i]:
                at = (at + 1) & mask
            numbers[i] = table[at, 1]


@compiled
def group_starts(numbers: Ints, count: int, first: int) -> Ints:
    """Where each number's rows begin when rows are grouped by number, the first at `first`."""
    starts = np.zeros(count + 1, np.int64)
    for number in numbers:
        if number >= 0:
            starts[number + 1] += 1
    starts[0] = first
    for i in range(count):
        starts[i + 1] += starts[i]
    return starts


@inner
def table_bits(rows: int) -> int:
    """log2 of the hash table that holds `rows` values at most half full."""
    bits = 1
    while (1 << bits) < 2 * rows:
        bits += 1
    return bits


@inner
def link_values(records: Ints, first: int, end: int, column: int, table: Ints, links: Ints) -> None:
    """Where each row's value was before and will be next, within rows `[first, end)`.

    `links[i - first]` becomes (previous, next) row or NEVER; a missing value gets NEVER and -1,
    so that it counts nowhere. `table` is scratch of `1 << table_bits(rows)` or more that holds
    no row from `first` on.
    """
    bits = table_bits(end - first)
    mask = (1 << bits) - 1
    for i in range(first, end):
        value = records[i, column]
        links[i - first, 0] = NEVER
        links[i - first, 1] = MISSING
        if value < 0:
            continue
        at = _slot(value, bits)
        while table[at] >= first and records[table[at], column] != value:
            at = (at + 1) & mask
        before = table[at]
        links[i - first, 0] = MISSING
        links[i - first, 1] = NEVER
        if before >= first:
            links[i - first, 0] = before
            links[before - first, 1] = i
        table[at] = i


@inner
def most_frequent(counts: Ints) -> int:
    """The smallest code with the highest count; MISSING when all are 0."""
    best = 0
    code = MISSING
    for i in range(len(counts)):
        if counts[i] > best:
            best = counts[i]
            code = i
    return code


@inner
def evaluate(a: int, b: int, c: int, d: int, p: int, q: int) -> float:
    """`(a * b - c + p) / (d + q)`: integers, then one division; NaN when undefined."""
    denominator = d + q
    # One sign bit among the operands is enough: a missing one is negative.
    if (a | b | c | d) < 0 or denominator == 0:
        return np.nan
    return float(a * b - c + p) / float(denominator)


@compiled
def finish(operands: Ints, program: Ints, out: Floats, at: int) -> None:
    """Evaluate `program` over `operands` (n, rows) into columns `at` ... of `out` (features, …)."""
    for f in range(len(program)):
        a = operands[program[f, 0]]
        b = operands[program[f, 1]]
        c = operands[program[f, 2]]
        d = operands[program[f, 3]]
        p = program[f, 4]
        q = program[f, 5]
        values = out[f, at : at + operands.shape[1]]
        for row in range(len(values)):
            values[row] = np.float32(evaluate(a[row], b[row], c[row], d[row], p, q))
