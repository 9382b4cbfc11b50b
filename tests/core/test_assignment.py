"""Assignment: frozen values, uniform, independent between salts, sticky while a share grows."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ibook_assets.core.assignment import CHAMPION, CONTROL, bucket, routing
from ibook_assets.core.ids import MAX_ID

USERS = range(20_000)
salts = st.from_regex(r"\A[A-Za-z0-9_-]{1,64}\Z")
user_ids = st.integers(0, MAX_ID)

FROZEN = {
    ("exp-1", 0): 0.9787638681004253,
    ("exp-1", 1042): 0.29901315104900883,
    ("exp-2", 1042): 0.9699484484833706,
    ("fraud-v2", MAX_ID): 0.6655781682532236,
}


@pytest.mark.parametrize(("salt", "unit"), FROZEN)
def test_a_bucket_is_the_same_in_every_release(salt: str, unit: int) -> None:
    assert bucket(salt, unit) == FROZEN[salt, unit]


def test_a_bucket_is_the_same_in_every_process() -> None:
    script = (
        "import json; from ibook_assets.core.assignment import bucket;"
        "print(json.dumps([bucket('exp-1', user) for user in range(50)]))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert json.loads(run.stdout) == [bucket("exp-1", user) for user in range(50)]


@given(salts, user_ids)
def test_a_bucket_is_in_the_unit_interval(salt: str, user: int) -> None:
    assert 0 <= bucket(salt, user) < 1
    assert bucket(salt, user) == bucket(salt, str(user))


@pytest.mark.parametrize("salt", ["exp-1", "exp-2", "fraud-v2"])
def test_buckets_are_uniform(salt: str) -> None:
    counts, _ = np.histogram([bucket(salt, user) for user in USERS], bins=50, range=(0, 1))
    assert stats.chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize("other", ["exp-2", "exp-1:shadow"])
def test_buckets_of_two_salts_are_independent(other: str) -> None:
    pairs = np.array([(bucket("exp-1", user), bucket(other, user)) for user in USERS])
    table, _, _ = np.histogram2d(pairs[:, 0], pairs[:, 1], bins=8, range=[(0, 1), (0, 1)])
    assert stats.chi2_contingency(table).pvalue > 0.001


def test_shares_are_what_was_asked_for() -> None:
    found = routing("exp-1", [("treatment", 0.2), ("treatment-b", 0.3)], base=CONTROL)
    answers = [found.assign(user) for user in USERS]
    counts = [answers.count(variant) for variant in ("treatment", "treatment-b", CONTROL)]
    expected = [share * len(USERS) for share in (0.2, 0.3, 0.5)]
    assert stats.chisquare(counts, expected).pvalue > 0.001


@given(salts, user_ids, st.floats(0, 1), st.floats(0, 1))
def test_a_growing_share_keeps_its_users(salt: str, user: int, one: float, other: float) -> None:
    small, large = sorted((one, other))
    before = routing(salt, [("canary", small)]).assign(user)
    after = routing(salt, [("canary", large)]).assign(user)
    assert after == "canary" or before == CHAMPION


@given(salts, user_ids)
def test_the_ends_of_a_share_are_nobody_and_everybody(salt: str, user: int) -> None:
    assert routing(salt, [("canary", 0.0)]).assign(user) == CHAMPION
    assert routing(salt, [("canary", 1.0)]).assign(user) == "canary"
    assert routing(salt).assign(user) == CHAMPION
    found = routing(salt, mirrored=[("shadow", 1.0), ("shadow-b", 0.0)])
    assert (found.assign(user), found.shadows(user)) == (CHAMPION, ("shadow",))


def test_who_is_mirrored_does_not_depend_on_who_is_routed() -> None:
    found = routing("v2", [("canary", 0.3)], [("shadow", 0.4), ("shadow-b", 0.4)])
    table = np.zeros((2, 2, 2))
    for user in USERS:
        shadows = found.shadows(user)
        canary = found.assign(user) == "canary"
        table[int(canary), int("shadow" in shadows), int("shadow-b" in shadows)] += 1
    # Independent variants with shares .3, .4 and .4: expected counts are the products.
    shares = ([0.7, 0.3], [0.6, 0.4], [0.6, 0.4])
    expected = [
        math.prod(s[i] for s, i in zip(shares, at, strict=True)) for at in np.ndindex(2, 2, 2)
    ]
    assert stats.chisquare(table.ravel(), np.array(expected) * len(USERS)).pvalue > 0.001
