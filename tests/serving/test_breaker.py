"""The circuit breaker's states, on a clock of the test's own."""

from __future__ import annotations

from ibook_serving.scoring.breaker import Breaker


class Clock:
    """Stands still until told otherwise."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_one_failure_opens_and_one_trial_at_a_time_is_let_through() -> None:
    clock = Clock()
    breaker = Breaker(retry_seconds=1.0, clock=clock)
    assert (breaker.closed, breaker.allows(), breaker.state) == (True, True, "closed")
    breaker.failed()
    breaker.failed()
    assert (breaker.state, breaker.allows(), breaker.opened) == ("open", False, 1)
    clock.now += 1.0
    assert [breaker.allows() for _ in range(3)] == [True, False, False]
    assert breaker.state == "half_open"
    breaker.failed()
    assert (breaker.state, breaker.allows()) == ("open", False)
    clock.now += 1.0
    assert breaker.allows()
    breaker.succeeded()
    assert (breaker.closed, breaker.allows(), breaker.opened) == (True, True, 1)


def test_a_trial_nobody_reports_gives_way_to_the_next() -> None:
    clock = Clock()
    breaker = Breaker(retry_seconds=1.0, clock=clock)
    breaker.failed()
    clock.now += 1.0
    assert breaker.allows()
    clock.now += 0.9
    assert not breaker.allows()
    clock.now += 0.1
    assert breaker.allows()
