"""Service levels: what a server's own counters say of the last minutes, and what is wrong with it.

A share is wrong when it exceeds its limit *and* chance does not explain it: were the true share at
the limit, so many would be seen in one of a thousand windows. So three failed requests of three
are an alert and three of three hundred are none, without a number of requests that must be there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field
from scipy.special import bdtrc

from ibook_assets.core.alerts import Kind, Severity

WINDOW_SECONDS: Final = 300.0
"""What errors and latency are counted over, and how long all must be well until it is over."""
FORGOTTEN_SECONDS: Final = 3_600.0
"""After so long without a request that could show it, errors and latency are not told any more."""
DOWN_SECONDS: Final = 60.0
"""A restart takes less."""
STALE_SECONDS: Final = 300.0
"""Age of features from which history is too old; the objective is a minute."""
SLOW_SECONDS: Final = 0.2
VERY_SLOW_SECONDS: Final = 0.5
LATENCIES: Final = (SLOW_SECONDS, VERY_SLOW_SECONDS)
"""Both are bounds of the server's histogram."""
CHANCE: Final = 0.001
"""Windows in which a share at its limit is called wrong."""

Name = Literal["down", "errors", "many_errors", "slow", "very_slow", "stale"]


@dataclass(frozen=True, slots=True)
class Level:
    """One thing that can be wrong with a server, and how much that matters."""

    kind: Kind
    severity: Severity
    """`critical` wakes somebody, anything less is a ticket."""
    limit: float
    """A share of requests, or seconds."""


LEVELS: Final[Mapping[Name, Level]] = {
    "down": Level("service-down", "critical", DOWN_SECONDS),
    "errors": Level("service-errors", "error", 0.01),
    "many_errors": Level("service-errors", "critical", 0.05),
    "slow": Level("service-latency", "error", 0.01),
    "very_slow": Level("service-latency", "critical", 0.05),
    "stale": Level("freshness", "error", STALE_SECONDS),
}
"""p99 is above 200 ms when more than 1 % take longer, p95 above 500 ms when more than 5 % do."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Counted(_Frozen):
    """What a server had counted of its scoring routes at one moment; times are Unix times."""

    at: float
    since: float
    """When counting began: another moment means that the server was started anew."""
    requests: int
    errors: int
    """Requests that the server failed."""
    slower: tuple[int, int]
    """Requests that took longer than each of LATENCIES."""
    feature_age_seconds: float | None
    """None while it has no history."""


class Broken(_Frozen):
    """A level that does not hold."""

    since: float
    last: float
    """When it was last seen not to hold."""
    value: float
    """The worst seen: a share of requests, or seconds."""
    requests: int = 0
    """Requests that the worst share is of."""


class ServerWatch(_Frozen):
    """What has been seen of a server; `after` each look it is another one."""

    looks: tuple[Counted, ...] = ()
    """Those of the last window and the one before it, oldest first."""
    silent_since: float | None = None
    """When it first did not answer; None while it does."""
    expected: bool = False
    """Whether it has ever answered: one that was never started is not down."""
    fresh_since: float | None = None
    """From when on its features have been fresh at each look, without a gap in which it was not
    seen; None when they are not."""
    streaming: bool = False
    """Whether they have ever been fresh for longer than what is published once stays so: without
    a stream they are as old as the last published snapshot."""
    broken: dict[Name, Broken] = Field(default_factory=dict)

    def after(self, found: Counted | None, *, at: float) -> Self:
        """This watch after a look at the time `at`; None where the server did not answer."""
        return self._silent(at) if found is None else self._answered(found, at)

    def _silent(self, at: float) -> Self:
        if not self.expected:
            return self
        since = at if self.silent_since is None else self.silent_since
        broken = dict(self.broken)
        if at - since >= DOWN_SECONDS:
            broken["down"] = Broken(since=since, last=at, value=at - since)
        return self.model_copy(
            update={"silent_since": since, "fresh_since": None, "broken": broken}
        )

    def _answered(self, found: Counted, at: float) -> Self:
        before = [look for look in self.looks if look.at <= at - WINDOW_SECONDS]
        looks = (*before[-1:], *self.looks[len(before) :], found)
        window = _counted_between(looks)
        broken = {
            name: seen
            for name, seen in self.broken.items()
            if name not in ("down", "stale") and not _is_over(seen, window, at)
        }
        for name, value in _wrong(window):
            broken[name] = _worse(self.broken.get(name), value, at, window.requests)
        age = found.feature_age_seconds
        is_fresh = age is not None and age <= STALE_SECONDS
        fresh_since = self._fresh_until(at) if is_fresh else None
        streaming = self.streaming or (fresh_since is not None and at - fresh_since > STALE_SECONDS)
        if streaming and age is not None and not is_fresh:
            broken["stale"] = _worse(self.broken.get("stale"), age, at, 0)
        return self.model_copy(
            update={
                "looks": looks,
                "silent_since": None,
                "expected": True,
                "fresh_since": fresh_since,
                "streaming": streaming,
                "broken": broken,
            }
        )

    def _fresh_until(self, at: float) -> float:
        """From when on features have been fresh that are so at `at`."""
        # Between two looks so far apart one snapshot can go stale and another be published.
        unseen = not self.looks or at - self.looks[-1].at >= STALE_SECONDS
        return at if unseen or self.fresh_since is None else self.fresh_since


@dataclass(frozen=True, slots=True)
class _Window:
    requests: int
    errors: int
    slower: tuple[int, int]


def _counted_between(looks: Sequence[Counted]) -> _Window:
    """What was counted from the first look to the last, restarts of the server included."""
    requests, errors, slow, very_slow = 0, 0, 0, 0
    for then, now in pairwise(looks):
        # A server that was started anew has counted from nothing.
        same = then.since == now.since
        requests += now.requests - (then.requests if same else 0)
        errors += now.errors - (then.errors if same else 0)
        slow += now.slower[0] - (then.slower[0] if same else 0)
        very_slow += now.slower[1] - (then.slower[1] if same else 0)
    return _Window(requests, errors, (slow, very_slow))


def _wrong(window: _Window) -> Iterator[tuple[Name, float]]:
    """Shares that are above their limits, and not by chance."""
    counts: Mapping[Name, int] = {
        "errors": window.errors,
        "many_errors": window.errors,
        "slow": window.slower[0],
        "very_slow": window.slower[1],
    }
    for name, count in counts.items():
        limit = LEVELS[name].limit
        # The chance of so many or more, were the true share at the limit.
        if count > limit * window.requests and bdtrc(count - 1, window.requests, limit) < CHANCE:
            yield name, count / window.requests


def _is_over(seen: Broken, window: _Window, at: float) -> bool:
    quiet = at - seen.last
    return quiet >= FORGOTTEN_SECONDS or (quiet >= WINDOW_SECONDS and window.requests > 0)


def _worse(seen: Broken | None, value: float, at: float, requests: int) -> Broken:
    if seen is None:
        return Broken(since=at, last=at, value=value, requests=requests)
    if value < seen.value:
        return seen.model_copy(update={"last": at})
    return seen.model_copy(update={"last": at, "value": value, "requests": requests})
