"""Keyed randomness: reference vectors, permutations, and rows that do not depend on chunking."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibook_sim.world import WorldConfig
from ibook_sim.world.orders import OrderSource
from ibook_sim.world.plan import Plan
from ibook_sim.world.randomness import (
    Namespace,
    Stream,
    generator,
    identifier_key,
    opaque_all,
    philox,
    row_key,
)

CONFIG = WorldConfig(users=2_000, events=60, orders_per_day=300)
ORDERS = OrderSource(CONFIG, Plan(CONFIG))
FULL = {day: ORDERS.rows(day) for day in (0, 1, 9)}


@pytest.mark.parametrize(
    ("row", "block", "key", "words"),
    [
        (0, 0, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ],
    ids=["zeros"],
)
def test_philox_gives_the_published_words(
    row: int, block: int, key: tuple[int, int], words: tuple[int, ...]
) -> None:
    # Known answer of Philox4x32-10 in the Random123 distribution (kat_vectors).
    got = philox(row, block, np.uint64(key[0]), np.uint64(key[1]))
    assert tuple(int(word) for word in got) == words


def test_words_of_neighbouring_rows_are_uniform_and_unrelated() -> None:
    key = row_key(1, Stream.ORDERS, 3)
    u = np.array([philox(row, 0, key[0], key[1]) for row in range(4_000)], np.float64) / 2**32
    assert np.abs(u.mean(axis=0) - 0.5).max() < 4 * np.sqrt(1 / 12 / 4_000)
    related = np.corrcoef(np.concatenate([u[1:], u[:-1]], axis=1).T) - np.eye(8)
    assert np.abs(related).max() < 5 / np.sqrt(4_000)


@given(st.sets(st.integers(0, 2**48 - 1), max_size=200), st.integers(0, 10))
def test_identifiers_are_a_permutation(numbers: set[int], seed: int) -> None:
    key = identifier_key(seed, Namespace.USER)
    ids = opaque_all(np.array(sorted(numbers), np.int64), key)
    assert len(set(ids.tolist())) == len(numbers)
    assert all(0 <= i < 2**48 for i in ids.tolist())


def test_streams_are_independent_of_each_other() -> None:
    draws = {generator(7, stream, 1).random() for stream in Stream}
    assert len(draws) == len(Stream)


@settings(max_examples=25)
@given(st.sampled_from(sorted(FULL)), st.data())
def test_any_subset_of_rows_in_any_order_is_the_same(day: int, data: st.DataObject) -> None:
    size = FULL[day].row.size
    rows = np.array(data.draw(st.lists(st.integers(0, size - 1), max_size=20)), np.int64)
    some = ORDERS.rows(day, rows)
    for name, column in FULL[day]._asdict().items():
        assert np.array_equal(getattr(some, name), column[rows]), name
