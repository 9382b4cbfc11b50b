"""Every validator can fail: each test breaks what one of them watches, and no other notices."""

from dataclasses import replace

import numpy as np
import pytest

from ibook_sim.drift import DriftedShare
from ibook_sim.judging.findings import RunResult
from ibook_sim.judging.validators import Check, judged
from ibook_sim.offline.running import planned, run
from ibook_sim.scenarios import scenario


@pytest.fixture(scope="module")
def good() -> RunResult:
    return run(planned(scenario("normal-traffic"), seed=7, orders=6_000))


@pytest.fixture(scope="module")
def moved() -> RunResult:
    return run(planned(scenario("drift"), seed=7, orders=6_000))


def altered(result: RunResult, **found: object) -> RunResult:
    """`result` with its only part's fields replaced."""
    return replace(result, parts=(replace(result.parts[0], **found),))  # type: ignore[arg-type]


def failing(result: RunResult) -> set[str]:
    return {check.name for check in judged(result) if not check.passed}


def test_a_good_run_fails_nothing(good: RunResult, moved: RunResult) -> None:
    assert failing(good) == failing(moved) == set()


def test_latency_fails_when_two_in_a_hundred_are_slow(good: RunResult) -> None:
    slow = good.seen.latency_ms.copy()
    slow[::50] += 1_000.0
    assert failing(replace(good, seen=replace(good.seen, latency_ms=slow))) == {"latency"}


@pytest.mark.parametrize("what", ["dropped", "refused", "failed"])
def test_errors_fail_on_orders_without_an_answer(good: RunResult, what: str) -> None:
    lost = np.arange(good.seen.score.size) % 500 == 0
    spoilt = {"dropped": good.seen.dropped, "refused": good.seen.refused, "failed": lost}
    spoilt[what] = lost
    assert failing(replace(good, seen=replace(good.seen, **spoilt))) == {"errors"}


def test_freshness_fails_when_orders_arrive_late(good: RunResult) -> None:
    late = good.seen.freshness_seconds.copy()
    late[::50] += 60.0
    assert failing(replace(good, seen=replace(good.seen, freshness_seconds=late))) == {"freshness"}


def test_accuracy_fails_on_a_random_score(good: RunResult) -> None:
    noise = np.random.default_rng(1).permutation(good.seen.score)
    assert "accuracy" in failing(replace(good, seen=replace(good.seen, score=noise)))


def test_fraud_saved_fails_when_nothing_is_held(good: RunResult) -> None:
    timid = good.seen.score * 1e-6
    assert failing(replace(good, seen=replace(good.seen, score=timid))) == {"fraud saved"}


def test_revenue_fails_when_everybody_is_held(good: RunResult) -> None:
    keen = 0.9 + 0.1 * good.seen.score
    assert "revenue" in failing(replace(good, seen=replace(good.seen, score=keen)))


def test_drift_fails_both_ways(good: RunResult, moved: RunResult) -> None:
    assert failing(altered(good, divergences=moved.parts[0].divergences)) == {"no drift"}
    assert failing(altered(moved, divergences=good.parts[0].divergences)) == {"drift seen"}


def test_the_size_of_the_drift_fails_when_coins_are_off(moved: RunResult) -> None:
    # 6,000 coins at .5 have a deviation of .0065; .55 is nearly eight of them away.
    off = (DriftedShare("covariate", 3_300, 6_000),)
    assert failing(altered(moved, drifted=off)) == {"covariate size"}


@pytest.mark.parametrize(
    ("field", "check"),
    [("oversold_events", "seats"), ("wrong_amounts", "money"), ("arrived", "messages")],
)
def test_conservation_fails_by_one(good: RunResult, field: str, check: str) -> None:
    before = good.parts[0].books
    books = replace(before, **{field: getattr(before, field) + 1})
    assert failing(altered(good, books=books)) == {check}


def test_what_cannot_be_measured_fails() -> None:
    assert not Check("latency", "x", "", float("nan"), "at most", 1.0).passed
