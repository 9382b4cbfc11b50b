"""Costs: the chosen threshold is the cheapest, and the arithmetic by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibook_assets.core.costs import HOLD_NOTHING, CostModel, cost_curve, savings
from ibook_assets.core.errors import ContractError

COSTS = CostModel(loss_share=1.0, chargeback_fee_cents=1_500, review_cents=300, friction_share=0.1)

orders = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 10), st.integers(1, 100_000)),
    min_size=1,
    max_size=40,
)


def test_costs_of_one_order() -> None:
    # 100.00 of fraud that passes costs 10,000 + 1,500; held, a review of 300.
    # 100.00 of honest money costs nothing when it passes; held, 300 + 10 % of 10,000.
    fraud, amount = np.array([1, 0]), np.array([10_000, 10_000])
    assert COSTS.passed_cents(fraud, amount).tolist() == [11_500, 0]
    assert COSTS.held_cents(fraud, amount).tolist() == [300, 1_300]


@given(orders)
def test_no_threshold_is_cheaper_than_the_best(found: list[tuple[int, int, int]]) -> None:
    table = np.array(found)
    labels, probabilities, amounts = table[:, 0], table[:, 1] / 10, table[:, 2]
    curve = cost_curve(labels, probabilities, amounts, COSTS)
    best = savings(labels, probabilities, amounts, threshold=curve.best_threshold, costs=COSTS)
    assert best.decided_cents == pytest.approx(curve.cost_cents[curve.best])
    for threshold in [*np.linspace(0, 1, 21), HOLD_NOTHING]:
        other = savings(labels, probabilities, amounts, threshold=threshold, costs=COSTS)
        assert best.decided_cents <= other.decided_cents + 1e-6
    assert best.saved_cents >= 0
    assert best.perfect_cents <= best.decided_cents


@given(orders)
def test_a_curve_counts_what_each_threshold_holds(found: list[tuple[int, int, int]]) -> None:
    table = np.array(found)
    probabilities = table[:, 1] / 10
    curve = cost_curve(table[:, 0], probabilities, table[:, 2], COSTS)
    held = [int((probabilities >= threshold).sum()) for threshold in curve.thresholds]
    assert curve.held.tolist() == held


def test_calibrated_probabilities_give_the_break_even_threshold() -> None:
    # Equal amounts of 1,000: holding pays from p * 2,500 >= 300 + (1 - p) * 100, p >= 0.1538.
    probabilities = np.arange(1, 1_000) / 1_000
    amounts = np.full(probabilities.size, 1_000)
    curve = cost_curve(probabilities, probabilities, amounts, COSTS)
    assert curve.best_threshold == pytest.approx(0.154)


def test_nothing_is_held_where_fraud_is_cheaper_than_reviews() -> None:
    free = CostModel(loss_share=0, chargeback_fee_cents=0, review_cents=300, friction_share=0)
    curve = cost_curve(np.array([1, 0]), np.array([1.0, 0.2]), np.array([500, 500]), free)
    assert curve.best_threshold == HOLD_NOTHING > 1.0
    found = savings(
        np.array([1]), np.array([1.0]), np.array([5]), threshold=HOLD_NOTHING, costs=free
    )
    assert np.isnan(found.share_of_possible)


def test_refuses_unequal_lengths() -> None:
    with pytest.raises(ContractError, match="equally long"):
        cost_curve(np.array([1]), np.array([0.5, 0.5]), np.array([1]), COSTS)
