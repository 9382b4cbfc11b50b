"""Flat trees: XGBoost's own bits for any model and row, and refusal of what they cannot hold."""

from __future__ import annotations

import logging
from typing import Any, cast

import numpy as np
import pytest
import xgboost as xgb
from hypothesis import given, settings
from hypothesis import strategies as st

from ibook_assets.core.errors import ContractError
from ibook_assets.models.flat_trees import PROBE_ROWS, FlatTrees, Matrix, proven_trees

FEATURES = 5


def training_rows(seed: int, rows: int = 250) -> tuple[Matrix, Any]:
    """Coarse numbers, so that rows fall on thresholds, with a tenth missing."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-6, 7, (rows, FEATURES)).astype(np.float32) / np.float32(3)
    x[rng.random(x.shape) < 0.1] = np.nan
    return x, (np.nan_to_num(x[:, 0] * x[:, 1]) + rng.normal(0, 0.5, rows) > 0.2).astype(int)


def fitted(seed: int = 0, rounds: int = 20, **parameters: Any) -> xgb.Booster:
    """A booster over `training_rows`."""
    x, y = training_rows(seed)
    parameters = {"objective": "binary:logistic", "nthread": 1, "seed": seed} | parameters
    return xgb.train(parameters, xgb.DMatrix(x, y), num_boost_round=rounds)


def bits(margins: Matrix) -> list[int]:
    return cast("list[int]", np.asarray(margins, np.float32).view(np.uint32).tolist())


def xgboost_margins(booster: xgb.Booster, x: Matrix) -> Matrix:
    found = booster.inplace_predict(x, predict_type="margin", validate_features=False)
    return cast("Matrix", found)


boosters = st.builds(
    fitted,
    seed=st.integers(0, 1_000),
    rounds=st.integers(1, 30),
    max_depth=st.integers(0, 9),
    eta=st.sampled_from([0.03, 0.3, 1.0]),
    base_score=st.sampled_from([0.02, 0.5, None]),
    num_parallel_tree=st.integers(1, 3),
    grow_policy=st.sampled_from(["depthwise", "lossguide"]),
    max_leaves=st.sampled_from([0, 13]),
    objective=st.sampled_from(["binary:logistic", "reg:squarederror"]),
    subsample=st.just(0.7),
)
values = st.one_of(
    st.floats(width=32, allow_nan=True, allow_infinity=True), st.integers(-18, 18).map(float)
)


@settings(max_examples=60, deadline=None)
@given(booster=boosters, data=st.data())
def test_margins_are_xgboosts_bit_for_bit(booster: xgb.Booster, data: st.DataObject) -> None:
    trees = FlatTrees(booster)
    drawn = data.draw(st.lists(st.lists(values, min_size=5, max_size=5), max_size=20))
    own = np.array(drawn, np.float32).reshape(-1, FEATURES)
    x = np.concatenate([own, trees.probing_rows(), training_rows(1)[0]])
    together = trees.margins(x)
    assert bits(together) == bits(xgboost_margins(booster, x))
    alone = [trees.margins(x[i : i + 1])[0] for i in range(len(x))]
    assert bits(np.array(alone, np.float32)) == bits(together), "a row's bits depend on others"


def test_a_model_without_a_tree_stays_with_xgboost_unless_its_base_score_was_given() -> None:
    # XGBoost adds a base score that was never fitted as it is, and not as log-odds.
    assert proven_trees(fitted(rounds=0)) is None
    given_one = fitted(rounds=0, base_score=0.02)
    trees, x = proven_trees(given_one), training_rows(1)[0]
    assert trees is not None
    assert bits(trees.margins(x)) == bits(xgboost_margins(given_one, x))


def test_probing_rows_hold_every_threshold_its_neighbours_and_nan() -> None:
    booster = fitted(max_depth=4)
    cuts = booster.trees_to_dataframe().dropna(subset=["Split"])
    rows = FlatTrees(booster).probing_rows()
    assert 20 < len(rows) <= PROBE_ROWS
    for column in range(FEATURES):
        found = set(rows[:, column].tolist())
        own = np.asarray(cuts[cuts["Feature"] == f"f{column}"]["Split"].unique(), np.float32)
        sides = [np.nextafter(own, np.float32(way)) for way in (-np.inf, np.inf)]
        expected = set(np.concatenate([own, *sides]).tolist())
        # One value in ten gives way to NaN.
        assert len(expected & found) > 0.7 * len(expected) > 0
        assert np.isnan(rows[:, column]).any()


def test_equal_trees_are_proven() -> None:
    booster = fitted()
    trees = proven_trees(booster)
    assert trees is not None
    x = training_rows(3)[0]
    assert bits(trees.margins(x)) == bits(xgboost_margins(booster, x))


def test_a_single_wrong_bit_leaves_the_trees_with_xgboost(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right = FlatTrees.margins

    def off_by_one_ulp(self: FlatTrees, x: Matrix) -> Matrix:
        found = right(self, x)
        found[-1] = np.nextafter(found[-1], np.float32(np.inf))
        return found

    monkeypatch.setattr(FlatTrees, "margins", off_by_one_ulp)
    with caplog.at_level(logging.WARNING):
        assert proven_trees(fitted()) is None
    (record,) = caplog.records
    assert "1 of " in record.__dict__["reason"]


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ({"booster": "dart", "rate_drop": 0.5}, "plain trees"),
        ({"booster": "gblinear"}, "plain trees"),
        ({"objective": "multi:softprob", "num_class": 2}, "2 classes"),
    ],
    ids=["dart", "linear", "classes"],
)
def test_other_boosters_stay_with_xgboost(
    parameters: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    booster = fitted(**parameters)
    with pytest.raises(ContractError, match=why):
        FlatTrees(booster)
    with caplog.at_level(logging.WARNING):
        assert proven_trees(booster) is None
    assert why in caplog.records[-1].__dict__["reason"]


def test_categorical_splits_stay_with_xgboost() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 12, (300, 1)).astype(np.float32)
    y = np.isin(x[:, 0], [1, 5, 7, 11]).astype(int)
    matrix = xgb.DMatrix(x, y, feature_types=["c"], enable_categorical=True)
    booster = xgb.train({"max_cat_to_onehot": 1, "nthread": 1}, matrix, num_boost_round=2)
    with pytest.raises(ContractError, match="categories"):
        FlatTrees(booster)
