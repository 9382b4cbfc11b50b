"""An offline run: play a scenario's orders, spoil them, queue them, score them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np

from ibook_assets.core.arrow import integers
from ibook_assets.core.errors import ContractError
from ibook_assets.core.times import SECOND_US
from ibook_sim.drift import Drift
from ibook_sim.judging.findings import RunResult, Seen
from ibook_sim.offline.playing import Played, played
from ibook_sim.orders.placed import (
    ROW_POSTERIOR,
    Orders,
    Scorer,
    Stopped,
    days_holding,
    never,
    of_recording,
    of_world,
)
from ibook_sim.orders.recordings import Recording, record
from ibook_sim.scenarios import Scenario, scenario
from ibook_sim.world import World
from ibook_sim.world.randomness import Floats, Stream, generator, jit

Advance = Callable[[int], None]

PART_SEEDS: Final = 1_000_003
"""Between the seeds of a mix's parts, which are worlds of their own: no identifiers meet."""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What will be run."""

    scenario: Scenario
    seed: int
    duration_seconds: float
    orders: int
    """Of all parts together."""
    recording: Recording | None = None
    """What a scenario of recorded days plays; None: days of the default world, recorded first."""

    @property
    def parts(self) -> tuple[tuple[Scenario, int], ...]:
        """Scenarios to play, and orders of each."""
        if not self.scenario.parts:
            return ((self.scenario, self.orders),)
        total = sum(part.weight for part in self.scenario.parts)
        return tuple(
            (scenario(part.scenario), max(1, round(self.orders * part.weight / total)))
            for part in self.scenario.parts
        )


def planned(
    item: Scenario,
    *,
    seed: int,
    duration_seconds: float | None = None,
    orders: int | None = None,
    drift: Drift | None = None,
    recording: Recording | None = None,
) -> RunPlan:
    """A run of `item`, with its own length, orders and drift unless others are given.

    Raises:
        ContractError: a recording for a scenario that has a world, or drift or another number of
            orders for recorded days.
    """
    seconds = duration_seconds or item.traffic.duration_seconds
    if drift is not None:
        if item.recorded:
            msg = f"{item.name} plays days as they were recorded; they cannot drift"
            raise ContractError(msg)
        item = item.model_copy(update={"drift": drift})
    if recording is not None:
        if not item.recorded:
            msg = f"{item.name} plays a world; recorded days are played by the scenario 'replay'"
            raise ContractError(msg)
        if orders is not None:
            msg = f"the recording says how many orders there are; {orders:,} cannot be asked"
            raise ContractError(msg)
        orders = recording.transactions().num_rows
    return RunPlan(item, seed, seconds, orders or item.traffic.orders(seconds), recording)


def run(
    plan: RunPlan,
    *,
    scorer: Scorer | None = None,
    advance: Advance = lambda _: None,
    stopped: Stopped = never,
) -> RunResult:
    """Run `plan` offline.

    Args:
        plan: what to run.
        scorer: who judges the orders; the world's own row posterior when left out.
        advance: told each part's orders when they have been played.
        stopped: asked after each day of orders; the run then ends with what was played.

    Raises:
        ContractError: a scorer for recorded days, which lack the history it needs.
    """
    found: list[Played] = []
    for position, (item, orders) in enumerate(plan.parts):
        seed = plan.seed + PART_SEEDS * position
        found.append(_play(plan, item, orders, seed=seed, scorer=scorer, stopped=stopped))
        advance(orders)
        if stopped():
            break
    seen = Seen.joined([part.seen for part in found])
    seen = _queued(seen.take(np.argsort(seen.sent_seconds, kind="stable")), plan)
    interrupted = len(found) < len(plan.parts) or not all(part.complete for part in found)
    return RunResult(
        scenario=plan.scenario,
        seed=plan.seed,
        duration_seconds=float(seen.sent_seconds[-1]) if interrupted else plan.duration_seconds,
        scorer=scorer.name if scorer else ROW_POSTERIOR,
        seen=seen,
        parts=tuple(part.found for part in found),
        digest=_digest(seen),
        interrupted=interrupted,
    )


def _play(
    plan: RunPlan,
    item: Scenario,
    count: int,
    *,
    seed: int,
    scorer: Scorer | None,
    stopped: Stopped,
) -> Played:
    seconds = plan.duration_seconds
    if not item.recorded:
        orders = of_world(item, count, seed=seed, scorer=scorer, stopped=stopped)
        sent = item.traffic.offsets(count, seconds, seed=seed)[: orders.found.orders]
        return played(orders, sent, asked=count, seed=seed)
    if scorer:
        msg = f"{item.name} has no history before its days, so no model can score it"
        raise ContractError(msg)
    with ExitStack() as stack:
        recording = plan.recording
        if recording is None:
            folder = stack.enter_context(TemporaryDirectory(prefix="ibook-replay-"))
            recording = _recorded_now(item, count, seed, Path(folder))
        orders = of_recording(item, recording, count)
    return played(orders, _as_spread(orders, seconds), asked=orders.found.orders, seed=seed)


def _recorded_now(item: Scenario, count: int, seed: int, folder: Path) -> Recording:
    config = item.config(seed)
    return record(config, days_holding(World(config), count), folder)


def _as_spread(orders: Orders, seconds: float) -> Floats:
    """When each order is sent: in `seconds`, but spread as it was known."""
    known = (integers(orders.sent["known_ts"], null=0)) / SECOND_US
    return np.asarray((known - known[0]) * (seconds / max(known[-1] - known[0], 1e-6)))


def _queued(seen: Seen, plan: RunPlan) -> Seen:
    """`seen` with latencies of an imagined service that takes orders first come, first served."""
    service = plan.scenario.service
    calls = np.flatnonzero(~seen.dropped)
    work = generator(plan.seed, Stream.SERVICE).exponential(service.service_ms, calls.size)
    arrives = seen.sent_seconds[calls] * 1e3
    latency = np.full(seen.dropped.size, np.nan)
    latency[calls] = _served(arrives, work, service.workers) - arrives + seen.delay_ms[calls]
    latency[~seen.answered] = np.nan
    return replace(seen, latency_ms=latency)


@jit
def _served(arrives: Floats, work: Floats, workers: int) -> Floats:
    """When each order is done; the worker that is free first takes the next."""
    free = np.zeros(workers)
    done = np.empty(arrives.size)
    for i in range(arrives.size):
        worker = np.argmin(free)
        done[i] = max(free[worker], arrives[i]) + work[i]
        free[worker] = done[i]
    return done


def _digest(seen: Seen) -> str:
    digest = hashlib.sha256()
    for field in fields(Seen):
        if (column := getattr(seen, field.name)) is not None:
            digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()
