"""Canaries judged every minute of a day: how often a healthy one fails, how soon a bad one does.

Each canary is simulated: requests with errors and latencies, and first orders of users with
scores, at rates that move through the day and jump with attacks, in both arms alike. The platform's
analysis looks after every minute, and so does the usual rule with fixed limits ("more than 1 % of
the minute's requests failed, or more than 5 % were slower than 200 ms").
`python -m bench.canary` prints tables and writes reports/bench/canary.json.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from ibook_assets.core.analysis.comparing import canary_findings
from ibook_assets.core.analysis.findings import Analysis
from ibook_assets.core.analysis.objectives import LATENCY_BOUNDS, P95_SHARE, Objectives
from ibook_assets.core.analysis.units import Requests, Users
from ibook_assets.core.times import MINUTE_US

REPORT: Final = Path("reports/bench/canary.json")
MINUTES: Final = 24 * 60
REQUESTS_PER_MINUTE: Final = 3_000
USERS_PER_MINUTE: Final = 60
"""First orders a minute, that is 86,400 users a day."""
CHAMPION_ERRORS: Final = 0.001
MEDIAN_LATENCY: Final = 0.012
"""Seconds; log-normal with LATENCY_SPREAD, so that the 95th percentile is 32 ms."""
LATENCY_SPREAD: Final = 0.6
OBJECTIVES: Final = Objectives()


@dataclass(frozen=True)
class Canary:
    """What is wrong with a canary; nothing by default."""

    name: str
    share: float = 0.05
    errors: float = CHAMPION_ERRORS
    slower: float = 1.0
    """Factor on its latencies."""
    shifted: float = 0.0
    """Added to the log-odds of its scores."""


@dataclass(frozen=True)
class Judged:
    """What became of canaries of one kind."""

    canary: Canary
    canaries: int
    failed: int
    limits_failed: int
    """By the usual rule with fixed limits."""
    minutes: tuple[float, ...] = field(repr=False)
    """Until the analysis failed them, of those it did."""

    @property
    def minutes_to_failure(self) -> Mapping[str, float]:
        """Median and 90th percentile of minutes to failure, over all canaries."""
        every = sorted([*self.minutes, *[math.inf] * (self.canaries - self.failed)])
        return {
            name: every[min(len(every) - 1, int(q * len(every)))]
            for name, q in (("median", 0.5), ("p90", 0.9))
        }


def simulate(canary: Canary, minutes: int, rng: np.random.Generator) -> tuple[Users, Requests]:
    """A canary's day."""
    clock = np.arange(minutes) / MINUTES * 2 * math.pi
    # Load follows the day, and what is fraud moves with attacks: in both arms alike.
    load = 1 + 0.6 * np.sin(clock)
    attack = np.cumsum(rng.normal(0, 0.03, minutes))
    answered = rng.binomial(
        rng.poisson(REQUESTS_PER_MINUTE * load)[:, None], (1 - canary.share, canary.share)
    )
    errors = rng.binomial(answered, (CHAMPION_ERRORS, canary.errors))
    slower = {
        bound: rng.binomial(answered, (_beyond(bound), _beyond(bound / canary.slower)))
        for bound in LATENCY_BOUNDS
    }
    per_minute = rng.poisson(USERS_PER_MINUTE * load)
    minute = np.repeat(np.arange(minutes), per_minute)
    challenged = rng.random(len(minute)) < canary.share
    logits = rng.normal(-4, 1.5, len(minute)) + attack[minute] + canary.shifted * challenged
    scores = 1 / (1 + np.exp(-logits))
    none = np.zeros(len(minute), bool)
    users = Users(minute * MINUTE_US, challenged, scores, scores >= 0.3, none, none)
    times = tuple((i + 1) * MINUTE_US for i in range(minutes))
    return users, Requests(times, answered, errors, slower)


def _beyond(seconds: float) -> float:
    return 0.5 * math.erfc(math.log(seconds / MEDIAN_LATENCY) / LATENCY_SPREAD / math.sqrt(2))


def failed_at(users: Users, requests: Requests, alpha: float) -> int | None:
    """The minute at whose end the analysis fails a canary, None when it does not."""
    found = canary_findings(users, requests, OBJECTIVES, window_us=MINUTE_US)
    analysis = Analysis("canary", "new", "old", 0, requests.times_us[-1], alpha, found)
    times, path = analysis.path
    over = np.flatnonzero(path >= analysis.log_bound)
    return times[over[0]] // MINUTE_US if len(over) else None


def limits_fail(requests: Requests) -> bool:
    """Whether the rule with fixed limits fires in any minute."""
    answered: npt.NDArray[np.float64] = np.maximum(requests.answered[:, 1], 1)
    errors = requests.errors[:, 1] / answered > OBJECTIVES.error_limit
    slow = requests.slower[OBJECTIVES.latency_limit_seconds][:, 1] / answered > P95_SHARE
    return bool((errors | slow).any())


def judge(canary: Canary, canaries: int, minutes: int, alpha: float, seed: int) -> Judged:
    """Simulate `canaries` of a kind."""
    found: list[int | None] = []
    limits = 0
    for i in range(canaries):
        users, requests = simulate(canary, minutes, np.random.default_rng([seed, i]))
        found.append(failed_at(users, requests, alpha))
        limits += limits_fail(requests)
    caught = tuple(float(at) for at in found if at is not None)
    return Judged(canary, canaries, len(caught), limits, caught)


HEALTHY: Final = tuple(Canary(f"healthy, {share:.0%}", share=share) for share in (0.05, 0.25))
FAULTY: Final = (
    *(Canary(f"errors .1 % → .2 %, {s:.0%}", share=s, errors=0.002) for s in (0.05, 0.25, 0.5)),
    *(Canary(f"errors .1 % → .5 %, {s:.0%}", share=s, errors=0.005) for s in (0.05, 0.25)),
    Canary("errors .1 % → 2 %, 5%", errors=0.02),
    *(Canary(f"latency +{f:.0%}, 5%", slower=1 + f) for f in (0.25, 0.5, 1.0)),
    *(Canary(f"log-odds {d:+g}, {s:.0%}", share=s, shifted=d) for d in (1.5, 3.0, -3.0)
      for s in (0.05, 0.25)),
)  # fmt: skip


def main() -> None:
    """Print the tables and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--healthy", type=int, default=1_000, help="healthy canaries of each kind")
    parser.add_argument("--faulty", type=int, default=40, help="faulty canaries of each kind")
    given = parser.parse_args()
    began = time.perf_counter()
    alpha = OBJECTIVES.false_alarm_rate
    healthy = [judge(canary, given.healthy, MINUTES, alpha, 1) for canary in HEALTHY]
    faulty = [judge(canary, given.faulty, MINUTES, alpha, 2) for canary in FAULTY]
    table = Table("canary, share", "canaries", "failed", "median minutes", "90 %", "fixed limits")
    for one in (*healthy, *faulty):
        told = one.minutes_to_failure
        table.add_row(
            one.canary.name,
            str(one.canaries),
            f"{one.failed / one.canaries:.1%}",
            *(
                f"{told[name]:.0f}" if told[name] < math.inf else "never"
                for name in ("median", "p90")
            ),
            f"{one.limits_failed / one.canaries:.1%}",
        )
    Console().print(table)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "alpha": alpha,
        "requests_per_minute": REQUESTS_PER_MINUTE,
        "users_per_minute": USERS_PER_MINUTE,
        "seconds": time.perf_counter() - began,
        "judged": [asdict(one) for one in (*healthy, *faulty)],
    }
    REPORT.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
