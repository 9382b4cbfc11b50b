"""Service levels: what is wrong with a server by its counters, and when it is over."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from ibook_assets.core.service_levels import (
    CHANCE,
    DOWN_SECONDS,
    FORGOTTEN_SECONDS,
    LEVELS,
    STALE_SECONDS,
    WINDOW_SECONDS,
    Counted,
    ServerWatch,
)
from ibook_serving.telemetry.metrics import LATENCY_BUCKETS

STEP: Final = 30.0


class Server:
    """A server that counts, and the watch that looks at it every half minute."""

    def __init__(self) -> None:
        self.at = 1_000_000.0
        self.since = self.at
        self.requests = self.errors = self.slow = self.very_slow = 0
        self.age: float | None = None
        self.watch = ServerWatch().after(self._counted(), at=self.at)

    def serves(
        self, requests: int, *, errors: int = 0, slow: int = 0, very_slow: int = 0
    ) -> set[str]:
        """A step passes in which it does that; what is wrong then."""
        self.requests += requests
        self.errors += errors
        self.slow += slow
        self.very_slow += very_slow
        self.at += STEP
        self.watch = self.watch.after(self._counted(), at=self.at)
        return set(self.watch.broken)

    def streams(self) -> None:
        """Its features are fresh for longer than a snapshot could be."""
        self.age = 20.0
        assert not any(self.serves(10) for _ in steps(STALE_SECONDS + STEP))

    def is_silent(self) -> set[str]:
        self.at += STEP
        self.watch = self.watch.after(None, at=self.at)
        return set(self.watch.broken)

    def is_not_looked_at(self, seconds: float) -> None:
        """The watch pauses for so long."""
        self.at += seconds

    def starts_anew(self) -> None:
        self.since = self.at + 1
        self.requests = self.errors = self.slow = self.very_slow = 0

    def _counted(self) -> Counted:
        return Counted(
            at=self.at,
            since=self.since,
            requests=self.requests,
            errors=self.errors,
            slower=(self.slow, self.very_slow),
            feature_age_seconds=self.age,
        )


def steps(seconds: float) -> range:
    return range(int(seconds / STEP) + 1)


@pytest.mark.parametrize(
    ("errors", "wrong"),
    [(1, set()), (10, set()), (30, {"errors"}), (90, {"errors", "many_errors"})],
)
def test_errors_are_a_ticket_above_one_percent_and_a_page_above_five(
    errors: int, wrong: set[str]
) -> None:
    assert Server().serves(1_000, errors=errors) == wrong


@pytest.mark.parametrize(
    ("slow", "very_slow", "wrong"),
    [
        (9, 9, set()),
        # 3 % above 200 ms: so is p99.
        (30, 0, {"slow"}),
        # 3 % above 500 ms: p99 is, p95 is not.
        (30, 30, {"slow"}),
        (90, 90, {"slow", "very_slow"}),
    ],
)
def test_p99_above_200_ms_is_a_ticket_and_p95_above_500_ms_a_page(
    slow: int, very_slow: int, wrong: set[str]
) -> None:
    assert Server().serves(1_000, slow=slow, very_slow=very_slow) == wrong


def test_few_requests_are_judged_by_how_surely_they_tell() -> None:
    # .05**3 = .000125 is below the chance of .001, .05**2 is not; .01**2 = .0001 is.
    assert Server().serves(1, errors=1) == set()
    assert Server().serves(2, errors=2) == {"errors"}
    assert Server().serves(3, errors=3) == {"errors", "many_errors"}
    assert Server().serves(300, errors=3) == set()


@given(requests=st.integers(1, 5_000), data=st.data())
def test_a_share_is_wrong_exactly_when_chance_does_not_explain_it(
    requests: int, data: st.DataObject
) -> None:
    errors = data.draw(st.integers(0, requests))
    found = Server().serves(requests, errors=errors)
    for name in ("errors", "many_errors"):
        limit = LEVELS[name].limit
        surely = bool(binom.sf(errors - 1, requests, limit) < CHANCE)
        assert (name in found) is (errors / requests > limit and surely)


def test_what_was_wrong_is_over_after_five_good_minutes() -> None:
    server = Server()
    server.serves(1_000, errors=900)
    found = [server.serves(1_000) for _ in steps(2 * WINDOW_SECONDS)]
    # For a window the bad step is still in what is counted; after another all is well.
    last_bad = max(number for number, wrong in enumerate(found, 1) if wrong)
    assert WINDOW_SECONDS <= last_bad * STEP < 2 * WINDOW_SECONDS + STEP
    assert found[-1] == set()


def test_without_requests_nothing_is_known_and_after_an_hour_nothing_is_told() -> None:
    server = Server()
    server.serves(1_000, errors=900)
    found = [server.serves(0) for _ in steps(FORGOTTEN_SECONDS + WINDOW_SECONDS)]
    assert "errors" in found[int(FORGOTTEN_SECONDS / STEP) - 2]
    assert found[-1] == set()


def test_a_restart_counts_from_nothing_and_loses_nothing_before_it() -> None:
    server = Server()
    server.serves(1_000, errors=5)
    server.starts_anew()
    # 5 of 1,000 before, 40 of 100 since: 45 of 1,100 are 4 %.
    assert server.serves(100, errors=40) == {"errors"}
    (broken,) = server.watch.broken.values()
    assert broken.requests == 1_100
    assert broken.value == pytest.approx(45 / 1_100)


def test_a_server_is_down_after_a_minute_of_silence_until_it_answers() -> None:
    server = Server()
    found = [server.is_silent() for _ in steps(DOWN_SECONDS)]
    assert found == [set(), set(), {"down"}]
    assert server.watch.broken["down"].value == DOWN_SECONDS
    assert server.serves(0) == set()


def test_a_short_silence_is_a_restart() -> None:
    server = Server()
    assert server.is_silent() == set()
    assert server.serves(10) == set()
    assert server.is_silent() == set()
    assert server.is_silent() == set()


def test_what_was_never_started_is_not_down() -> None:
    watch = ServerWatch()
    for number in steps(10 * DOWN_SECONDS):
        watch = watch.after(None, at=number * STEP)
    assert watch == ServerWatch()


def test_features_that_were_fresh_must_stay_fresh() -> None:
    server = Server()
    server.streams()
    server.age = STALE_SECONDS + 1
    assert server.serves(10) == {"stale"}
    server.age = 2 * STALE_SECONDS
    server.serves(10)
    assert server.watch.broken["stale"].value == 2 * STALE_SECONDS
    server.age = 30.0
    assert server.serves(10) == set()


def test_a_snapshot_of_a_moment_ago_is_no_stream() -> None:
    server = Server()
    for number in steps(2 * STALE_SECONDS):
        server.age = 1.0 + number * STEP
        assert server.serves(10) == set()


@pytest.mark.parametrize("seen", [True, False], ids=["silent", "not looked at"])
def test_two_snapshots_with_a_gap_between_them_are_no_stream(*, seen: bool) -> None:
    server = Server()
    server.age = 1.0
    assert server.serves(10) == set()
    if seen:
        for _ in steps(STALE_SECONDS):
            server.is_silent()
    else:
        server.is_not_looked_at(STALE_SECONDS)
    # Another was published meanwhile, and it ages as the first one would have.
    for number in steps(2 * STALE_SECONDS):
        server.age = 1.0 + number * STEP
        assert server.serves(10) == set()


def test_a_short_silence_begins_the_count_of_freshness_anew() -> None:
    server = Server()
    server.age = 1.0
    server.serves(10)
    server.is_silent()
    for number in steps(2 * STALE_SECONDS):
        server.age = 1.0 + number * STEP
        assert server.serves(10) == set()


def test_a_stream_is_known_although_the_clock_began_at_nought() -> None:
    watch = ServerWatch()
    for number in steps(STALE_SECONDS + STEP):
        at = number * STEP
        found = Counted(
            at=at, since=0.0, requests=0, errors=0, slower=(0, 0), feature_age_seconds=1.0
        )
        watch = watch.after(found, at=at)
    assert watch.streaming


def test_without_a_stream_features_are_as_old_as_the_last_snapshot() -> None:
    server = Server()
    server.age = 86_400.0
    assert server.serves(10) == set()


def test_a_silent_server_says_nothing_of_its_errors() -> None:
    server = Server()
    server.serves(1_000, errors=900)
    assert [server.is_silent() >= {"errors"} for _ in steps(WINDOW_SECONDS)] == [True] * 11


def test_a_watch_outlives_its_process_as_json() -> None:
    server = Server()
    server.serves(1_000, errors=900)
    assert ServerWatch.model_validate_json(server.watch.model_dump_json()) == server.watch


def test_a_watch_keeps_the_looks_of_one_window() -> None:
    server = Server()
    for _ in range(200):
        server.serves(10)
    assert len(server.watch.looks) <= WINDOW_SECONDS / STEP + 1


def test_latencies_are_bounds_that_the_server_counts_by() -> None:
    from ibook_assets.core.service_levels import LATENCIES

    assert set(LATENCIES) <= set(LATENCY_BUCKETS)
