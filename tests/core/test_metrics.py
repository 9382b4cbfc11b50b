"""Metrics: equal to scikit-learn's, worked examples, honest intervals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from ibook_assets.core.errors import ContractError
from ibook_assets.core.metrics import (
    Interval,
    Ranking,
    amount_bands,
    average_precision,
    bootstrap_weights,
    brier_score,
    calibration_bins,
    card_precision,
    expected_calibration_error,
    log_auc,
    recall_at_fpr,
    roc_auc,
    sub_populations,
    weighted_average_precision,
    weighted_roc_auc,
)

# Few different scores, so that ties are the rule.
rows = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 12), st.integers(1, 4)), min_size=2, max_size=60
).filter(lambda found: len({label for label, _, _ in found}) == 2)


def _columns(found: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    table = np.array(found)
    return table[:, 0], table[:, 1] / 12, table[:, 2].astype(np.float64)


@given(rows)
def test_average_precision_and_auc_equal_scikit_learn(found: list[tuple[int, int, int]]) -> None:
    labels, scores, _ = _columns(found)
    assert average_precision(labels, scores) == pytest.approx(
        average_precision_score(labels, scores)
    )
    assert roc_auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))


@given(rows)
def test_weights_mean_repeated_rows(found: list[tuple[int, int, int]]) -> None:
    labels, scores, weights = _columns(found)
    times = weights.astype(int)
    ranking = Ranking.of(labels, scores)
    again = np.repeat(labels, times), np.repeat(scores, times)
    assert weighted_average_precision(ranking, weights[None])[0] == pytest.approx(
        average_precision(*again)
    )
    assert weighted_roc_auc(ranking, weights[None])[0] == pytest.approx(roc_auc(*again))


@given(rows, st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]))
def test_recall_at_fpr_is_the_best_allowed_point_of_the_roc_curve(
    found: list[tuple[int, int, int]], max_fpr: float
) -> None:
    labels, scores, _ = _columns(found)
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert recall_at_fpr(labels, scores, max_fpr=max_fpr) == pytest.approx(
        tpr[fpr <= max_fpr].max()
    )


@given(rows, st.sampled_from([0.01, 0.1, 0.5]))
def test_log_auc_is_the_area_over_the_logarithm_of_the_false_positive_rate(
    found: list[tuple[int, int, int]], min_fpr: float
) -> None:
    labels, scores, _ = _columns(found)
    legitimate = scores[labels == 0]
    above = [
        ((legitimate > score).mean() + (legitimate >= score).mean()) / 2
        for score in scores[labels == 1]
    ]
    # The share of frauds that is caught at a false-positive rate, over the rate's logarithm.
    axis = np.linspace(np.log(min_fpr), 0, 20_001)
    caught = (np.array(above)[:, None] <= np.exp(axis)).mean(axis=0)
    area = np.trapezoid(caught, axis) / -np.log(min_fpr)
    ranking = Ranking.of(labels, scores)
    assert log_auc(ranking, min_fpr=min_fpr) == pytest.approx(area, abs=1e-3)


@given(rows)
def test_log_auc_does_not_depend_on_the_share_of_fraud(found: list[tuple[int, int, int]]) -> None:
    labels, scores, _ = _columns(found)
    times = np.where(labels == 1, 1, 3)
    again = Ranking.of(np.repeat(labels, times), np.repeat(scores, times))
    assert log_auc(again, min_fpr=0.1) == pytest.approx(
        log_auc(Ranking.of(labels, scores), min_fpr=0.1)
    )


@given(rows)
def test_a_monotone_change_of_scores_changes_no_ranking_metric(
    found: list[tuple[int, int, int]],
) -> None:
    labels, scores, _ = _columns(found)
    assert average_precision(labels, scores) == average_precision(labels, 3 * scores - 1)


def test_no_fraud_has_no_average_precision() -> None:
    assert np.isnan(average_precision(np.zeros(3, int), np.arange(3.0)))


def test_calibration_error_worked_example() -> None:
    # Two bins of two: |0.1 - 0| and |0.8 - 0.5|, mean 0.2.
    labels, probabilities = np.array([0, 0, 1, 0]), np.array([0.1, 0.1, 0.8, 0.8])
    assert expected_calibration_error(labels, probabilities, n_bins=2) == pytest.approx(0.2)
    assert [b.rows for b in calibration_bins(labels, probabilities, n_bins=2)] == [2, 2]
    # Squared errors are 0.01, 0.01, 0.04 and 0.64; their mean is 0.175.
    assert brier_score(labels, probabilities) == pytest.approx(0.175)


@given(rows)
def test_calibration_bins_hold_every_row_once(found: list[tuple[int, int, int]]) -> None:
    labels, scores, _ = _columns(found)
    bins = calibration_bins(labels, scores)
    assert sum(b.rows for b in bins) == labels.size
    assert sum(b.rows * b.observed for b in bins) == pytest.approx(labels.sum())


def test_card_precision_leaves_caught_cards_out_on_later_days() -> None:
    # Day 0, top 2: cards 7 (fraud) and 8 -> 1/2. Day 1 without card 7: 9 (fraud), 8 -> 1/2.
    day = np.array([0, 0, 0, 1, 1, 1])
    card = np.array([7, 8, 9, 7, 8, 9])
    score = np.array([0.9, 0.8, 0.1, 0.99, 0.5, 0.6])
    labels = np.array([1, 0, 0, 1, 0, 1])
    assert card_precision(labels, score, day=day, entity=card, top=2) == 0.5


def test_card_precision_takes_the_highest_score_and_any_fraud_of_a_card() -> None:
    # Card 1 scores 0.9 by a legitimate row, its fraud row only 0.1: alerted and truly defrauded.
    labels, score = np.array([0, 1, 0]), np.array([0.9, 0.1, 0.5])
    card, day = np.array([1, 1, 2]), np.zeros(3, int)
    assert card_precision(labels, score, day=day, entity=card, top=1) == 1.0


def test_bootstrap_draws_whole_clusters_and_is_seeded() -> None:
    clusters = np.array([5, 5, 9, 9, 9, 2])

    def draw() -> np.ndarray:
        rng = np.random.default_rng(1)
        return np.concatenate(list(bootstrap_weights(6, rng=rng, replicates=50, clusters=clusters)))

    weights = draw()
    assert weights.shape == (50, 6)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 2] == weights[:, 4]).all()
    # Three clusters are drawn each time.
    assert (weights[:, [0, 2, 5]].sum(axis=1) == 3).all()
    assert (draw() == weights).all()


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_the_same_ranking_twice_differs_by_nothing_in_every_draw(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, scores = rng.integers(0, 2, 80), rng.random(80)
    labels[:2] = [0, 1]
    one, other = Ranking.of(labels, scores), Ranking.of(labels, scores**3)
    for weights in bootstrap_weights(80, rng=rng, replicates=20):
        assert np.array_equal(
            weighted_average_precision(one, weights),
            weighted_average_precision(other, weights),
            equal_nan=True,
        )


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    # 60 worlds with a known AUC of Phi(1 / sqrt 2) = 0.7602; at 90 % about 54 intervals hold it,
    # fewer than 47 or more than 60 with odds of about 1 in 1,000.
    rng = np.random.default_rng(11)
    held = 0
    for _ in range(60):
        labels = rng.integers(0, 2, 300)
        scores = rng.normal(size=300) + labels
        ranking = Ranking.of(labels, scores)
        draws = np.concatenate(
            [weighted_roc_auc(ranking, w) for w in bootstrap_weights(300, rng=rng, replicates=200)]
        )
        found = Interval.of(roc_auc(labels, scores), draws, level=0.9)
        held += found.low <= 0.7602 <= found.high
    assert held >= 47


def test_an_interval_without_finite_draws_has_no_bounds() -> None:
    assert np.isnan(Interval.of(0.5, np.array([np.nan])).low)


def test_sub_populations_name_nulls_and_leave_small_groups_out() -> None:
    labels = np.array([1, 0] * 60)
    probabilities = np.tile([0.9, 0.2], 60)
    tier: list[str | None] = ["vip"] * 60 + [None] * 58 + ["plus"] * 2
    found = sub_populations(labels, probabilities, threshold=0.5, attributes={"tier": tier})
    assert [(s.value, s.rows, s.frauds) for s in found] == [("vip", 60, 30), ("unknown", 58, 29)]
    assert found[0].recall == 1.0
    assert found[0].flagged_share == 0.5


def test_amount_bands_are_cut_at_their_own_quantiles() -> None:
    bands = amount_bands(np.arange(100, 1_100, 100))
    # Ten amounts 1.00 to 10.00: the median is 5.00, the 90 % quantile 9.00.
    assert bands.tolist() == ["<= 5.00"] * 5 + ["5.00 - 9.00"] * 4 + ["> 9.00"]


@pytest.mark.parametrize(
    ("labels", "scores"),
    [
        (np.array([0, 1]), np.array([0.5])),
        (np.array([], int), np.array([])),
        (np.array([0, 1]), np.array([0.5, np.nan])),
        (np.array([0, 2]), np.array([0.5, 0.1])),
    ],
    ids=["lengths", "empty", "nan", "label 2"],
)
def test_refuses_what_it_cannot_rank(labels: np.ndarray, scores: np.ndarray) -> None:
    with pytest.raises(ContractError):
        average_precision(labels, scores)
