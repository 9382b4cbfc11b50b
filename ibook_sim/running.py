"""An offline run: play a scenario's world, spoil it, queue it, score it, and keep what was seen."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import date, timedelta
from typing import Final, Protocol, Self

import numpy as np
import pyarrow as pa

from ibook_assets.core.arrow import array, integers, pc
from ibook_assets.core.tables import TIERS, TRANSACTIONS
from ibook_assets.core.times import SECOND_US
from ibook_sim.chaos import Chaos, deliver, request_faults
from ibook_sim.drift import (
    DRIFTED_PRICE_PERCENT,
    Divergence,
    Drift,
    DriftedShare,
    DriftedWorld,
    divergence,
)
from ibook_sim.scenarios import Scenario, scenario
from ibook_sim.world import World
from ibook_sim.world.orders import TIER_PERCENT
from ibook_sim.world.randomness import Bools, Floats, Ints, Stream, generator, jit

WARM_UP_DAYS: Final = 30
"""Days of history before the first order of a run; the posterior needs a past."""
COLUMNS: Final = ("amount_cents", "quantity", "declines", "checkout_ms", "geo_distance_m")
"""Columns whose divergence from the undrifted twin is measured."""
ROW_POSTERIOR: Final = "row posterior of the world before any drift (not a trained model)"

Advance = Callable[[int], None]


class Scorer(Protocol):
    """Whatever gives orders a fraud probability."""

    @property
    def name(self) -> str:
        """What the report calls it."""
        ...

    def warm_up_days(self, start: date) -> int:
        """Days it needs between a world's `start` and the first order that it is to judge.

        At least `WARM_UP_DAYS` are played.
        """
        ...

    def score(self, orders: pa.Table, *, world: World, chaos: Chaos) -> Floats:
        """Probability of fraud of each row of `orders`, by what was known when it was placed.

        Args:
            orders: `tables.TRANSACTIONS` as sent, by (known_ts, transaction_id).
            world: where they come from, with everything that happened before them.
            chaos: what goes wrong on the way to the platform.
        """
        ...


@dataclass(frozen=True, slots=True)
class Seen:
    """Orders of a run, one element each."""

    sent_seconds: Floats
    archetype: Ints
    amount_cents: Ints
    posterior: Floats
    """The exact probability of fraud: the bound."""
    score: Floats
    dropped: Bools
    refused: Bools
    failed: Bools
    delay_ms: Floats
    """Added by the network."""
    freshness_seconds: Floats
    """Event time to arrival; NaN for a dropped order."""
    latency_ms: Floats
    """Sent to answered; NaN for an order without an answer."""

    def take(self, rows: Ints) -> Self:
        """The chosen orders."""
        return type(self)(*(getattr(self, f.name)[rows] for f in fields(self)))

    @property
    def answered(self) -> Bools:
        """Orders that got a score."""
        return ~(self.dropped | self.refused | self.failed)


@dataclass(frozen=True, slots=True)
class Books:
    """What must add up."""

    oversold_events: int
    wrong_amounts: int
    sent: int
    dropped: int
    duplicated: int
    arrived: int


@dataclass(frozen=True, slots=True)
class Played:
    """One scenario's orders, before the queue."""

    seen: Seen
    books: Books
    divergences: tuple[Divergence, ...]
    drifted: tuple[DriftedShare, ...]


@dataclass(frozen=True, slots=True)
class RunResult:
    """Everything a run has to show."""

    scenario: Scenario
    seed: int
    drift: Drift
    duration_seconds: float
    scorer: str
    seen: Seen
    books: Books
    divergences: tuple[Divergence, ...]
    drifted: tuple[DriftedShare, ...]
    digest: str
    """SHA-256 of all that was seen: equal runs have equal digests."""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What will be run."""

    scenario: Scenario
    seed: int
    duration_seconds: float
    orders: int
    """Of all parts together."""

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
) -> RunPlan:
    """A run of `item`, with its own length, orders and drift unless others are given."""
    seconds = duration_seconds or item.traffic.duration_seconds
    if drift is not None:
        item = item.model_copy(update={"drift": drift})
    return RunPlan(item, seed, seconds, orders or item.traffic.orders(seconds))


def run(
    plan: RunPlan, *, scorer: Scorer | None = None, advance: Advance = lambda _: None
) -> RunResult:
    """Run `plan` offline; `advance` is told each part's orders when they have been played."""
    played = []
    for position, (item, orders) in enumerate(plan.parts):
        # Parts are worlds of their own: another seed, so that identifiers do not meet.
        seed = plan.seed + 1_000_003 * position
        played.append(_play(item, orders, plan.duration_seconds, seed=seed, scorer=scorer))
        advance(orders)
    seen = Seen(*(np.concatenate([getattr(p.seen, f.name) for p in played]) for f in fields(Seen)))
    seen = _queued(seen.take(np.argsort(seen.sent_seconds, kind="stable")), plan)
    return RunResult(
        scenario=plan.scenario,
        seed=plan.seed,
        drift=plan.scenario.drift,
        duration_seconds=plan.duration_seconds,
        scorer=scorer.name if scorer else ROW_POSTERIOR,
        seen=seen,
        books=Books(*(sum(getattr(p.books, f.name) for p in played) for f in fields(Books))),
        divergences=max((p.divergences for p in played), key=_largest),
        drifted=_added([p.drifted for p in played]),
        digest=_digest(seen),
    )


def _largest(found: tuple[Divergence, ...]) -> float:
    return max(d.stability_index for d in found)


def _added(shares: list[tuple[DriftedShare, ...]]) -> tuple[DriftedShare, ...]:
    if len(shares) > 1:  # parts may be asked for different levels
        return ()
    return shares[0]


def _play(
    item: Scenario, count: int, duration_seconds: float, *, seed: int, scorer: Scorer | None
) -> Played:
    config = item.config(seed)
    world, twin = DriftedWorld(config, item.drift), World(config)
    warm_up = scorer.warm_up_days(config.start_date) if scorer else 0
    days = _days(world, count, warm_up_days=warm_up)
    sent = pa.concat_tables([world.transactions(day) for day in days]).slice(0, count)
    truth = pa.concat_tables([world.truth(days)[day] for day in days]).slice(0, count)
    before = pa.concat_tables([twin.transactions(day) for day in days]).slice(0, count)
    delivery = deliver(sent, TRANSACTIONS, item.chaos, seed=seed)
    faults = request_faults(np.arange(count), item.chaos, seed=seed)
    first = np.unique(delivery.origin, return_index=True)
    dropped = np.ones(count, np.bool_)
    dropped[first[0]] = False
    refused = np.zeros(count, np.bool_)
    refused[first[0]] = ~_sound(delivery.rows)[first[1]]
    age = np.full(count, np.nan)
    arrived = integers(delivery.rows["known_ts"], null=0)[first[1]]
    happened = integers(delivery.rows["occurred_ts"], null=0)[first[1]]
    age[first[0]] = (arrived - happened) / SECOND_US
    if scorer:
        score = scorer.score(sent, world=world, chaos=item.chaos)
    else:
        score = _unaware(world, days)[:count]
    seen = Seen(
        sent_seconds=item.traffic.offsets(count, duration_seconds, seed=seed),
        archetype=integers(truth["archetype"], null=0),
        amount_cents=integers(sent["amount_cents"], null=0),
        posterior=np.asarray(truth["posterior"], dtype=np.float64),
        score=np.asarray(score, dtype=np.float64),
        dropped=dropped,
        refused=refused,
        failed=faults.fails & ~dropped & ~refused,
        delay_ms=faults.delay_seconds * 1e3,
        freshness_seconds=age,
        latency_ms=np.full(count, np.nan),
    )
    books = Books(
        oversold_events=_oversold(world, days[-1]),
        wrong_amounts=_wrong_amounts(world, sent, days[-1]),
        sent=count,
        dropped=delivery.dropped,
        duplicated=delivery.duplicated,
        arrived=delivery.rows.num_rows,
    )
    coins = [world.drifted((day - config.start_date).days) for day in days]
    return Played(
        seen,
        books,
        tuple(divergence(c, _floats(before, c), _floats(sent, c)) for c in COLUMNS),
        tuple(
            DriftedShare(axis[0].axis, sum(s.drifted for s in axis), sum(s.eligible for s in axis))
            for axis in zip(*coins, strict=True)
            if item.drift.level_of(axis[0].axis) > 0.0
        ),
    )


def _days(world: World, count: int, *, warm_up_days: int) -> list[date]:
    first = world.config.start_date + timedelta(days=max(WARM_UP_DAYS, warm_up_days))
    days: list[date] = []
    found = 0
    while found < count:
        day = first + timedelta(days=len(days))
        found += world.orders(day).row.size
        days.append(day)
    return days


def _unaware(world: DriftedWorld, days: list[date]) -> Floats:
    parts = []
    for day in days:
        rows = world.orders(day)
        order = np.lexsort((rows.transaction_id, rows.known_ts))
        parts.append(world.unaware_posterior((day - world.config.start_date).days)[order])
    return np.concatenate(parts)


def _floats(table: pa.Table, column: str) -> Floats:
    return integers(table[column], null=0).astype(np.float64)


def _sound(rows: pa.Table) -> Bools:
    """Rows with every value inside its contract."""
    sound = np.ones(rows.num_rows, np.bool_)
    for column in TRANSACTIONS.columns:
        values = rows[column.name]
        if column.allowed is not None:
            known = pc.is_in(values, value_set=array(list(column.allowed)))
            sound &= np.asarray(pc.or_(known, pc.is_null(values)))
            continue
        if column.minimum is not None:
            sound &= integers(values, null=column.minimum) >= column.minimum
        if column.maximum is not None:
            sound &= integers(values, null=column.maximum) <= column.maximum
    return sound


def _oversold(world: World, until: date) -> int:
    """Events with more tickets sold than seats, over all days up to `until`."""
    capacity = integers(world.catalogue(until).events["capacity"], null=0)
    sold = np.zeros(capacity.size)
    for number in range((until - world.config.start_date).days + 1):
        orders = world.orders(world.config.start_date + timedelta(days=number))
        sold += np.bincount(orders.event_id, orders.quantity, capacity.size)
    return int((sold > capacity).sum())


def _wrong_amounts(world: DriftedWorld, sent: pa.Table, until: date) -> int:
    """Orders whose amount is not tickets times the tier's price, before or after the drift."""
    price = integers(world.catalogue(until).events["list_price_cents"], null=0)
    tier = integers(pc.index_in(sent["tier"], value_set=array(list(TIERS))), null=0)
    each = price[integers(sent["event_id"], null=0)] * TIER_PERCENT[tier] // 100
    quantity = integers(sent["quantity"], null=0)
    amount = integers(sent["amount_cents"], null=0)
    return int(
        (
            (amount != each * quantity) & (amount != each * DRIFTED_PRICE_PERCENT // 100 * quantity)
        ).sum()
    )


def _queued(seen: Seen, plan: RunPlan) -> Seen:
    """`seen` with latencies of an imagined service that takes orders first come, first served."""
    service = plan.scenario.service
    calls = np.flatnonzero(~seen.dropped)
    work = generator(plan.seed, Stream.SERVICE).exponential(service.service_ms, calls.size)
    arrives = seen.sent_seconds[calls] * 1e3
    latency = np.full(seen.dropped.size, np.nan)
    latency[calls] = _served(arrives, work, service.workers) - arrives + seen.delay_ms[calls]
    latency[~seen.answered] = np.nan
    columns = {f.name: getattr(seen, f.name) for f in fields(Seen)}
    return Seen(**(columns | {"latency_ms": latency}))


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
        digest.update(np.ascontiguousarray(getattr(seen, field.name)).tobytes())
    return digest.hexdigest()
