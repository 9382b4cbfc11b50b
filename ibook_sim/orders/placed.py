"""The orders of one part of a run as they were placed, and what is found of them there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final, Protocol

import numpy as np
import pyarrow as pa

from ibook_assets.core.arrow import array, integers
from ibook_assets.core.errors import ContractError
from ibook_assets.core.times import SECOND_US
from ibook_sim.chaos import Chaos
from ibook_sim.drift import (
    Divergence,
    DriftedShare,
    DriftedWorld,
    divergence,
)
from ibook_sim.judging.books import books_of, oversold_events
from ibook_sim.judging.findings import UNKNOWN_TRUTH, PartFound
from ibook_sim.judging.labels import labels_of
from ibook_sim.judging.platform_drift import platform_drift
from ibook_sim.orders.recordings import Recording, rows_digest
from ibook_sim.scenarios import Scenario
from ibook_sim.world import World
from ibook_sim.world.randomness import Floats, Ints

WARM_UP_DAYS: Final = 30
"""Days of history before the first order of a run; the posterior needs a past."""
COLUMNS: Final = ("amount_cents", "quantity", "declines", "checkout_ms", "geo_distance_m")
"""Columns whose divergence from the undrifted twin is measured."""
ROW_POSTERIOR: Final = "row posterior of the world before any drift (not a trained model)"
MAX_DAYS: Final = 3_650
"""Days that are looked through for the orders of a run."""

Stopped = Callable[[], bool]
"""Whether the run shall end with what has been played."""


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
class Orders:
    """Orders as they were placed, before anything went wrong; shape (n,) each."""

    sent: pa.Table
    """Columns of `TRANSACTIONS`."""
    archetype: Ints
    posterior: Floats
    score: Floats
    found: PartFound

    @property
    def truth_known(self) -> bool:
        """Whether it is known of every order what it was."""
        return bool((self.archetype != UNKNOWN_TRUTH).all())

    def take(self, rows: Ints) -> Orders:
        """The chosen orders."""
        return Orders(
            self.sent.take(array(rows)),
            self.archetype[rows],
            self.posterior[rows],
            self.score[rows],
            self.found,
        )


def never() -> bool:
    """Nobody stops the run."""
    return False


def of_world(
    item: Scenario, count: int, *, seed: int, scorer: Scorer | None = None, stopped: Stopped = never
) -> Orders:
    """The first `count` orders of the scenario's world after its warm-up; fewer when stopped.

    Raises:
        ContractError: the world has too few.
    """
    config = item.config(seed)
    world, twin = DriftedWorld(config, item.drift), World(config)
    warm_up = scorer.warm_up_days(config.start_date) if scorer else 0
    days = _days(world, count, warm_up_days=warm_up, stopped=stopped)
    sent = pa.concat_tables([world.transactions(day) for day in days]).slice(0, count)
    known = world.truth(days)
    truth = pa.concat_tables([known[day] for day in days]).slice(0, count)
    before = pa.concat_tables([twin.transactions(day) for day in days]).slice(0, sent.num_rows)
    if scorer:
        score = scorer.score(sent, world=world, chaos=item.chaos)
    else:
        score = _unaware(world, days)[:count]
    wants = item.objectives
    judged = wants.labels_in_time_share is not None or wants.label_delay_p95_days is not None
    found = PartFound(
        scenario=item,
        orders=sent.num_rows,
        books=books_of(sent, world.catalogue(days[-1]).events, oversold_events(world, days[-1])),
        divergences=_divergences(before, sent),
        drifted=_drifted(world, days),
        platform=platform_drift(before, sent),
        labels=labels_of(sent, days, world, item.chaos, seed=seed) if judged else None,
    )
    return _orders(sent, truth, np.asarray(score, dtype=np.float64), found)


def of_recording(item: Scenario, recording: Recording, count: int | None = None) -> Orders:
    """The first `count` recorded orders (all of them if None).

    Their scores are the truth's row posteriors, NaN without truth.
    """
    rows, truth, events = recording.transactions(), recording.truth(), recording.events()
    sent = rows.slice(0, count)
    capacity = integers(events["capacity"], null=0)
    about = integers(sent["event_id"], null=0)
    sold = np.bincount(about, integers(sent["quantity"], null=0), capacity.size)
    oversold = int((sold > capacity).sum())
    digests = None if recording.digest is None else (recording.digest, rows_digest(rows))
    found = PartFound(
        scenario=item,
        orders=sent.num_rows,
        books=books_of(sent, events, oversold),
        divergences=(),
        drifted=(),
        platform=None,
        recording=digests,
    )
    return _orders(sent, None if truth is None else truth.slice(0, count), None, found)


def age_seconds(rows: pa.Table) -> Floats:
    """From when each order happened to when it became known."""
    ago = integers(rows["known_ts"], null=0) - integers(rows["occurred_ts"], null=0)
    return np.asarray(ago / SECOND_US)


def days_holding(world: World, count: int) -> list[date]:
    """The days after the warm-up that hold `count` orders."""
    return _days(world, count, warm_up_days=0, stopped=never)


def _orders(
    sent: pa.Table, truth: pa.Table | None, score: Floats | None, found: PartFound
) -> Orders:
    n = sent.num_rows
    if truth is None:
        unknown = np.full(n, np.nan)
        return Orders(sent, np.full(n, UNKNOWN_TRUTH), unknown, unknown, found)
    if score is None:
        score = np.asarray(truth["row_posterior"], dtype=np.float64)
    return Orders(
        sent=sent,
        archetype=integers(truth["archetype"], null=0),
        posterior=np.asarray(truth["posterior"], dtype=np.float64),
        score=score,
        found=found,
    )


def _days(world: World, count: int, *, warm_up_days: int, stopped: Stopped) -> list[date]:
    first = world.config.start_date + timedelta(days=max(WARM_UP_DAYS, warm_up_days))
    days: list[date] = []
    found = 0
    while found < count and not (days and stopped()):
        if len(days) == MAX_DAYS:
            msg = f"{MAX_DAYS} days hold {found:,} orders, {count:,} are asked: shorten the run"
            raise ContractError(msg)
        day = first + timedelta(days=len(days))
        found += world.orders(day).row.size
        days.append(day)
    return days


def _unaware(world: DriftedWorld, days: Sequence[date]) -> Floats:
    parts = []
    for day in days:
        rows = world.orders(day)
        order = np.lexsort((rows.transaction_id, rows.known_ts))
        parts.append(world.unaware_posterior((day - world.config.start_date).days)[order])
    return np.concatenate(parts)


def _divergences(before: pa.Table, sent: pa.Table) -> tuple[Divergence, ...]:
    return tuple(divergence(c, _floats(before, c), _floats(sent, c)) for c in COLUMNS)


def _drifted(world: DriftedWorld, days: Sequence[date]) -> tuple[DriftedShare, ...]:
    coins = [world.drifted((day - world.config.start_date).days) for day in days]
    return tuple(
        DriftedShare(axis[0].axis, sum(s.drifted for s in axis), sum(s.eligible for s in axis))
        for axis in zip(*coins, strict=True)
        if world.drift.level_of(axis[0].axis) > 0.0
    )


def _floats(table: pa.Table, column: str) -> Floats:
    return integers(table[column], null=0).astype(np.float64)
