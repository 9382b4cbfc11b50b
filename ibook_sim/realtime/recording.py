"""What became of each request, and what a run may claim."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from ibook_sim.judging.validators import MIN_RATE_SHARE
from ibook_sim.realtime.histogram import LatencyHistogram
from ibook_sim.world.randomness import Bools, Floats

UNANSWERED: Final = 0
TIMED_OUT: Final = -1
BROKEN: Final = -2
INJECTED: Final = -3
"""Statuses beside HTTP's: no answer before the end, none in time, the connection failed, chaos."""

_NAMES: Final = {
    UNANSWERED: "unanswered",
    TIMED_OUT: "timed out",
    BROKEN: "connection failed",
    INJECTED: "injected error",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request."""

    status: int
    sent_at: float
    """When it left, by the loop's clock (seconds)."""
    flagged: bool = False
    """Whether the order was held for review."""
    score: float = math.nan
    """Probability of fraud; NaN when none came back."""


@dataclass(slots=True)
class Recording:
    """Times are seconds since the start of the run; shape (n,) each, in order of `due`."""

    due: Floats
    seconds: float
    """Length of the schedule; shorter when the run was stopped."""
    sent: Floats = field(init=False)
    done: Floats = field(init=False)
    status: npt.NDArray[np.int16] = field(init=False)
    flagged: Bools = field(init=False)
    score: Floats = field(init=False)
    issued: int = 0
    """Requests that were begun; the others were not due yet when the run was stopped."""
    interrupted: bool = False

    def __post_init__(self) -> None:
        n = self.due.size
        self.sent = np.full(n, np.nan)
        self.done = np.full(n, np.nan)
        self.status = np.full(n, UNANSWERED, np.int16)
        self.flagged = np.zeros(n, np.bool_)
        self.score = np.full(n, np.nan)

    def note(self, number: int, answer: Answer, *, start: float, now: float) -> None:
        """Request `number` was answered `now`, by the same clock as the run's `start`."""
        self.sent[number] = answer.sent_at - start
        self.done[number] = now - start
        self.status[number] = answer.status
        self.flagged[number] = answer.flagged
        self.score[number] = answer.score

    @property
    def answered(self) -> Bools:
        """Which requests have an end, good or bad."""
        return ~np.isnan(self.done)

    @property
    def ok(self) -> Bools:
        """Which requests were answered with success."""
        return (self.status >= 200) & (self.status < 300)

    def latency(self) -> Floats:
        """Seconds from when each begun request was due to its end.

        A request without an end counts up to the end of the last one: it took at least as long.
        """
        end = np.nanmax(self.done) if self.answered.any() else self.seconds
        done = np.where(self.answered, self.done, max(float(end), self.seconds))
        return (done - self.due)[: self.issued]

    def service_time(self) -> Floats:
        """Seconds from when each answered request was really sent: what a closed loop reports."""
        return (self.done - self.sent)[self.answered]

    def lag(self) -> Floats:
        """Seconds that each sent request left behind its schedule."""
        left = ~np.isnan(self.sent)
        return np.maximum((self.sent - self.due)[left], 0.0)

    def rate_share(self) -> float:
        """Share of the asked rate that was kept: due requests sent by the end of the schedule."""
        if not self.issued:
            return 0.0
        left = self.sent[: self.issued]
        took = max(self.seconds, float(np.nanmax(left)) if (~np.isnan(left)).any() else np.inf)
        return int((~np.isnan(left)).sum()) / self.issued * self.seconds / took

    @property
    def valid(self) -> bool:
        """Whether the generator kept the asked rate, so that the figures are the server's."""
        return self.rate_share() >= MIN_RATE_SHARE

    def outcomes(self) -> dict[str, int]:
        """Begun requests by what came of them."""
        counted = Counter(self.status[: self.issued].tolist())
        return {_NAMES.get(s, f"HTTP {s}"): n for s, n in sorted(counted.items(), reverse=True)}


def histogram_of(seconds: Floats) -> LatencyHistogram:
    """A histogram of `seconds`."""
    found = LatencyHistogram()
    found.add(seconds)
    return found
