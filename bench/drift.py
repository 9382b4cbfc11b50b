"""Every monitoring signal on simulated worlds: false alarms, detection, delay.

    python -m bench.drift            # about five minutes of CPU on one core
    python -m bench.drift --quick    # about one

Signals that need labels judge many worlds, their champion the exact posterior of an undrifted
world by the order's own columns; signals that need none judge a trained model's features. Beside
them, in the same run and on the same days, the share of drifted columns by Evidently's distances
(the tests hold the two equal), at its own default of 0.50 and at the compatibility threshold.
Writes reports/bench/drift.json; `--docs` puts the tables into docs/monitoring.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from bench.drift_features import (
    FIRST_JUDGED,
    REFERENCE_FROM,
    WARM_UP,
    Features,
    Harm,
    Judge,
    Rows,
    champion,
    joined_wrongly,
    nulls,
    other_units,
)
from bench.drift_worlds import NO_DRIFT, LabelledDay, labelled_days
from ibook_assets.core.monitoring import DRIFT_SCORE_THRESHOLD
from ibook_assets.core.monitoring.fraud_rate import WINDOW_DAYS, RateDay, fraud_rate
from ibook_assets.core.monitoring.performance import (
    HORIZON_DAYS,
    JudgedDay,
    judged_day,
    performance,
)
from ibook_assets.core.monitoring.signals import SIGNALS, Signal
from ibook_sim.drift import Axis, Drift
from ibook_sim.world import WorldConfig

REPORT = Path("reports/bench/drift.json")
PAGE = Path("docs/monitoring.md")
BEGIN, END = "<!-- bench/drift: begin -->", "<!-- bench/drift: end -->"
EVIDENTLY_DEFAULT = 0.50
"""Share of drifted columns from which Evidently calls a data set drifted unless told otherwise."""

WARM, HISTORY, PROMISE = 10, 84, 42
LABELLED_FROM = WARM + HISTORY
LABELLED: tuple[tuple[Axis, float], ...] = (
    ("concept", 0.1),
    ("concept", 0.25),
    ("concept", 0.5),
    ("prior", 0.25),
    ("prior", 0.5),
    ("prior", 1.0),
    ("covariate", 1.0),
)
UNLABELLED: tuple[tuple[Axis, float], ...] = (
    ("covariate", 0.1),
    ("covariate", 0.25),
    ("covariate", 0.5),
    ("covariate", 1.0),
    ("prior", 1.0),
    ("concept", 1.0),
)


@dataclass(frozen=True)
class Size:
    """How much is run."""

    label_worlds: int
    drifted_label_worlds: int
    feature_seeds: tuple[int, ...]
    undrifted_days: int
    drifted_days: int
    config: WorldConfig


FULL = Size(24, 3, (7,), 24, 3, WorldConfig(users=16_000, events=140, orders_per_day=1_200))
QUICK = Size(3, 1, (7,), 6, 2, WorldConfig(users=10_000, events=100, orders_per_day=900))


@dataclass(frozen=True)
class Outcome:
    """What one signal said of one kind of days."""

    kind: str
    signal: str
    per: str
    judged: int
    called: int
    worlds: int
    confirmed: int
    """Worlds in which its consequence was due."""
    delay: float | None
    """Median days from the begin of drift to the day it was due, labels' maturity not counted."""
    loss: float | None = None
    """Share of average precision that was really lost."""

    @property
    def upper(self) -> float:
        """95 % upper confidence bound of the share called drifted (Clopper, Pearson)."""
        if self.called == self.judged:
            return 1.0
        return float(stats.beta.ppf(0.95, self.called + 1, self.judged - self.called))


@dataclass(frozen=True)
class World:
    """What a signal said day by day of one world."""

    called: tuple[bool, ...]
    acts: tuple[bool, ...]
    first_day: int = 1
    """Day of drift that the first verdict was for."""

    def due(self, persistence: int) -> int | None:
        """Day of drift on which its consequence was due; None when never."""
        for end in range(persistence, len(self.acts) + 1):
            if all(self.acts[end - persistence : end]):
                return self.first_day + end - 1
        return None


def outcome(
    kind: str, name: str, worlds: Sequence[World], *, per: str = "day", loss: float | None = None
) -> Outcome:
    """`worlds` of one kind as a line of the report."""
    spec = SIGNALS.get(name)  # type: ignore[call-overload]
    persistence = 2 if spec is None else spec.persistence
    due = [day for day in (world.due(persistence) for world in worlds) if day is not None]
    called = (
        [any(w.called) for w in worlds] if per == "world" else [c for w in worlds for c in w.called]
    )
    return Outcome(
        kind=kind,
        signal=name,
        per=per,
        judged=len(called),
        called=sum(called),
        worlds=len(worlds),
        confirmed=len(due),
        delay=float(np.median(due)) if due else None,
        loss=loss,
    )


class Labels:
    """Signals by labels, on worlds of the default size."""

    def __init__(self, seed: int) -> None:
        self._config = WorldConfig(seed=seed)
        history = labelled_days(self._config, NO_DRIFT, WARM, LABELLED_FROM - 1)
        frauds = sum(int(day.labels.sum()) for day in history[-PROMISE:])
        self._share = frauds / sum(day.labels.size for day in history[-PROMISE:])
        self._promised = [self._ranked(day) for day in history[-PROMISE:]]
        self._rates = [_rate(day) for day in history]

    def judged(self, drift: Drift) -> tuple[World, World, float]:
        """Performance, fraud rate, and the share of average precision lost."""
        last = LABELLED_FROM + HORIZON_DAYS - 1
        days = labelled_days(self._config, drift, LABELLED_FROM, last)
        ranked = [self._ranked(day) for day in days]
        rates = [_rate(day) for day in days]
        by_rank = [performance(self._promised, ranked[: n + 1]) for n in range(len(days))]
        by_rate = [
            fraud_rate(self._rates, rates[: n + 1]) for n in range(WINDOW_DAYS - 1, len(days))
        ]
        # A rolling week reaches back before the drift in service; here it begins with it.
        loss = 1 - _mean(ranked) / _mean(self._promised)
        return _world(by_rank), _world(by_rate, first_day=WINDOW_DAYS), loss

    def _ranked(self, day: LabelledDay) -> JudgedDay:
        return judged_day(str(day.number), day.labels, day.scores, fraud_share=self._share)


def _mean(days: Sequence[JudgedDay]) -> float:
    return float(np.mean([d.average_precision for d in days if d.average_precision is not None]))


def _rate(day: LabelledDay) -> RateDay:
    return RateDay(day=str(day.number), orders=day.labels.size, frauds=int(day.labels.sum()))


def _world(signals: Sequence[Signal], *, first_day: int = 1) -> World:
    return World(
        tuple(s.drifted for s in signals), tuple(s.acts for s in signals), first_day=first_day
    )


def by_labels(size: Size) -> Iterator[Outcome]:
    """Performance and fraud rate without drift and with each kind of it."""
    judges = [Labels(100 + n) for n in range(size.label_worlds)]
    calm = [judge.judged(NO_DRIFT) for judge in judges]
    yield outcome("none", "performance", [w for w, _, _ in calm], per="world")
    yield outcome("none", "fraud_rate", [w for _, w, _ in calm])
    for axis, level in LABELLED:
        drift = Drift(level=level, axes=(axis,))
        found = [judge.judged(drift) for judge in judges[: size.drifted_label_worlds]]
        kind, loss = f"{axis} {level:g}", float(np.mean([lost for _, _, lost in found]))
        yield outcome(kind, "performance", [w for w, _, _ in found], per="world", loss=loss)
        yield outcome(kind, "fraud_rate", [w for _, w, _ in found], loss=loss)


class Columns:
    """Signals by features, on one world with its trained champion."""

    def __init__(self, seed: int, size: Size) -> None:
        config = size.config.model_copy(update={"seed": seed})
        self._features = Features(config)
        before = self._features.rows(WARM_UP, FIRST_JUDGED - 1)
        self._bundle = champion(self._features, before)
        kept = before.day >= REFERENCE_FROM
        reference = Rows(before.x[kept], before.day[kept], before.known_ts[kept], before.orders)
        self._judge = Judge.of(self._features, self._bundle, reference)
        self._rng = np.random.default_rng(seed)
        gains = self._bundle.booster.get_score(importance_type="total_gain")
        by_gain = sorted(gains, key=lambda name: -float(np.max(gains[name])))
        self._top = [int(name[1:]) for name in by_gain]

    @property
    def harms(self) -> dict[str, Harm]:
        """Faults of data that no axis of the simulator makes."""
        names = self._features.names
        unread = next(i for i in range(len(names) - 1, -1, -1) if i not in self._top)
        return {
            "10 % nulls in the top feature": nulls(self._top[0], 0.10),
            "30 % nulls in the top feature": nulls(self._top[0], 0.30),
            "eight top features joined wrongly": joined_wrongly(self._top[:8]),
            "harmless: an unread feature x 10": other_units(unread, 10.0),
        }

    def judged(self, days: int, drift: Drift, harm: Harm | None = None) -> dict[str, World]:
        """What each signal says of `days` days."""
        rows = self._features.rows(FIRST_JUDGED, FIRST_JUDGED + days - 1, drift)
        told: dict[str, list[bool]] = {}
        for day in np.unique(rows.day):
            x = rows.x[rows.day == day]
            x = x if harm is None else harm(x, self._rng)
            decision = self._judge.columns(x, int(day))
            share = decision.distance_share or 0.0
            verdicts: dict[str, bool] = {
                "feature_drift": decision.drifted or decision.score_fires,
                "Evidently, share >= 0.30": share >= DRIFT_SCORE_THRESHOLD,
                "Evidently's default, share >= 0.50": share >= EVIDENTLY_DEFAULT,
                **{str(s.name): s.acts for s in self._judge.signals(x, int(day))},
            }
            for name, verdict in verdicts.items():
                told.setdefault(name, []).append(verdict)
        return {name: World(tuple(said), tuple(said)) for name, said in told.items()}


def by_features(size: Size) -> Iterator[Outcome]:
    """Signals without labels, and Evidently's rule, without drift and with each kind of it."""
    worlds = [Columns(seed, size) for seed in size.feature_seeds]
    yield from _lines("none", [w.judged(size.undrifted_days, NO_DRIFT) for w in worlds])
    for axis, level in UNLABELLED:
        drift = Drift(level=level, axes=(axis,))
        yield from _lines(f"{axis} {level:g}", [w.judged(size.drifted_days, drift) for w in worlds])
    for kind in worlds[0].harms:
        found = [w.judged(size.drifted_days, NO_DRIFT, w.harms[kind]) for w in worlds]
        yield from _lines(kind, found)


def _lines(kind: str, found: Sequence[dict[str, World]]) -> list[Outcome]:
    return [outcome(kind, name, [world[name] for world in found]) for name in found[0]]


def false_alarms(found: Sequence[Outcome]) -> str:
    """Undrifted days as a Markdown table."""
    lines = [
        "| Signal | Stated | Judged | Called drifted | 95 % bound | Consequence due |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for line in found:
        if line.kind == "none":
            spec = line.signal in SIGNALS or line.signal == "feature_drift"
            what = f"{HORIZON_DAYS}-day worlds" if line.per == "world" else "days"
            lines.append(
                f"| {line.signal} | {'1 %' if spec else '-'} | {line.judged} {what} | "
                f"{line.called} ({line.called / line.judged:.1%}) | {line.upper:.1%} | "
                f"{line.confirmed} of {line.worlds} worlds |"
            )
    return "\n".join(lines)


def detection(found: Sequence[Outcome]) -> str:
    """Drifted days as a Markdown table: share of days called drifted, and the delay."""
    names = list(dict.fromkeys(line.signal for line in found))
    kinds = [kind for kind in dict.fromkeys(line.kind for line in found) if kind != "none"]
    told = {(line.kind, line.signal): line for line in found}
    lines = [
        "| Drift | AP lost | " + " | ".join(names) + " |",
        "|---|--:|" + "--:|" * len(names),
    ]
    for kind in kinds:
        losses = [o.loss for o in found if o.kind == kind and o.loss is not None]
        lost = f"{losses[0]:.0%}" if losses else ""
        cells = [_cell(told.get((kind, name))) for name in names]
        lines.append(f"| {kind} | {lost} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(line: Outcome | None) -> str:
    if line is None:
        return ""
    share = f"{line.called / line.judged:.0%}"
    return share if line.delay is None else f"{share}, day {line.delay:g}"


def show(found: Sequence[Outcome]) -> None:
    """All lines as a table."""
    table = Table(title="Monitoring signals on simulated worlds")
    for name in ("drift", "signal", "judged", "called", "<= (95 %)", "due in", "delay", "AP lost"):
        table.add_column(name, justify="left" if name in {"drift", "signal"} else "right")
    for o in found:
        table.add_row(
            o.kind, o.signal, f"{o.judged} {o.per}s", str(o.called), f"{o.upper:.1%}",
            f"{o.confirmed}/{o.worlds}", "" if o.delay is None else f"{o.delay:g} d",
            "" if o.loss is None else f"{o.loss:.1%}",
        )  # fmt: skip
    Console(width=130).print(table)


def write_docs(found: Sequence[Outcome]) -> None:
    """Replace the tables between the page's markers."""
    page = PAGE.read_text()
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    tables = f"{BEGIN}\n{false_alarms(found)}\n\n{detection(found)}\n{END}"
    PAGE.write_text(before + tables + after)


def main() -> None:
    """Measure, print, write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few and small worlds")
    parser.add_argument("--docs", action="store_true", help="write the tables into the docs")
    asked = parser.parse_args()
    begun = time.process_time()
    size = QUICK if asked.quick else FULL
    found = [*by_labels(size), *by_features(size)]
    show(found)
    spent = time.process_time() - begun
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    lines = [asdict(line) | {"upper_95": line.upper} for line in found]
    report = {"quick": asked.quick, "cpu_seconds": spent, "lines": lines}
    REPORT.write_text(json.dumps(report, indent=1))
    if asked.docs:
        write_docs(found)
    print(f"{spent:.0f} s of CPU, written to {REPORT}")


if __name__ == "__main__":
    main()
