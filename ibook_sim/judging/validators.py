"""Judges a run: each objective becomes a check with a number, a limit and a verdict."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

import numpy as np

from ibook_assets.core.metrics import average_precision
from ibook_assets.core.use_cases import FRAUD
from ibook_sim.judging.findings import PartFound, RunResult, Seen
from ibook_sim.world.randomness import Bools, Floats, Ints

COSTS: Final = FRAUD.costs
"""What holding and passing orders costs; the platform's own, so that both mean one business."""
DRIFT_DEVIATIONS: Final = 4.0
"""Standard deviations that the coins' share may be off the level asked."""
MIN_RATE_SHARE: Final = 0.99
"""A run that kept less of the asked rate measured its generator, not the server."""

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
        *_pace(result),
        *_service(result),
        *_accuracy(result),
        *_business(result),
        *(check for part in result.parts for check in _part(part, result)),
    )


def held(seen: Seen) -> Bools:
    """Answered orders that were held: as the answers say, else as the score makes cheaper."""
    if seen.flagged is not None:
        return seen.answered & seen.flagged
    return seen.answered & cheaper_held(seen.score, seen.amount_cents)


def cheaper_held(score: Floats, amount_cents: Ints) -> Bools:
    """Orders for which holding has the lower expected cost under the score."""
    stops = COSTS.held_cents(score, amount_cents)
    return np.asarray(stops < COSTS.passed_cents(score, amount_cents))


def quantile(values: Floats, share: float) -> float:
    """The quantile of the values that are not NaN; NaN when there are none."""
    present = values[~np.isnan(values)]
    return float(np.quantile(present, share)) if present.size else math.nan


def scored(seen: Seen) -> Bools:
    """Answered orders that got a score."""
    return seen.answered & ~np.isnan(seen.score)


def oracle_precision(seen: Seen) -> tuple[float, float]:
    """Average precision of the score and of the exact posterior over the scored orders."""
    rows = scored(seen)
    fraud = (seen.archetype[rows] > 0).astype(np.int64)
    if not seen.truth_known or fraud.sum() == 0:
        return math.nan, math.nan
    return (
        average_precision(fraud, seen.score[rows]),
        average_precision(fraud, seen.posterior[rows]),
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


def _pace(result: RunResult) -> Iterator[Check]:
    pace = result.pace
    if pace is not None and not pace.room:
        about = "kept share of the asked rate; below it these figures are the generator's"
        yield Check("latency", "rate", about, pace.rate_share, "at least", MIN_RATE_SHARE)


def _service(result: RunResult) -> Iterator[Check]:
    wants, seen, pace = result.scenario.objectives, result.seen, result.pace
    if wants.latency_p99_ms is not None:
        value = quantile(seen.latency_ms, 0.99)
        about = (
            "99th percentile, due to answered, as users meet it (ms)"
            if pace
            else "99th percentile, sent to answered, of the imagined service (ms)"
        )
        yield Check("latency", "latency", about, value, "at most", wants.latency_p99_ms)
    if wants.error_share is not None:
        about = "share of orders without an answer: dropped, refused or failed"
        value = float((~seen.answered).mean()) if seen.answered.size else math.nan
        yield Check("errors", "errors", about, value, "at most", wants.error_share)
    if wants.freshness_p99_seconds is not None and (pace is None or pace.logged):
        value = quantile(seen.freshness_seconds, 0.99)
        about = f"99th percentile, event time to {'the log' if pace else 'arrival'} (s)"
        yield Check("freshness", "freshness", about, value, "at most", wants.freshness_p99_seconds)


def _accuracy(result: RunResult) -> Iterator[Check]:
    wants = result.scenario.objectives
    if wants.oracle_share is not None and result.seen.truth_known:
        own, bound = oracle_precision(result.seen)
        about = "average precision as a share of the exact posterior's"
        yield Check("accuracy", "accuracy", about, own / bound, "at least", wants.oracle_share)


def _business(result: RunResult) -> Iterator[Check]:
    wants = result.scenario.objectives
    if not result.seen.truth_known:
        return
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


def _part(part: PartFound, result: RunResult) -> Iterator[Check]:
    """What one world is judged by; in a mix each check bears its part's name."""
    for check in (*_drift(part), *_labels(part), *_books(part)):
        if len(result.scenario.parts) > 1:
            yield replace(check, name=f"{check.name}: {part.scenario.name}")
        else:
            yield check


def _drift(part: PartFound) -> Iterator[Check]:
    wants, level = part.scenario.objectives, part.scenario.drift.level
    index = math.nan if part.index is None else part.index
    about = "stability index of the most moved column, against the undrifted twin"
    if wants.drift_index_max is not None:
        yield Check("drift", "no drift", about, index, "at most", wants.drift_index_max)
    if wants.drift_index_min is not None:
        yield Check("drift", "drift seen", about, index, "at least", wants.drift_index_min)
    if wants.platform_rings:
        about = "the platform's own drift statistic, over the threshold from which it rings"
        yield Check("drift", "platform rings", about, _rings(part), "at least", 1.0)
    for share in part.drifted:
        spread = math.sqrt(level * (1.0 - level) / max(share.eligible, 1))
        about = f"share of orders drifted, away from the level of {level:g}"
        off = abs(share.share - level)
        limit = DRIFT_DEVIATIONS * spread
        yield Check("drift", f"{share.axis} size", about, off, "at most", limit)


def _rings(part: PartFound) -> float:
    """The platform's drift statistic as a multiple of its threshold; NaN when it has no verdict."""
    found = part.platform
    if found is None or found.statistic is None or not found.threshold:
        return math.nan
    return found.statistic / found.threshold


def _labels(part: PartFound) -> Iterator[Check]:
    wants, labels = part.scenario.objectives, part.labels
    if wants.labels_in_time_share is not None:
        about = "share of orders whose label is known a day after it matures at the latest"
        value = labels.in_time_share if labels else math.nan
        yield Check(
            "freshness", "labels in time", about, value, "at least", wants.labels_in_time_share
        )
    if wants.label_delay_p95_days is not None:
        about = "95th percentile of labels' delay against the world without faults (days)"
        value = labels.delay_p95_days if labels else math.nan
        yield Check("freshness", "label delay", about, value, "at most", wants.label_delay_p95_days)


def _books(part: PartFound) -> Iterator[Check]:
    books = part.books
    lost = abs(books.sent - books.dropped + books.duplicated - books.arrived)
    for name, about, value in (
        ("seats", "events that sold more tickets than they have seats", books.oversold_events),
        ("money", "orders whose amount is not tickets times price", books.wrong_amounts),
        ("messages", "sent - dropped + duplicated - arrived", lost),
    ):
        yield Check("conservation", name, about, float(value), "at most", 0.0)
    if part.recording is not None:
        written, read = part.recording
        about = "1 when the played orders differ from the recorded ones (digests)"
        yield Check("conservation", "recording", about, float(written != read), "at most", 0.0)
