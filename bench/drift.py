"""Every monitoring signal on simulated worlds: false alarms, detection, delay.

    python -m bench.drift            # about half an hour of CPU on one core
    python -m bench.drift --quick    # about one

Signals that need labels judge champions that are the exact posterior of an undrifted world by the
order's own columns; signals that need none judge the features and scores of a trained model. Beside
them, in the same run and on the same days, the share of drifted columns by Evidently's distances
(the tests hold the two equal), at its own default of 0.50 and at the compatibility threshold.
Every world is of a seed that nothing was tuned on (`FIRST_SEED`). Writes reports/bench/drift.json
after each world; `--resume` goes on where it ended, `--docs` puts the tables into
docs/monitoring.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain, pairwise, zip_longest
from pathlib import Path

import numpy as np

from bench.drift_features import (
    SHARE_030,
    SHARE_050,
    FeatureJudge,
    FeatureWorld,
    champion,
    harms,
    more_fraud,
    spoilt,
)
from bench.drift_tables import CALM, HARMFUL_LOSSES, Found, Run, detection, false_alarms, harmful
from bench.drift_worlds import FIRST_SEED, NO_DRIFT, LabelledDay, labelled_days
from ibook_assets.core.monitoring.fraud_rate import WINDOW_DAYS, RateDay, fraud_rate
from ibook_assets.core.monitoring.performance import (
    HORIZON_DAYS,
    JudgedDay,
    Promise,
    judged_day,
)
from ibook_assets.core.monitoring.signals import Signal
from ibook_sim.drift import Axis, Drift
from ibook_sim.world import WorldConfig

REPORT = Path("reports/bench/drift.json")
PAGE = Path("docs/monitoring.md")
BEGIN, END = "<!-- bench/drift: begin -->", "<!-- bench/drift: end -->"

WARM, HISTORY, PROMISE = 10, 84, 42
DRIFTED_LABEL_DAYS = 2 * HORIZON_DAYS
"""Days judged by labels that drift: a small loss takes weeks to tell from chance."""
BY_LABELS = ("performance", "fraud_rate")
BY_FEATURES = (
    "feature_drift",
    "data_quality",
    "score_drift",
    "domain_drift",
    "attribution_drift",
    SHARE_030,
    SHARE_050,
)
DRIFTED: tuple[tuple[Axis, tuple[float, ...]], ...] = (
    ("covariate", (0.1, 0.25, 0.5, 0.7, 1.0)),
    ("prior", (0.1, 0.25, 0.5, 0.7, 1.0)),
    ("concept", (0.05, 0.1, 0.25, 0.5, 0.7, 1.0)),
)
SPOILT = (0.1, 0.25, 0.3, 0.5, 0.7, 1.0)
"""Shares of rows that lose or change values."""


@dataclass(frozen=True)
class Size:
    """How much is run."""

    label_worlds: int
    champions: int
    """Judged one after the other in each undrifted world with labels."""
    drifted_label_worlds: int
    feature_worlds: int
    drifted_feature_worlds: int
    undrifted_days: int
    drifted_days: int
    config: WorldConfig
    """Of worlds whose features are computed; those with labels have the default size."""


FULL = Size(40, 4, 12, 24, 5, 28, 4, WorldConfig(users=25_000, events=200, orders_per_day=1_800))
QUICK = Size(2, 2, 1, 2, 1, 10, 2, WorldConfig(users=10_000, events=100, orders_per_day=900))


class Champion:
    """One champion's promise and history, from the days before it serves."""

    def __init__(self, before: list[LabelledDay]) -> None:
        promised = before[-PROMISE:]
        frauds = sum(int(day.labels.sum()) for day in promised)
        self._share = frauds / sum(day.labels.size for day in promised)
        ranked = [self._ranked(day) for day in promised]
        self._precision = _mean(ranked)
        self._promise = Promise(ranked)
        self._rates = [_rate(day) for day in before[-HISTORY:]]

    def judged(self, days: list[LabelledDay]) -> dict[str, Run]:
        """What performance and fraud rate say as each of `days` matures."""
        ranked = [self._ranked(day) for day in days]
        rates = [_rate(day) for day in days]
        loss = 1 - _mean(ranked) / self._precision
        by_rank = [self._promise.judged(ranked[: n + 1]) for n in range(len(days))]
        by_rate = [
            fraud_rate(self._rates, rates[: n + 1]) for n in range(WINDOW_DAYS - 1, len(days))
        ]
        # A rolling week reaches back before the drift in service; here it begins with it.
        return {
            "performance": _run(by_rank, loss),
            "fraud_rate": _run(by_rate, loss, first_day=WINDOW_DAYS),
        }

    def _ranked(self, day: LabelledDay) -> JudgedDay:
        return judged_day(str(day.number), day.labels, day.scores, fraud_share=self._share)


def _mean(days: list[JudgedDay]) -> float:
    return float(np.mean([d.average_precision for d in days if d.average_precision is not None]))


def _rate(day: LabelledDay) -> RateDay:
    return RateDay(day=str(day.number), orders=day.labels.size, frauds=int(day.labels.sum()))


def _run(signals: list[Signal], loss: float, *, first_day: int = 1) -> Run:
    return Run(tuple(s.drifted for s in signals), tuple(s.acts for s in signals), first_day, loss)


def by_labels(size: Size, found: Found) -> Iterator[str]:
    """Performance and fraud rate without drift and with each kind of it, world by world."""
    first = WARM + HISTORY
    for number in range(_done(found, "performance"), size.label_worlds):
        config = WorldConfig(seed=FIRST_SEED + number)
        last = first + size.champions * HORIZON_DAYS - 1
        days = labelled_days(config, NO_DRIFT, WARM, last)
        months = range(HISTORY, len(days), HORIZON_DAYS)
        champions = [Champion(days[begin - HISTORY : begin]) for begin in months]
        told = [
            judge.judged(days[begin : begin + HORIZON_DAYS])
            for judge, begin in zip(champions, months, strict=True)
        ]
        found.add(CALM, {name: [runs[name] for runs in told] for name in BY_LABELS})
        if number < size.drifted_label_worlds:
            for axis, levels in DRIFTED:
                for level in levels:
                    drift = Drift(level=level, axes=(axis,))
                    drifted = labelled_days(config, drift, first, first + DRIFTED_LABEL_DAYS - 1)
                    runs = champions[0].judged(drifted)
                    found.add(f"{axis} {level:g}", {name: [runs[name]] for name in BY_LABELS})
        yield f"labels, world {number + 1} of {size.label_worlds}"


def by_features(size: Size, found: Found) -> Iterator[str]:
    """Signals without labels, and Evidently's rule, without drift and with each kind of it."""
    for number in range(_done(found, "feature_drift"), size.feature_worlds):
        config = size.config.model_copy(update={"seed": FIRST_SEED + number})
        world = FeatureWorld(config)
        past = world.past()
        bundle = champion(config, past)
        judge = FeatureJudge(bundle, past)
        calm, frauds = world.judged(size.undrifted_days)
        _add(found, CALM, judge.verdicts(calm, frauds, None))
        if number < size.drifted_feature_worlds:
            # The same days, orders and frauds, but for what drifts.
            calm, frauds = world.judged(size.drifted_days)
            usual = judge.precision(calm, frauds)
            rng = np.random.default_rng(config.seed)
            for axis, levels in DRIFTED:
                for level in levels:
                    drifted = (
                        more_fraud(calm, frauds, level, rng)
                        if axis == "prior"
                        else world.judged(size.drifted_days, Drift(level=level, axes=(axis,)))
                    )
                    _add(found, f"{axis} {level:g}", judge.verdicts(*drifted, usual))
            for harm, spoil in harms(bundle).items():
                for share in SPOILT:
                    rows = spoilt(calm, spoil, share, rng)
                    _add(found, f"{harm}, {share:.0%}", judge.verdicts(rows, frauds, usual))
        yield f"features, world {number + 1} of {size.feature_worlds}"


def _done(found: Found, signal: str) -> int:
    """Worlds that `signal` has judged already."""
    return len(found.runs.get(CALM, {}).get(signal, []))


def _add(found: Found, kind: str, told: dict[str, Run]) -> None:
    found.add(kind, {name: [run] for name, run in told.items()})


def tables(found: Found) -> str:
    """Everything as Markdown."""
    nulls = "nulls in the top feature, 30%"
    concept = [f"concept {level:g}" for level in dict(DRIFTED)["concept"]]
    losses = {
        f"concept drift that lost {least:.0%} {f'to {most:.0%}' if most < 1 else 'or more'}": (
            least,
            most,
        )
        for least, most in pairwise((*HARMFUL_LOSSES, np.inf))
    }
    rows = [
        *((name, concept, ["performance", *BY_FEATURES]) for name in losses),
        ("30 % nulls in the top feature", [nulls], BY_FEATURES),
    ]
    return "\n\n".join(
        [
            "Without drift:",
            false_alarms(found),
            "Drift, signals by features:",
            detection(found, BY_FEATURES, loss_of="feature_drift"),
            "Drift, signals by labels:",
            detection(found, BY_LABELS, loss_of="performance"),
            "What harms:",
            harmful(found, rows, losses=losses),
        ]
    )


def store(found: Found, *, quick: bool, seconds: float) -> None:
    """Write everything that was said."""
    runs = {
        kind: {s: [[asdict(run) for run in w] for w in worlds] for s, worlds in by.items()}
        for kind, by in found.runs.items()
    }
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    report = {"quick": quick, "first_seed": FIRST_SEED, "cpu_seconds": seconds, "runs": runs}
    REPORT.write_text(json.dumps(report))


def stored(*, quick: bool) -> tuple[Found, float]:
    """What the last run found, and its CPU seconds; nothing when there is none of that size."""
    report = json.loads(REPORT.read_text()) if REPORT.exists() else {}
    if report.get("quick") is not quick or report.get("first_seed") != FIRST_SEED:
        return Found(), 0.0
    found = Found()
    for kind, by in report["runs"].items():
        found.runs[kind] = {
            signal: [
                [
                    Run(tuple(r["called"]), tuple(r["acts"]), r["first_day"], r["loss"])
                    for r in world
                ]
                for world in worlds
            ]
            for signal, worlds in by.items()
        }
    return found, float(report["cpu_seconds"])


def write_docs(found: Found) -> None:
    """Replace the tables between the page's markers."""
    page = PAGE.read_text()
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{tables(found)}\n{END}{after}")


def main() -> None:
    """Measure, print, write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few and small worlds")
    parser.add_argument("--resume", action="store_true", help="go on with the last run's worlds")
    parser.add_argument("--docs", action="store_true", help="write the tables into the docs")
    asked = parser.parse_args()
    size = QUICK if asked.quick else FULL
    found, before = stored(quick=asked.quick) if asked.resume else (Found(), 0.0)
    begun = time.process_time() - before
    # By turns: what has been measured when a run is cut short is of both.
    for done in chain.from_iterable(zip_longest(by_features(size, found), by_labels(size, found))):
        if done is not None:
            spent = time.process_time() - begun
            store(found, quick=asked.quick, seconds=spent)
            print(f"{done}: {spent:.0f} s of CPU", flush=True)
    print(tables(found))
    if asked.docs:
        write_docs(found)


if __name__ == "__main__":
    main()
