"""Confidence sequences and the sample ratio: they hold at every moment, and they do end."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betaln
from statsmodels.stats.gof import chisquare

from ibook_assets.core.experiments.confidence import (
    anytime_critical,
    confidence_sequence,
    surely_above,
)
from ibook_assets.core.experiments.proportions import Counts, compare
from ibook_assets.core.experiments.sample_ratio import log_evidence_path, sample_ratio

arms = st.integers(1, 3_000).flatmap(
    lambda users: st.builds(Counts, events=st.integers(0, users), users=st.just(users))
)


@given(arms, arms, st.sampled_from([0.01, 0.05]))
def test_a_sequence_holds_the_observed_difference(
    control: Counts, treatment: Counts, alpha: float
) -> None:
    low, high = confidence_sequence(control, treatment, planned=2_000, alpha=alpha)
    assert -1 <= low <= treatment.rate - control.rate <= high <= 1


@pytest.mark.parametrize("users", [500, 5_000, 500_000])
def test_watching_all_the_time_costs_less_than_twice_the_width_of_one_look(users: int) -> None:
    control, treatment = Counts(users // 20, users), Counts(users // 18, users)
    low, high = confidence_sequence(control, treatment, planned=2 * users, alpha=0.05)
    once = compare(control, treatment, critical=1.96)
    assert 1 < (high - low) / (once.high - once.low) < 2


@given(arms, arms)
def test_a_smaller_error_gives_a_wider_interval(control: Counts, treatment: Counts) -> None:
    wide = confidence_sequence(control, treatment, planned=2_000, alpha=0.001)
    narrow = confidence_sequence(control, treatment, planned=2_000, alpha=0.05)
    assert wide[0] <= narrow[0] + 1e-9
    assert narrow[1] <= wide[1] + 1e-9


def test_the_critical_value_is_robbins() -> None:
    # At 1/10 of the users the mixture's variance is the estimate's: sqrt(2 (2 ln 20 + ln 2)).
    expected = math.sqrt(2 * (2 * math.log(20) + math.log(2)))
    assert float(anytime_critical(0.1, 0.05)) == pytest.approx(expected)
    fractions = np.linspace(0.001, 1, 500)
    critical = anytime_critical(fractions, 0.05)
    # It is wide at first and falls towards what watching costs at the least.
    assert 20 < critical[0] < 30
    assert critical.min() > 2.9
    assert confidence_sequence(Counts(0, 0), Counts(3, 9), planned=9, alpha=0.05) == (-1.0, 1.0)


@pytest.mark.parametrize("rate", [0.005, 0.3])
def test_a_sequence_rarely_loses_the_truth_at_any_of_many_users(rate: float) -> None:
    # 800 pairs of arms of 2,000 users, looked at after every user of either. At 5 %, 800 runs lose
    # the truth 40 + 3.1 * sqrt(38) = 59 times at most, but once in a thousand tries.
    rng = np.random.default_rng(5)
    truth = 0.01
    control = np.cumsum(rng.random((800, 2_000)) < rate, axis=1)
    treatment = np.cumsum(rng.random((800, 2_000)) < rate + truth, axis=1)
    users = np.broadcast_to(np.arange(1, 2_001), control.shape)
    arms = ((control, users), (treatment, users))
    above = surely_above(*arms, truth, planned=4_000, alpha=0.05).any(axis=1)
    below = surely_above(arms[1], arms[0], -truth, planned=4_000, alpha=0.05).any(axis=1)
    assert 0 < (above | below).sum() <= 59


def test_a_harmful_difference_is_found() -> None:
    low, _ = confidence_sequence(
        Counts(200, 10_000), Counts(400, 10_000), planned=20_000, alpha=0.01
    )
    assert low > 0.01


@given(arms, arms, st.floats(-0.9, 0.9))
def test_what_is_surely_above_lies_below_the_interval(
    control: Counts, treatment: Counts, limit: float
) -> None:
    low, _ = confidence_sequence(control, treatment, planned=5_000, alpha=0.05)
    pair = ((control.events, control.users), (treatment.events, treatment.users))
    above = bool(surely_above(*pair, limit, planned=5_000, alpha=0.05))
    if abs(limit - low) > 1e-6:
        assert above == (limit < low)


@given(st.lists(st.booleans(), min_size=1, max_size=500), st.floats(0.05, 0.95))
def test_the_split_is_counted_and_tested_as_pearson_does(treated: list[bool], share: float) -> None:
    found = sample_ratio(np.array(treated), share)
    assert (found.treatment, found.control) == (sum(treated), len(treated) - sum(treated))
    expected = [len(treated) * (1 - share), len(treated) * share]
    _, p = chisquare([found.control, found.treatment], expected)
    assert found.chi_square_p == pytest.approx(p, rel=1e-6, abs=1e-300)
    assert 0 < found.anytime_p <= 1


def test_the_evidence_is_the_mixture_over_the_share() -> None:
    path = log_evidence_path(np.array([True, True, False]), 0.5)
    # After two treated and one control: B(502, 501) / B(500, 500) / 0.5^3.
    assert path[-1] == pytest.approx(betaln(502, 501) - betaln(500, 500) + 3 * math.log(2))


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_a_sound_split_is_rarely_called_off_and_a_lossy_one_is(share: float) -> None:
    # 500 experiments of 4,000 users, tested after every user at 1 %: 5 expected, 13 at most but
    # once in a thousand tries.
    rng = np.random.default_rng(8)
    sound = rng.random((500, 4_000)) < share
    alarms = (log_evidence_path(sound, share).max(axis=1) > math.log(100)).sum()
    assert alarms <= 13
    # A treatment that loses one user in six before the exposure is logged.
    kept = sound[0][~(sound[0] & (rng.random(4_000) < 1 / 6))]
    many = np.concatenate([kept, kept, kept, kept])
    assert sample_ratio(many, share).mismatch(0.001)
    assert not sample_ratio(sound[0], share).mismatch(0.001)


def test_nobody_is_no_mismatch() -> None:
    found = sample_ratio(np.empty(0, np.bool_), 0.5)
    assert math.isnan(found.chi_square_p)
    assert found.anytime_p == 1.0
