"""Group-sequential bounds against published tables, and against simulated paths."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibook_assets.core.errors import ContractError
from ibook_assets.core.experiments.proportions import normal_quantile
from ibook_assets.core.experiments.sequential import (
    MAX_LOOKS,
    boundary,
    crossing,
    drift_for,
    inflation,
    obrien_fleming_spent,
)


def even(looks: int) -> tuple[float, ...]:
    return tuple(k / looks for k in range(1, looks + 1))


# gsDesign(k, test.type=2, sfu=sfLDOF, alpha=0.025): upper bounds; Lan and DeMets' tables agree.
LAN_DEMETS = {
    2: (2.9626, 1.9686),
    3: (3.7103, 2.5114, 1.9930),
    4: (4.3326, 2.9631, 2.3590, 2.0141),
    5: (4.8769, 3.3570, 2.6803, 2.2898, 2.0310),
}


@pytest.mark.parametrize("looks", LAN_DEMETS)
def test_bounds_are_the_published_ones(looks: int) -> None:
    assert boundary(even(looks), 0.05).bounds == pytest.approx(LAN_DEMETS[looks], abs=5e-5)


# Jennison and Turnbull (2000), tables 2.1 and 2.3: constants of tests at 5 % (two-sided).
POCOCK = {2: 2.178, 3: 2.289, 4: 2.361, 5: 2.413, 10: 2.555}
OBRIEN_FLEMING = {2: 1.977, 3: 2.004, 4: 2.024, 5: 2.040, 10: 2.087, 20: 2.126}


@pytest.mark.parametrize("looks", POCOCK)
def test_pococks_published_constants_err_in_five_percent(looks: int) -> None:
    found = crossing(even(looks), (POCOCK[looks],) * looks, drift=0)
    assert found.upper.sum() + found.lower.sum() == pytest.approx(0.05, abs=1e-4)


@pytest.mark.parametrize("looks", OBRIEN_FLEMING)
def test_obrien_and_flemings_published_constants_err_in_five_percent(looks: int) -> None:
    bounds = [OBRIEN_FLEMING[looks] / math.sqrt(fraction) for fraction in even(looks)]
    found = crossing(even(looks), bounds, drift=0)
    assert found.upper.sum() + found.lower.sum() == pytest.approx(0.05, abs=1e-4)


# Jennison and Turnbull (2000), table 2.4: R_B, how many times a single test's size is needed.
INFLATION = {(2, 0.8): 1.008, (5, 0.8): 1.028, (10, 0.8): 1.040, (2, 0.9): 1.007, (5, 0.9): 1.026}


@pytest.mark.parametrize(("looks", "power"), INFLATION)
def test_sizes_grow_as_published(looks: int, power: float) -> None:
    bounds = tuple(OBRIEN_FLEMING[looks] / math.sqrt(fraction) for fraction in even(looks))
    single = normal_quantile(0.975) + normal_quantile(power)
    ratio = (drift_for(even(looks), bounds, power) / single) ** 2
    assert ratio == pytest.approx(INFLATION[looks, power], abs=1e-3)


def test_twenty_four_looks_at_a_plain_test_err_in_a_quarter_of_cases() -> None:
    found = crossing(even(24), (normal_quantile(0.975),) * 24, drift=0)
    assert found.upper.sum() + found.lower.sum() == pytest.approx(0.262, abs=1e-3)


def test_paths_simulated_cross_as_often_as_integrated() -> None:
    rng = np.random.default_rng(11)
    fractions = (0.2, 0.5, 0.7, 1.0)
    bounds, drift = boundary(fractions, 0.05).bounds, 2.8
    steps = np.diff((0.0, *fractions))
    scores = np.cumsum(rng.normal(drift * steps, np.sqrt(steps), (100_000, 4)), axis=1)
    z = scores / np.sqrt(fractions)
    crossed = np.abs(z) >= bounds
    first = np.argmax(crossed, axis=1)
    upper = crossed.any(axis=1) & (z[np.arange(len(z)), first] > 0)
    shares = np.bincount(first[upper], minlength=4) / len(z)
    # Four standard errors of a share of 100,000 paths.
    assert shares == pytest.approx(crossing(fractions, bounds, drift=drift).upper, abs=0.0065)


fractions_of = st.lists(st.integers(1, 100), min_size=1, max_size=12, unique=True).map(
    lambda parts: tuple(sorted(part / 100 for part in parts))
)


@given(fractions_of, st.sampled_from([0.01, 0.05, 0.1]))
def test_what_is_spent_is_what_crosses(fractions: tuple[float, ...], alpha: float) -> None:
    found = boundary(fractions, alpha, closing=True)
    crossed = crossing(fractions, found.bounds, drift=0)
    assert np.cumsum(crossed.upper + crossed.lower) == pytest.approx(found.spent, abs=1e-7)
    assert found.spent[-1] == alpha
    assert crossed.upper == pytest.approx(crossed.lower, abs=1e-12)


@given(fractions_of, st.sampled_from([0.01, 0.05]))
def test_later_looks_never_change_earlier_bounds(
    fractions: tuple[float, ...], alpha: float
) -> None:
    whole = boundary(fractions, alpha).bounds
    for looks in range(1, len(fractions)):
        assert boundary(fractions[:looks], alpha).bounds == whole[:looks]


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.sampled_from([0.01, 0.05, 0.1]))
def test_spending_never_falls_and_ends_at_alpha(a: float, b: float, alpha: float) -> None:
    low, high = sorted((a, b))
    assert obrien_fleming_spent(low, alpha) <= obrien_fleming_spent(high, alpha) <= alpha
    assert obrien_fleming_spent(1.0, alpha) == alpha


def test_many_looks_cost_few_users() -> None:
    assert 1 < inflation(even(1), 0.05, 0.8) + 1e-9 < inflation(even(24), 0.05, 0.8) < 1.06


@pytest.mark.parametrize(
    "fractions",
    [(), (0.5, 0.5), (0.5, 0.4), (0.0, 1.0), even(MAX_LOOKS + 1)],
    ids=["none", "twice", "back", "nothing", "too many"],
)
def test_looks_that_make_no_sense_are_refused(fractions: tuple[float, ...]) -> None:
    with pytest.raises(ContractError, match="fractions must ascend"):
        boundary(fractions, 0.05)
