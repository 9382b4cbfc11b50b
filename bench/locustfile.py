"""Load against a scoring server, judged by the targets; `make load` runs it.

Locust is a closed loop: users wait for their answers, so a stall shows as less load, not as long
waits. `ibook sim realtime` is the open loop; this one says how the server does with many clients.
Exit code 1 when a target is missed.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Final

from locust import FastHttpUser, constant_throughput, events, task
from locust.env import Environment

from ibook_sim.realtime.load import simulated
from ibook_sim.realtime.payloads import bodies
from ibook_sim.scenarios import scenario

TARGET_P99_MS: Final = 200.0
"""The fraud route's objective."""
TARGET_ERROR_SHARE: Final = 0.001
TARGET_RPS: Final = float(os.environ.get("IBOOK_LOAD_RPS", "1000"))
"""Requests a second of all users together; what is reached may be 5 % less."""

ORDERS: Final = 20_000
"""Different orders, sent in turn."""
SEED: Final = 7


def _bodies() -> Iterator[str]:
    load = simulated(scenario("normal-traffic"), seed=SEED, rps=ORDERS / 60, seconds=60)
    return itertools.cycle(body.decode() for body in bodies(load.rows))


class Checkout(FastHttpUser):
    """One checkout that asks for its orders' scores, ten a second."""

    wait_time = constant_throughput(10)
    _bodies = _bodies()

    @task
    def score(self) -> None:
        """POST one order."""
        headers = {"content-type": "application/json"}
        with self.client.post(
            "/predict", data=next(self._bodies), headers=headers, catch_response=True
        ) as answer:
            if answer.status_code != 200:
                answer.failure(f"{answer.status_code}: {(answer.text or '')[:200]}")


def judge(environment: Environment, **_: object) -> None:
    """Fail the run when a target is missed."""
    seen = environment.stats.total
    found = {
        f"p99 {seen.get_response_time_percentile(0.99):g} ms, at most {TARGET_P99_MS:g}": (
            seen.get_response_time_percentile(0.99) <= TARGET_P99_MS
        ),
        f"errors {seen.fail_ratio:.3%}, at most {TARGET_ERROR_SHARE:.1%}": (
            seen.fail_ratio <= TARGET_ERROR_SHARE
        ),
        f"{seen.total_rps:,.0f} requests a second, at least 95 % of {TARGET_RPS:,.0f}": (
            seen.total_rps >= 0.95 * TARGET_RPS
        ),
    }
    for text, held in found.items():
        print(f"{'held  ' if held else 'MISSED'}  {text}")
    environment.process_exit_code = 0 if all(found.values()) else 1


events.quitting.add_listener(judge)  # type: ignore[no-untyped-call]
