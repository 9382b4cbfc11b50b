"""E-processes: exact expectations, optional stopping, and what a canary's analysis says of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, nchypergeom_fisher

from ibook_assets.core.analysis.comparing import canary_findings, shadow_findings
from ibook_assets.core.analysis.eprocess import bounded_mean, rate, two_sample
from ibook_assets.core.analysis.findings import Analysis
from ibook_assets.core.analysis.objectives import LATENCY_BOUNDS, Objectives
from ibook_assets.core.analysis.units import Pairs, Requests, Users, by_window

SECOND = 1_000_000
ratios = st.floats(0.1, 10.0)


def a_window(hits: tuple[int, int], units: tuple[int, int], *, tolerated: float = 1.0) -> float:
    log_e = two_sample(np.array([hits]), np.array([units]), tolerated=tolerated)
    return math.exp(float(log_e[0]))


@given(st.integers(1, 15), st.integers(1, 15), st.data(), ratios, st.floats(1.0, 3.0))
def test_the_expected_e_value_of_a_window_is_at_most_1_whenever_nothing_is_wrong(
    first: int, second: int, data: st.DataObject, true: float, tolerated: float
) -> None:
    total = data.draw(st.integers(0, first + second))
    true = min(true, tolerated)
    fisher = nchypergeom_fisher(first + second, second, total, true)
    outcomes = range(max(0, total - first), min(total, second) + 1)
    expected = sum(
        fisher.pmf(hits) * a_window((total - hits, hits), (first, second), tolerated=tolerated)
        for hits in outcomes
    )
    assert expected <= 1 + 1e-9
    if true == tolerated:
        assert expected == pytest.approx(1)


@given(st.integers(1, 40), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_the_expected_e_value_of_a_rate_within_its_limit_is_at_most_1(
    units: int, true: float, limit: float
) -> None:
    true = min(true, limit)
    hits = np.arange(units + 1)
    # One window each: what every outcome of the first window is worth.
    worth = [
        math.exp(rate(np.array([h]), np.array([units]), limit=limit)[0]) for h in hits.tolist()
    ]
    assert float(binom(units, true).pmf(hits) @ np.array(worth)) <= 1 + 1e-9


@given(st.lists(st.integers(0, 30), min_size=1, max_size=30))
def test_windows_add_up_whatever_their_width(hits: list[int]) -> None:
    counts = np.array([[h, 30 - h] for h in hits])
    whole = bounded_mean(counts.sum(axis=0, keepdims=True), (0.9, -0.1))
    assert bounded_mean(counts, (0.9, -0.1))[-1] == pytest.approx(whole[-1])


@given(st.integers(0, 50), st.integers(1, 5))
def test_an_empty_arm_is_no_evidence(hits: int, windows: int) -> None:
    counts = np.tile([min(hits, 50), 0], (windows, 1))
    assert two_sample(counts, np.tile([50, 0], (windows, 1))) == pytest.approx(0)
    assert two_sample(np.zeros((0, 2), np.int64), np.zeros((0, 2), np.int64)).shape == (0,)


def test_many_units_in_a_window_are_summed_without_overflow() -> None:
    hits, units = np.array([[2_000, 2_000]]), np.array([[4_000, 4_000]])
    assert np.isfinite(two_sample(hits, units)).all()
    # Half of 4,000 against 60 %: worth log(1.5) a hit at the right odds, far beyond any bound.
    assert two_sample(np.array([[2_000, 2_400]]), units)[0] > 30


def test_looking_after_every_window_of_a_day_raises_few_false_alarms() -> None:
    rng = np.random.default_rng(11)
    alarms, runs, alpha = 0, 600, 0.05
    for _ in range(runs):
        # Both arms share a rate that moves, as attacks do.
        day = 0.02 * np.exp(np.cumsum(rng.normal(0, 0.1, 200)))
        units = np.stack([rng.poisson(95, 200), rng.poisson(5, 200)], axis=1)
        hits = rng.binomial(units, np.clip(day, 0, 0.5)[:, None])
        alarms += two_sample(hits, units).max() >= -math.log(alpha)
    # 5 % is allowed; above 7.7 % would be three standard errors more.
    assert alarms / runs <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)


def users(
    rng: np.random.Generator, *, shifted: float = 0.0, count: int = 20_000, share: float = 0.2
) -> Users:
    """One order each, a thousand a second; `shifted` is added to the canary's log-odds."""
    challenged = rng.random(count) < share
    scores = 1 / (1 + np.exp(4 - rng.normal(0, 1.5, count) - shifted * challenged))
    nothing = np.zeros(count, bool)
    known_us = np.arange(count) * 1_000
    return Users(known_us, challenged, scores, scores >= 0.3, nothing, nothing)


def requests(*, seconds: int = 20, canary_errors: int = 0, canary_slow: int = 0) -> Requests:
    """A look a second at 800 requests of the champion and 200 of the canary."""
    times = tuple((i + 1) * SECOND for i in range(seconds))
    return Requests(
        times,
        np.tile([800, 200], (seconds, 1)),
        np.tile([0, canary_errors], (seconds, 1)),
        {
            bound: np.tile([8, canary_slow] if bound <= 0.1 else [0, 0], (seconds, 1))
            for bound in LATENCY_BOUNDS
        },
    )


def analysis(found: tuple[object, ...], *, alpha: float = 0.01) -> Analysis:
    return Analysis("canary", "v2", "v1", 0, SECOND, alpha, found)  # type: ignore[arg-type]


def judged(people: Users, asked: Requests) -> Analysis:
    return analysis(canary_findings(people, asked, Objectives(), window_us=SECOND))


def test_a_canary_like_the_champion_is_sound() -> None:
    found = judged(users(np.random.default_rng(1)), requests(canary_slow=2))
    assert found.verdict == "sound", found
    assert found.missing == ()


def test_a_canary_that_scores_somewhat_differently_is_sound() -> None:
    found = judged(users(np.random.default_rng(2), shifted=0.5), requests(canary_slow=2))
    assert found.verdict == "sound", found


@pytest.mark.parametrize("shifted", [3.0, -3.0], ids=["up", "down"])
def test_scores_that_move_far_fail(shifted: float) -> None:
    found = judged(users(np.random.default_rng(3), shifted=shifted), requests(canary_slow=2))
    assert found.verdict == "failed"
    assert found.worst.metric in ("flags", "scores")
    assert ("higher" if shifted > 0 else "lower") in str(found)


@pytest.mark.parametrize(
    ("asked", "metrics"),
    [
        (requests(canary_errors=4, canary_slow=2), ("errors", "error_limit")),
        (requests(canary_slow=20), ("latency",)),
    ],
    ids=["errors", "latency"],
)
def test_a_canary_that_serves_badly_fails(asked: Requests, metrics: tuple[str, ...]) -> None:
    found = judged(users(np.random.default_rng(4)), asked)
    assert found.verdict == "failed"
    assert found.worst.metric in metrics


def test_held_orders_that_were_no_fraud_fail_a_canary_once_labels_are_mature() -> None:
    rng = np.random.default_rng(5)
    found = users(rng, share=0.5)
    right = rng.random(20_000) < np.where(found.challenged, 0.1, 0.8)
    for mature, verdict in ((False, "sound"), (True, "failed")):
        labelled = Users(
            found.known_us,
            found.challenged,
            found.scores,
            found.held,
            np.full(20_000, mature),
            right,
        )
        told = judged(labelled, requests(canary_slow=2))
        assert told.verdict == verdict
    assert told.worst.metric == "precision"


def test_no_traffic_is_inconclusive_and_never_failed() -> None:
    none = users(np.random.default_rng(6), count=0)
    found = judged(none, requests(seconds=0))
    assert (found.verdict, found.log_e) == ("inconclusive", 0.0)
    assert set(found.missing) == {"errors", "error_limit", "latency", "latency_limit", "flags"} | {
        "scores"
    }
    only_champion = users(np.random.default_rng(6), share=0.0)
    assert judged(only_champion, requests(canary_slow=2)).verdict == "inconclusive"


def test_what_was_once_too_much_stays_so() -> None:
    rng = np.random.default_rng(7)
    bad = users(rng, shifted=3.0, count=5_000)
    good = users(rng, count=100_000)
    both = Users(
        np.concatenate([bad.known_us, good.known_us + 5 * SECOND]),
        *(
            np.concatenate([getattr(bad, name), getattr(good, name)])
            for name in ("challenged", "scores", "held", "mature", "fraud")
        ),
    )
    assert judged(both, requests(canary_slow=2)).verdict == "failed"


def pairs(rng: np.random.Generator, *, shifted: float = 0.0, silent: float = 0.0) -> Pairs:
    """Five thousand orders scored by both, a thousand a second."""
    count = 5_000
    logit = rng.normal(-4, 1.5, count)
    champion = 1 / (1 + np.exp(-logit))
    shadow = 1 / (1 + np.exp(-logit - shifted - rng.normal(0, 0.3, count)))
    shadow[rng.random(count) < silent] = np.nan
    return Pairs(
        np.arange(count) * 1_000, champion, champion >= 0.3, shadow, np.nan_to_num(shadow) >= 0.3
    )


@pytest.mark.parametrize(
    ("shifted", "silent", "verdict", "metric"),
    [
        (0.0, 0.0, "sound", None),
        (0.4, 0.0, "sound", None),
        (3.0, 0.0, "failed", "scores"),
        (-4.0, 0.0, "failed", "scores"),
        (0.0, 0.05, "failed", "silence"),
    ],
    ids=["alike", "somewhat different", "far up", "far down", "often silent"],
)
def test_a_shadow_is_judged_on_the_champions_own_orders(
    shifted: float, silent: float, verdict: str, metric: str | None
) -> None:
    paired = pairs(np.random.default_rng(8), shifted=shifted, silent=silent)
    found = analysis(shadow_findings(paired, batches(), Objectives(), window_us=SECOND))
    assert found.verdict == verdict, found
    if metric is not None:
        assert found.worst.metric in (metric, "flags")


def test_a_shadow_that_holds_nearly_everything_fails_where_the_champion_holds_half() -> None:
    # Twice as often is tolerated, letting through a fiftieth is not.
    champion = np.arange(4_000) % 2 == 0
    shadow = champion | (np.arange(4_000) % 50 != 1)
    nowhere = np.full(4_000, 0.6)
    paired = Pairs(np.arange(4_000) * 1_000, nowhere, champion, nowhere, shadow)
    found = analysis(shadow_findings(paired, batches(), Objectives(), window_us=SECOND))
    assert (found.verdict, found.worst.metric) == ("failed", "flags")


def batches(slow: float = 0.0, *, looks: int = 60, a_look: int = 100) -> Requests:
    """What a shadow scored between looks, a share `slow` of it over 200 ms."""
    rng = np.random.default_rng(9)
    answered = np.stack([np.full(looks, a_look), np.full(looks, a_look)], axis=1)
    late = np.stack([np.zeros(looks, np.int64), rng.binomial(a_look, slow, looks)], axis=1)
    return Requests(
        tuple(range(SECOND, (looks + 1) * SECOND, SECOND)),
        answered,
        np.zeros_like(answered),
        {bound: late if bound <= 0.2 else np.zeros_like(late) for bound in LATENCY_BOUNDS},
    )


@pytest.mark.parametrize(("slow", "verdict"), [(0.0, "sound"), (0.04, "sound"), (0.1, "failed")])
def test_a_shadow_that_is_slow_never_answers_anybody(slow: float, verdict: str) -> None:
    paired = pairs(np.random.default_rng(8))
    found = analysis(shadow_findings(paired, batches(slow), Objectives(), window_us=SECOND))
    assert found.verdict == verdict, found
    if verdict == "failed":
        assert found.worst.metric == "latency_limit"


def test_a_shadow_whose_server_tells_no_times_is_judged_by_the_rest() -> None:
    paired = pairs(np.random.default_rng(8))
    found = analysis(shadow_findings(paired, batches(looks=0), Objectives(), window_us=SECOND))
    assert (found.verdict, found.missing) == ("sound", ())


def test_windows_stand_on_the_clock() -> None:
    found = by_window(
        np.array([1, 2, 10, 35]),
        np.array([False, True, True, False]),
        np.array([True, False, True, False]),
        10,
    )
    assert found.times_us == (10, 20, 40)
    assert found.units.tolist() == [[1, 1], [0, 1], [1, 0]]
    assert found.hits.tolist() == [[1, 0], [0, 1], [0, 0]]


def test_the_evidence_is_plain_json() -> None:
    import json

    found = judged(users(np.random.default_rng(3), shifted=3.0), requests())
    told = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert told["verdict"] == "failed"
    assert len(told["path"]["times_us"]) == len(told["path"]["log_e"])
    assert max(told["path"]["log_e"]) == pytest.approx(told["log_e"], abs=1e-3)
