"""Fixed-horizon comparisons against statsmodels, and against what defines them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import xlog1py, xlogy
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import (
    confint_proportions_2indep,
    power_proportions_2indep,
    proportion_effectsize,
    proportions_ztest,
)

from ibook_assets.core.errors import ContractError
from ibook_assets.core.experiments.proportions import (
    Counts,
    clustered_ratio,
    compare,
    normal_quantile,
    power_of,
    restricted_rates,
    users_for,
    z_score,
)

CRITICAL = normal_quantile(0.975)

arms = st.integers(1, 5_000).flatmap(
    lambda users: st.builds(Counts, events=st.integers(0, users), users=st.just(users))
)


@given(arms, arms)
def test_z_and_p_are_statsmodels(control: Counts, treatment: Counts) -> None:
    found = compare(control, treatment, critical=CRITICAL)
    events = control.events + treatment.events
    if events in (0, control.users + treatment.users):
        assert (found.z, found.p_value) == (0.0, 1.0)
        return
    z, p = proportions_ztest([treatment.events, control.events], [treatment.users, control.users])
    assert found.z == pytest.approx(z, rel=1e-9, abs=1e-12)
    assert found.p_value == pytest.approx(p, rel=1e-7, abs=1e-15)


@given(arms, arms)
def test_the_interval_holds_zero_exactly_when_the_test_does_not_reject(
    control: Counts, treatment: Counts
) -> None:
    found = compare(control, treatment, critical=CRITICAL)
    assert found.low <= found.difference <= found.high
    if abs(abs(found.z) - CRITICAL) > 1e-6:
        assert (found.low <= 0 <= found.high) == (abs(found.z) < CRITICAL)


@given(arms, arms)
def test_swapping_arms_mirrors_everything(control: Counts, treatment: Counts) -> None:
    found = compare(control, treatment, critical=CRITICAL)
    mirrored = compare(treatment, control, critical=CRITICAL)
    assert mirrored.z == pytest.approx(-found.z)
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low), abs=1e-7)


@pytest.mark.parametrize(
    ("control", "treatment"),
    [
        (Counts(50, 1_000), Counts(70, 1_010)),
        (Counts(500, 10_000), Counts(430, 9_000)),
        (Counts(3, 400), Counts(9, 380)),
    ],
    ids=["usual", "large", "rare"],
)
def test_the_interval_is_near_statsmodels(control: Counts, treatment: Counts) -> None:
    # Its score interval solves the restricted likelihood a little differently; both must agree to
    # a fraction of the interval's own length.
    found = compare(control, treatment, critical=CRITICAL)
    low, high = confint_proportions_2indep(
        treatment.events,
        treatment.users,
        control.events,
        control.users,
        method="score",
        correction=False,
    )
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02 * (high - low))


@given(arms, arms, st.floats(-0.99, 0.99))
def test_restricted_rates_are_the_most_likely(
    control: Counts, treatment: Counts, difference: float
) -> None:
    def unlikely(rate: float) -> float:
        told = xlogy(control.events, rate) + xlog1py(control.users - control.events, -rate)
        other = rate + difference
        told += xlogy(treatment.events, other)
        told += xlog1py(treatment.users - treatment.events, -other)
        return -float(told)

    low, high = max(0.0, -difference), min(1.0, 1.0 - difference)
    best = minimize_scalar(unlikely, bounds=(low, high), method="bounded")
    rate, other = restricted_rates(
        control.events, control.users, treatment.events, treatment.users, difference
    )
    assert low <= float(rate) <= high
    assert float(other) == pytest.approx(float(rate) + difference, abs=1e-12)
    assert unlikely(float(rate)) <= best.fun + 1e-6 * max(1.0, abs(best.fun))


def test_power_and_sample_size_are_statsmodels() -> None:
    power = power_of(rate=0.05, effect=0.01, users=10_000, treatment_share=0.5, alpha=0.05)
    assert power == pytest.approx(power_proportions_2indep(0.01, 0.05, 5_000).power, rel=1e-9)
    users = users_for(rate=0.05, effect=0.01, treatment_share=0.5, alpha=0.05, power=0.8)
    # Cohen's effect size is another approximation of the same: one percent apart.
    size = proportion_effectsize(0.06, 0.05)
    one_arm = NormalIndPower().solve_power(size, alpha=0.05, power=0.8)
    assert users == pytest.approx(2 * one_arm, rel=0.01)


@given(
    st.floats(0.01, 0.4),
    st.floats(0.02, 0.3),
    st.floats(0.1, 0.9),
    st.sampled_from([0.01, 0.05]),
    st.sampled_from([0.8, 0.95]),
)
def test_as_many_users_have_the_power_that_was_asked_for(
    rate: float, effect: float, share: float, alpha: float, power: float
) -> None:
    users = users_for(rate=rate, effect=effect, treatment_share=share, alpha=alpha, power=power)
    found = power_of(rate=rate, effect=effect, users=users, treatment_share=share, alpha=alpha)
    assert power - 1e-9 <= found <= power + 5e-3


def test_ratios_are_clustered_by_user() -> None:
    # A regression on a constant with standard errors clustered by user is the same estimate.
    rng = np.random.default_rng(3)
    answers = rng.geometric(0.4, 300)
    tendency = rng.beta(0.3, 2, 300)
    events = rng.binomial(answers, tendency)
    per_answer = np.concatenate(
        [np.repeat([1.0, 0.0], [e, a - e]) for e, a in zip(events, answers, strict=True)]
    )
    users = np.repeat(np.arange(300), answers)
    model = OLS(per_answer, np.ones(per_answer.size))
    peer = model.fit(cov_type="cluster", cov_kwds={"groups": users, "use_correction": False})
    found = clustered_ratio(events.astype(float), answers.astype(float))
    assert found is not None
    assert found.value == pytest.approx(peer.params[0])
    # 300/299 is the only difference: a sample variance over a population's.
    assert found.standard_error == pytest.approx(peer.bse[0] * math.sqrt(300 / 299))


def test_nothing_is_said_without_users() -> None:
    nobody, some = Counts(0, 0), Counts(1, 9)
    assert math.isnan(z_score(nobody, some))
    found = compare(some, nobody, critical=CRITICAL)
    assert all(math.isnan(v) for v in (found.difference, found.low, found.high, found.p_value))
    assert clustered_ratio(np.ones(1), np.ones(1)) is None
    with pytest.raises(ContractError, match="3 of 2 users"):
        Counts(3, 2)
