"""Keyed randomness: every draw is a pure function of (seed, stream, key, position).

Plans (counts, arrivals) draw from numpy's Philox generator seeded by
`SeedSequence(seed, spawn_key=(stream, *key))`. Rows draw from a Philox4x32-10 block function
keyed by the same seed sequence, with the row's number as the counter, so any subset of rows, in
any order and in any process, gets the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Final, ParamSpec, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Words = npt.NDArray[np.uint64]

_P = ParamSpec("_P")
_R = TypeVar("_R")


def jit(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Compile with Numba, keeping the signature for the type checker."""
    return cast("Callable[_P, _R]", numba.njit(cache=True, nogil=True)(function))


class Stream(IntEnum):
    """Independent sources of randomness; the numbers are part of the world's definition."""

    EVENTS = 0
    DEMAND = 1
    ACCOUNTS = 2
    RENEWALS = 3
    ARRIVALS = 4
    ORDERS = 5
    FATES = 6
    SESSIONS = 7
    VISITORS = 8
    IDENTIFIERS = 9
    VENUES = 10
    SEED_DATA = 11
    CHAOS = 12
    DRIFT = 13
    TRAFFIC = 14
    SERVICE = 15
    LOAD = 16


class Namespace(IntEnum):
    """Kinds of opaque identifiers."""

    TRANSACTION = 0
    USER = 1
    CARD = 2
    DEVICE = 3
    IP = 4
    VIEW = 5
    SESSION = 6
    REFUND = 7


ID_BITS: Final = 48
"""Opaque identifiers are below 2**48, so JSON numbers carry them exactly."""

_MASK32: Final = np.uint64(0xFFFFFFFF)
_MASK48: Final = np.uint64(2**ID_BITS - 1)
_U32: Final = np.uint64(32)
_M0: Final = np.uint64(0xD2511F53)
_M1: Final = np.uint64(0xCD9E8D57)
_W0: Final = np.uint64(0x9E3779B9)
_W1: Final = np.uint64(0xBB67AE85)


def generator(seed: int, stream: Stream, *key: int) -> np.random.Generator:
    """numpy's Philox generator of one cell of a stream; `key` is non-negative."""
    sequence = np.random.SeedSequence(seed, spawn_key=(int(stream), *key))
    return np.random.Generator(np.random.Philox(sequence))


def row_key(seed: int, stream: Stream, *key: int) -> Words:
    """Shape (2,): the Philox4x32 key of one cell of a stream."""
    sequence = np.random.SeedSequence(seed, spawn_key=(int(stream), *key))
    word = int(sequence.generate_state(1, np.uint64)[0])
    return np.array([word & 0xFFFFFFFF, word >> 32], dtype=np.uint64)


def identifier_key(seed: int, namespace: Namespace) -> Words:
    """Shape (4,): the key of a namespace's permutation of 48-bit numbers."""
    sequence = np.random.SeedSequence(seed, spawn_key=(int(Stream.IDENTIFIERS), int(namespace)))
    key = np.array(sequence.generate_state(4, np.uint64).tolist(), dtype=np.uint64)
    key[0] |= np.uint64(1)
    key[2] |= np.uint64(1)
    return key


@jit
def philox(
    row: int, block: int, key0: np.uint64, key1: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """Four 32-bit words (held in uint64) of counter (row, block).

    Source: Salmon et al. (2011), "Parallel random numbers: as easy as 1, 2, 3", Philox4x32-10.
    """
    wide = np.uint64(row)
    c0, c1 = wide & _MASK32, wide >> _U32
    c2, c3 = np.uint64(block), np.uint64(0)
    k0, k1 = key0, key1
    for _ in range(10):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (
            (p1 >> _U32) ^ c1 ^ k0,
            p1 & _MASK32,
            (p0 >> _U32) ^ c3 ^ k1,
            p0 & _MASK32,
        )
        k0, k1 = (k0 + _W0) & _MASK32, (k1 + _W1) & _MASK32
    return c0, c1, c2, c3


@jit
def unit(word: np.uint64) -> float:
    """A 32-bit word as a number in (0, 1)."""
    return (np.float64(word) + 0.5) * 2.0**-32


@jit
def unit_wide(high: np.uint64, low: np.uint64) -> float:
    """Two 32-bit words as a number in (0, 1) with 52 bits of resolution."""
    bits = (high << np.uint64(20)) | (low >> np.uint64(12))
    return (np.float64(bits) + 0.5) * 2.0**-52


@jit
def opaque(number: int, key: Words) -> int:
    """`number` (0 <= number < 2**48) under the namespace's permutation: unique, unordered."""
    x = np.uint64(number)
    x = (x * key[0] + key[1]) & _MASK48
    x ^= x >> np.uint64(23)
    x = (x * key[2] + key[3]) & _MASK48
    x ^= x >> np.uint64(26)
    x = (x * key[0]) & _MASK48
    x ^= x >> np.uint64(24)
    return int(np.int64(x))


@jit
def opaque_all(numbers: Ints, key: Words) -> Ints:
    """`opaque` of each number."""
    out = np.empty(numbers.size, np.int64)
    for i in range(numbers.size):
        out[i] = opaque(numbers[i], key)
    return out
