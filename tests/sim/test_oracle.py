"""The posterior: against enumeration, against reality, and against a model that sees it all."""

import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
import xgboost as xgb
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm

from ibook_assets.core.metrics import average_precision
from ibook_assets.core.times import DAY_US
from ibook_sim.world import WorldConfig
from ibook_sim.world.config import TAKEOVER_DAYS, TAKEOVER_ORDERS_PER_DAY
from ibook_sim.world.emissions import REFUNDED
from ibook_sim.world.fates import CHARGEBACK_LAW, REFUND_LAW, law_at
from ibook_sim.world.filter import Evidence, Links, Priors, posteriors
from ibook_sim.world.oracle import abuser_steps, takeover_steps
from tests.sim.small_world import CONFIG, ints


@given(st.floats(0.0, 60.0))
def test_takeover_steps_are_the_matrix_exponential(time: float) -> None:
    h, m, f = CONFIG.takeover_rate, 1 / TAKEOVER_DAYS, TAKEOVER_ORDERS_PER_DAY
    expected = expm(np.array([[-h, h], [m, -m - f]]) * time)
    assert takeover_steps(CONFIG, np.array([time]))[0] == pytest.approx(expected, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_filter_equals_the_sum_over_all_hidden_histories(seed: int, n: int) -> None:
    g = np.random.default_rng(seed)
    known = np.sort(g.integers(0, 200 * DAY_US, n))
    evidence = Evidence(
        known_us=known,
        rate=g.uniform(0.05, 2.0, (n, 5)),
        chargeback_us=np.where(g.random(n) < 0.5, known + g.integers(1, 60 * DAY_US, n), -1),
        refund_us=np.where(g.random(n) < 0.5, known + g.integers(1, 20 * DAY_US, n), -1),
        charged=np.array([0.1, 0.8, 0.7, 0.6, 0.5]),
        refunded=REFUNDED,
        chargeback_law=CHARGEBACK_LAW,
        refund_law=REFUND_LAW,
        horizon_us=120 * DAY_US,
    )
    time = g.exponential(2.0, n)
    links = Links(
        takeover=takeover_steps(CONFIG, time),
        survival=g.uniform(0.2, 1.0, n),
        abuser=abuser_steps(time),
        account=np.zeros(n, np.int64),
        first=np.arange(n) == 0,
    )
    priors = Priors(np.array([0.9]), np.array([0.2]), g.uniform(0.01, 0.3, (1, 3)))
    got = posteriors(np.array([0, n]), np.ones(n, np.bool_), evidence, links, priors)
    want = [_enumerated(evidence, links, priors, last) for last in range(n)]
    assert got == pytest.approx(want, rel=1e-9)


def _seen(evidence: Evidence, j: int, kind: int, last: int) -> float:
    """Likelihood of order `j` and of its fate as known when order `last` is judged."""
    out = float(evidence.rate[j, kind])
    if j == last:
        return out
    now = evidence.known_us[last]
    for moment, share, law in (
        (evidence.chargeback_us[j], evidence.charged[kind], CHARGEBACK_LAW),
        (evidence.refund_us[j], evidence.refunded[kind], REFUND_LAW),
    ):
        known = 0 <= moment <= now
        out *= share if known else 1 - share * law_at(law, now - evidence.known_us[j])
    return out


def _path(
    evidence: Evidence, links: Links, priors: Priors, path: Sequence[tuple[int, int]]
) -> float:
    """Weight of one history of an owner's account: (taken over?, placed by the thief?) each."""
    start = (priors.clean[0], priors.taken[0])
    weight = sum(start[s] * links.takeover[0, s, path[0][0]] for s in (0, 1))
    for j, (state, author) in enumerate(path):
        if j:
            weight *= links.takeover[j, path[j - 1][0], state]
        weight *= links.survival[j] * _seen(evidence, j, author, len(path) - 1)
    return float(weight)


def _enumerated(evidence: Evidence, links: Links, priors: Priors, last: int) -> float:
    """P(order `last` is fraud) by summing over every hidden state and every order's author."""
    total = fraud = 0.0
    for path in itertools.product(((0, 0), (1, 0), (1, 1)), repeat=last + 1):
        weight = _path(evidence, links, priors, path)
        total += weight
        fraud += weight * path[-1][1]
    for kind in (2, 3, 4):
        weight = priors.abuser[0, kind - 2]
        for j in range(last + 1):
            again = links.abuser[j, kind - 2] if j else 1.0
            weight *= again * _seen(evidence, j, kind, last)
        total, fraud = total + weight, fraud + weight
    return float(fraud / total)


@pytest.mark.parametrize("column", ["posterior", "row_posterior"])
def test_posteriors_are_calibrated(truth: pa.Table, column: str) -> None:
    fraud = ints(truth, "archetype") > 0
    score = np.asarray(truth[column])
    edges = [0, 0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 0.95, 1.0 + 1e-9]
    for low, high in itertools.pairwise(edges):
        rows = (score >= low) & (score < high)
        variance = (score[rows] * (1 - score[rows])).sum()
        # 4 deviations; frauds of one abuser come in runs, which widens the interval by 1.5.
        surprise = abs(fraud[rows].sum() - score[rows].sum()) / np.sqrt(variance + 1)
        assert surprise < 6, (low, high)


def test_history_makes_the_bound_much_tighter_than_the_row_alone(truth: pa.Table) -> None:
    fraud = ints(truth, "archetype").clip(0, 1)
    oracle = average_precision(fraud, np.asarray(truth["posterior"]))
    row = average_precision(fraud, np.asarray(truth["row_posterior"]))
    assert 0.72 < oracle < 0.88
    assert 0.25 < row < 0.6 * oracle


def test_no_single_column_separates_fraud(transactions: pa.Table, truth: pa.Table) -> None:
    fraud = ints(truth, "archetype").clip(0, 1)
    for column in ("quantity", "declines", "device_accounts", "checkout_ms", "geo_distance_m",
                   "account_age_s", "amount_cents"):  # fmt: skip
        values = ints(transactions, column).astype(np.float64)
        best = max(average_precision(fraud, values), average_precision(fraud, -values))
        assert best < 0.2, column


def test_boosting_on_top_of_the_posterior_finds_nothing_more(
    transactions: pa.Table, truth: pa.Table
) -> None:
    score = np.asarray(truth["posterior"]).clip(1e-9, 1 - 1e-9)
    fraud = ints(truth, "archetype").clip(0, 1)
    features = _published_features(transactions)
    margin = np.log(score / (1 - score))
    train = np.arange(fraud.size) < 0.6 * fraud.size
    parameters = {
        "objective": "binary:logistic", "max_depth": 3, "eta": 0.05, "nthread": 1,
        "min_child_weight": 5, "base_score": 0.5, "seed": 1,
    }  # fmt: skip
    booster = xgb.train(
        parameters, xgb.DMatrix(features[train], fraud[train], base_margin=margin[train]), 60
    )
    boosted = booster.predict(xgb.DMatrix(features[~train], base_margin=margin[~train]))
    oracle = average_precision(fraud[~train], score[~train])
    assert average_precision(fraud[~train], boosted.astype(np.float64)) < oracle + 0.01


def _published_features(transactions: pa.Table) -> np.ndarray:
    """Columns, and for each identifier its orders so far, the last gap, and running means."""
    orders = transactions.to_pandas()
    features = orders[
        ["amount_cents", "quantity", "declines", "device_accounts", "checkout_ms",
         "geo_distance_m", "account_age_s"]
    ].astype("float64")  # fmt: skip
    features["avs"] = orders.avs_match
    features["hour"] = orders.known_ts // 3_600_000_000 % 24
    features["event_so_far"] = orders.groupby("event_id").cumcount()
    for key in ("user_id", "device_id", "card_id", "ip_id"):
        group = orders.groupby(key)
        features[f"{key}_so_far"] = group.cumcount()
        features[f"{key}_gap"] = orders.known_ts - group.known_ts.shift()
        features[f"{key}_number"] = orders[key].astype("float64")
        for column in ("declines", "quantity", "device_accounts"):
            total = group[column].cumsum() - orders[column]
            features[f"{key}_{column}"] = total / features[f"{key}_so_far"].clip(lower=1)
    return features.to_numpy(np.float64)


def test_the_default_world_is_the_documented_one() -> None:
    default = WorldConfig()
    assert default.fraud_share == 0.03
    assert default.archetype_mix == (0.40, 0.30, 0.20, 0.10)
