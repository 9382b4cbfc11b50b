"""Judges a run: each objective becomes a check with a number, a limit and a verdict."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np

from ibook_assets.core.costs import CostModel
from ibook_assets.core.metrics import average_precision
from ibook_sim.running import RunResult, Seen
from ibook_sim.world.randomness import Bools, Floats

COSTS: Final = CostModel(
    loss_share=1.0, chargeback_fee_cents=1_500, review_cents=300, friction_share=0.05
)
"""What holding and passing orders costs in a simulated business."""
DRIFT_DEVIATIONS: Final = 4.0
"""Standard deviations that the coins' share may be off the level asked."""

Family = Literal["latency", "errors", "freshness", "accuracy", "drift", "business", "conservation"]
"""What an objective is about."""
FAMILIES: Final[tuple[Family, ...]] = get_args(Family)


@dataclass(frozen=True, slots=True)
class Check:
    """One objective against what was seen."""

    family: Family
    name: str
    about: str
    value: float
    sense: Literal["at most", "at least"]
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the objective holds; a value that could not be measured fails."""
        if math.isnan(self.value):
            return False
        if self.sense == "at most":
            return self.value <= self.limit
        return self.value >= self.limit


def judged(result: RunResult) -> tuple[Check, ...]:
    """Every objective of the run's scenario, and what must hold always."""
    return (
        *_service(result),
        *_accuracy(result),
        *_drift(result),
        *_business(result),
        *_books(result),
    )


def held(seen: Seen) -> Bools:
    """Answered orders for which holding has the lower expected cost under the score."""
    stops = COSTS.held_cents(seen.score, seen.amount_cents)
    passes = COSTS.passed_cents(seen.score, seen.amount_cents)
    return seen.answered & np.asarray(stops < passes)


def quantile(values: Floats, share: float) -> float:
    """The quantile of the values that are not NaN; NaN when there are none."""
    present = values[~np.isnan(values)]
    return float(np.quantile(present, share)) if present.size else math.nan


def oracle_precision(seen: Seen) -> tuple[float, float]:
    """Average precision of the score and of the exact posterior over the answered orders."""
    fraud = (seen.archetype[seen.answered] > 0).astype(np.int64)
    if fraud.size == 0 or fraud.sum() == 0:
        return math.nan, math.nan
    return (
        average_precision(fraud, seen.score[seen.answered]),
        average_precision(fraud, seen.posterior[seen.answered]),
    )


def saved_cents(seen: Seen) -> tuple[float, float]:
    """Money that holding saved, and that perfect knowledge would have saved on all orders."""
    fraud = (seen.archetype > 0).astype(np.int64)
    passed = COSTS.passed_cents(fraud, seen.amount_cents)
    stopped = COSTS.held_cents(fraud, seen.amount_cents)
    best = np.where(fraud > 0, np.minimum(stopped, passed), passed)
    decided = np.where(held(seen), stopped, passed)
    return float((passed - decided).sum()), float((passed - best).sum())


def honest_revenue(seen: Seen) -> tuple[float, float]:
    """Honest buyers' money (cents) that was answered and not held, and all of it."""
    money = np.where(seen.archetype == 0, seen.amount_cents, 0)
    return float(money[seen.answered & ~held(seen)].sum()), float(money.sum())


def _service(result: RunResult) -> Iterator[Check]:
    wants, seen = result.scenario.objectives, result.seen
    if wants.latency_p99_ms is not None:
        value = quantile(seen.latency_ms, 0.99)
        about = "99th percentile, sent to answered, of the imagined service (ms)"
        yield Check("latency", "latency", about, value, "at most", wants.latency_p99_ms)
    if wants.error_share is not None:
        about = "share of orders without an answer: dropped, refused or failed"
        yield Check(
            "errors", "errors", about, float((~seen.answered).mean()), "at most", wants.error_share
        )
    if wants.freshness_p99_seconds is not None:
        value = quantile(seen.freshness_seconds, 0.99)
        about = "99th percentile, event time to arrival (s)"
        yield Check("freshness", "freshness", about, value, "at most", wants.freshness_p99_seconds)


def _accuracy(result: RunResult) -> Iterator[Check]:
    wants = result.scenario.objectives
    if wants.oracle_share is not None:
        own, bound = oracle_precision(result.seen)
        about = "average precision as a share of the exact posterior's"
        yield Check("accuracy", "accuracy", about, own / bound, "at least", wants.oracle_share)


def _drift(result: RunResult) -> Iterator[Check]:
    wants = result.scenario.objectives
    index = max(d.stability_index for d in result.divergences)
    about = "stability index of the most moved column, against the undrifted twin"
    if wants.drift_index_max is not None:
        yield Check("drift", "no drift", about, index, "at most", wants.drift_index_max)
    if wants.drift_index_min is not None:
        yield Check("drift", "drift seen", about, index, "at least", wants.drift_index_min)
    for share in result.drifted:
        level = result.drift.level
        spread = math.sqrt(level * (1.0 - level) / max(share.eligible, 1))
        about = f"share of orders drifted, away from the level of {level:g}"
        off = abs(share.share - level)
        limit = DRIFT_DEVIATIONS * spread
        yield Check("drift", f"{share.axis} size", about, off, "at most", limit)


def _business(result: RunResult) -> Iterator[Check]:
    wants = result.scenario.objectives
    if wants.saved_share is not None:
        saved, possible = saved_cents(result.seen)
        about = "money saved by holding, as a share of what perfect knowledge saves"
        value = saved / possible if possible > 0 else math.nan
        yield Check("business", "fraud saved", about, value, "at least", wants.saved_share)
    if wants.honest_revenue_share is not None:
        kept, total = honest_revenue(result.seen)
        about = "honest revenue that was answered and not held"
        value = kept / total if total > 0 else math.nan
        yield Check("business", "revenue", about, value, "at least", wants.honest_revenue_share)


def _books(result: RunResult) -> Iterator[Check]:
    books = result.books
    lost = abs(books.sent - books.dropped + books.duplicated - books.arrived)
    for name, about, value in (
        ("seats", "events that sold more tickets than they have seats", books.oversold_events),
        ("money", "orders whose amount is not tickets times price", books.wrong_amounts),
        ("messages", "sent - dropped + duplicated - arrived", lost),
    ):
        yield Check("conservation", name, about, float(value), "at most", 0.0)
