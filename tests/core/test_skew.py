"""Skew: zero on equal vectors, and each of the three counts for its own cause."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.skew import FEATURE_SKEW, BatchVectors, Skew, compare, definition_of, sampled
from ibook_assets.core.tables import FEATURE_LOG

FEATURES = FEATURE_VIEWS[0].qualified_names[:3]
NONE_WRONG = {"mismatch": 0, "missing": 0, "extra": 0}


def batch_of(orders: int = 6) -> BatchVectors:
    values = np.arange(orders * 3, dtype=np.float32).reshape(orders, 3)
    values[1:2, 2] = np.nan
    return BatchVectors(np.arange(orders) + 10, np.arange(orders) * 100, values)


def logged(batch: BatchVectors, **changed: list[object]) -> pa.Table:
    """What the online side would log: every order of `batch`."""
    columns: dict[str, list[object]] = {
        "transaction_id": batch.transaction_ids.tolist(),
        "known_ts": batch.known_ts.tolist(),
        "definition": [definition_of(FEATURES)] * len(batch.known_ts),
        "vector": [row.astype("<f4").tobytes() for row in batch.values],
    }
    return pa.table({**columns, **changed}, schema=FEATURE_LOG.schema)


def found(vectors: pa.Table, batch: BatchVectors, share: float = 1.0) -> Skew:
    skew = compare(vectors, batch, features=FEATURES, share=share)
    assert skew.rows.schema == FEATURE_SKEW.schema
    return skew


def test_equal_vectors_are_no_skew_whatever_the_order_and_the_nan() -> None:
    batch = batch_of()
    payload = np.array([0x7FC00123], dtype="<u4").view("<f4")[0]
    online = dataclasses.replace(batch, values=batch.values.copy())
    online.values[1, 2] = payload
    shuffled = logged(online).take(pa.array([3, 0, 5, 1, 4, 2]))
    skew = found(shuffled, batch)
    assert skew.counts == NONE_WRONG
    assert skew.vectors == 6


@pytest.mark.parametrize(
    ("online", "offline"),
    [(1.0, np.nextafter(np.float32(1), np.float32(2))), (0.0, -0.0), (np.nan, 0.0)],
    ids=["one bit", "sign of zero", "undefined"],
)
def test_a_flipped_value_is_a_mismatch(online: float, offline: float) -> None:
    batch = batch_of()
    vectors = dataclasses.replace(batch, values=batch.values.copy())
    vectors.values[2, 1] = online
    batch.values[2, 1] = offline
    skew = found(logged(vectors), batch)
    assert skew.counts == {**NONE_WRONG, "mismatch": 1}
    (row,) = skew.rows.to_pylist()
    assert (row["transaction_id"], row["reason"], row["differing"]) == (12, "value", 1)
    assert row["feature"] == FEATURES[1]
    np.testing.assert_array_equal([row["logged"], row["batch"]], [online, offline])


def test_an_order_that_batch_does_not_have_is_missing() -> None:
    batch = batch_of()
    without = BatchVectors(*(np.delete(a, 4, 0) for a in dataclasses.astuple(batch)))
    skew = found(logged(batch), without)
    assert skew.counts == {**NONE_WRONG, "missing": 1}
    assert skew.rows["transaction_id"].to_pylist() == [14]


def test_an_order_between_the_first_and_the_last_that_was_not_logged_is_extra() -> None:
    batch = batch_of()
    # Orders 10 and 15 lie outside the first and the last logged as-of; 12 does not.
    skew = found(logged(batch).take(pa.array([1, 3, 4])), batch)
    assert skew.counts == {**NONE_WRONG, "extra": 1}
    assert skew.rows["transaction_id"].to_pylist() == [12]


def test_only_orders_of_the_sampled_share_can_be_extra() -> None:
    batch = batch_of(400)
    chosen = sampled(batch.transaction_ids, 0.25)
    chosen[[0, 399]] = True
    vectors = logged(batch).filter(pa.array(chosen))
    assert found(vectors, batch, share=0.25).counts == NONE_WRONG
    assert found(vectors, batch).counts["extra"] == 400 - chosen.sum()


def test_nothing_logged_is_nothing_wrong() -> None:
    assert found(FEATURE_LOG.schema.empty_table(), batch_of()).counts == NONE_WRONG
    nothing = batch_of(0)
    assert found(logged(nothing), nothing).counts == NONE_WRONG
    assert found(logged(batch_of()), nothing).counts == {**NONE_WRONG, "missing": 6}


def test_a_vector_that_cannot_be_compared_is_a_mismatch_with_its_reason() -> None:
    batch = batch_of()
    vectors = logged(batch).to_pylist()
    vectors[0]["definition"] = "of last week"
    vectors[0]["vector"] = b""
    vectors[1]["vector"] = vectors[1]["vector"][:-1]
    vectors[2]["known_ts"] += 1
    skew = found(pa.Table.from_pylist(vectors, schema=FEATURE_LOG.schema), batch)
    assert skew.counts == {**NONE_WRONG, "mismatch": 3}
    assert skew.rows["reason"].to_pylist() == ["definition", "length", "as_of"]


def test_a_definition_names_features_their_order_and_what_they_mean() -> None:
    assert definition_of(FEATURES) == definition_of(list(FEATURES))
    assert definition_of(FEATURES) != definition_of(FEATURES[::-1])
    assert definition_of(FEATURES) != definition_of(FEATURES[:2])
    assert len(definition_of(FEATURES)) == 16


@given(st.lists(st.integers(0, 2**63 - 1)), st.floats(0, 1), st.floats(0, 1))
def test_a_greater_share_holds_every_smaller_one(ids: list[int], a: float, b: float) -> None:
    orders = np.array(ids, dtype=np.int64)
    small, great = sorted((a, b))
    assert not (sampled(orders, small) & ~sampled(orders, great)).any()
    assert sampled(orders, 1.0).all()
    assert not sampled(orders, 0.0).any()


def test_a_share_of_consecutive_ids_is_about_that_share() -> None:
    # 100,000 draws at 0.3: five standard deviations are 5 * sqrt(0.3 * 0.7 / 1e5) = 0.0072.
    assert abs(sampled(np.arange(100_000), 0.3).mean() - 0.3) < 0.0073
