"""The monitoring benchmark's intervals and delays."""

import pytest
from scipy import stats

from bench.drift_tables import CALM, Found, Run, Share


def exact(yes: int, of: int) -> tuple[float, float]:
    found = stats.binomtest(yes, of).proportion_ci(method="exact")
    return found.low, found.high


def test_worlds_of_one_day_each_are_as_many_independent_days() -> None:
    found = Share.of_worlds([[n < 5] for n in range(100)])
    assert (found.yes, found.of) == (5, 100)
    assert (found.low, found.high) == pytest.approx(exact(5, 100), abs=2e-3)


def test_days_that_come_all_or_none_are_worth_as_many_as_their_worlds() -> None:
    worlds = [[n < 5] * 28 for n in range(100)]
    found = Share.of_worlds(worlds)
    assert (found.yes, found.of) == (140, 2_800)
    assert (found.low, found.high) == pytest.approx(exact(5, 100), abs=2e-3)


def test_without_any_alarm_only_the_worlds_count() -> None:
    found = Share.of_worlds([[False] * 28] * 30)
    assert found.low == 0.0
    assert found.high == pytest.approx(exact(0, 30)[1])


def test_a_consequence_is_due_when_the_verdict_has_persisted() -> None:
    found = Found()
    called = (False, True, False, True, True)
    for _ in range(2):
        found.add(CALM, {"score_drift": [Run(called, called, first_day=7)]})
    # Called on days 8, 10 and 11 of the drift; twice in a row on day 11.
    assert found.delay(CALM, "score_drift") == 11
    assert found.all(CALM, "score_drift")[0].first_called == 8
    assert (found.called(CALM, "score_drift").yes, found.due(CALM, "score_drift").yes) == (6, 2)
