"""What monitoring said of simulated worlds, as rates with intervals and Markdown tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from ibook_assets.core.monitoring.decision import FALSE_ALARM_RATE
from ibook_assets.core.monitoring.record import PERSISTENCE
from ibook_assets.core.monitoring.signals import SIGNALS

CALM = "none"
PER_RUN = frozenset({"performance"})
"""Signals whose stated rate is of runs of days, not of days."""
HARMFUL_LOSSES = (0.05, 0.15)
"""Shares of average precision from whose loss on it is harm, and great harm."""


@dataclass(frozen=True)
class Run:
    """What a signal said of consecutive days of one world, judged by one champion."""

    called: tuple[bool, ...]
    acts: tuple[bool, ...]
    first_day: int = 1
    """Day of drift that the first verdict was for."""
    loss: float | None = None
    """Share of average precision really lost."""

    def due(self, persistence: int) -> int | None:
        """Day of drift on which its consequence was due; None when never."""
        for end in range(persistence, len(self.acts) + 1):
            if all(self.acts[end - persistence : end]):
                return self.first_day + end - 1
        return None

    @property
    def first_called(self) -> int | None:
        """Day of drift on which it first said drifted."""
        return self.first_day + self.called.index(True) if any(self.called) else None


@dataclass(frozen=True)
class Share:
    """A share of things that come in worlds: things of one world resemble each other."""

    yes: int
    of: int
    low: float
    high: float
    """95 % confidence interval."""

    @classmethod
    def of_worlds(cls, worlds: Sequence[Sequence[bool]]) -> Share:
        """Interval of Clopper and Pearson for as many independent things as the worlds are worth.

        As many as would vary as the worlds' totals do; without any variation between worlds to see,
        as many as there are worlds.

        Source: Korn and Graubard (1998), "Confidence intervals for proportions with small expected
        number of positive counts estimated from survey data".
        """
        yes, of = sum(map(sum, worlds)), sum(map(len, worlds))
        share = yes / of
        off = np.array([sum(world) - share * len(world) for world in worlds])
        variance = float(off @ off) / of**2 * len(worlds) / max(len(worlds) - 1, 1)
        worth = float(len(worlds)) if variance == 0 else share * (1 - share) / variance
        worth = min(worth, float(of))
        low, high = (
            stats.beta.ppf(q, share * worth + more, (1 - share) * worth + 1 - more)
            for q, more in ((0.025, 0), (0.975, 1))
        )
        return cls(yes, of, 0.0 if yes == 0 else float(low), 1.0 if yes == of else float(high))

    def __str__(self) -> str:
        return f"{self.yes / self.of:.1%} ({self.low:.1%} to {self.high:.1%})"


def persistence(signal: str) -> int:
    """Days in a row that `signal` must act; Evidently's rule is judged as column drift is."""
    return next((s.persistence for name, s in SIGNALS.items() if name == signal), PERSISTENCE)


@dataclass
class Found:
    """Every signal's runs by kind of drift, world by world."""

    runs: dict[str, dict[str, list[list[Run]]]] = field(default_factory=dict)

    def add(self, kind: str, told: dict[str, list[Run]]) -> None:
        """What the signals said of one world."""
        for signal, runs in told.items():
            self.runs.setdefault(kind, {}).setdefault(signal, []).append(runs)

    def kinds(self) -> Iterator[str]:
        """Kinds of drift, in the order found."""
        return (kind for kind in self.runs if kind != CALM)

    def all(self, kind: str, signal: str) -> list[Run]:
        """Runs of all worlds."""
        return [run for world in self.runs.get(kind, {}).get(signal, []) for run in world]

    def called(self, kind: str, signal: str) -> Share:
        """Share of days called drifted, or of runs where the stated rate is of runs."""
        worlds = self.runs[kind][signal]
        if signal in PER_RUN:
            return Share.of_worlds([[any(run.called) for run in world] for world in worlds])
        return Share.of_worlds([[day for run in world for day in run.called] for world in worlds])

    def due(self, kind: str, signal: str) -> Share:
        """Share of runs in which the consequence was due."""
        days = persistence(signal)
        worlds = self.runs[kind][signal]
        return Share.of_worlds([[run.due(days) is not None for run in w] for w in worlds])

    def delay(self, kind: str, signal: str) -> float | None:
        """Median day of drift on which the consequence was due, of the runs in which it was."""
        due = [run.due(persistence(signal)) for run in self.all(kind, signal)]
        known = [day for day in due if day is not None]
        return float(np.median(known)) if known else None

    def loss(self, kind: str, signal: str) -> float | None:
        """Mean share of average precision lost in the runs of `signal`."""
        known = [run.loss for run in self.all(kind, signal) if run.loss is not None]
        return float(np.mean(known)) if known else None


def stated_rate(signal: str) -> str:
    """What `signal` promises, as a percentage; Evidently's rule promises nothing."""
    if signal == "feature_drift":
        return f"{FALSE_ALARM_RATE:.0%}"
    return next((f"{s.false_alarm_rate:.0%}" for name, s in SIGNALS.items() if name == signal), "-")


def false_alarms(found: Found) -> str:
    """Undrifted days as a Markdown table."""
    lines = [
        "| Signal | Stated | Judged | Called drifted (95 %) | Consequence due in a month (95 %) |",
        "|---|--:|--:|--:|--:|",
    ]
    for signal, worlds in found.runs[CALM].items():
        called = found.called(CALM, signal)
        stated = stated_rate(signal)
        what = "months" if signal in PER_RUN else "days"
        lines.append(
            f"| {signal} | {stated} | {called.of:,} {what} of {len(worlds)} worlds | "
            f"{called.yes}: {called} | {found.due(CALM, signal)} |"
        )
    return "\n".join(lines)


def detection(found: Found, signals: Sequence[str], *, loss_of: str) -> str:
    """Drifted days as a Markdown table: share of days called, and when consequences were due."""
    lines = [
        "| Drift | AP lost | " + " | ".join(signals) + " |",
        "|---|--:|" + "--:|" * len(signals),
    ]
    for kind in found.kinds():
        if all(found.runs[kind].get(signal) for signal in signals):
            loss = found.loss(kind, loss_of)
            cells = [_cell(found, kind, signal) for signal in signals]
            lines.append(f"| {kind} | {loss or 0:.0%} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(found: Found, kind: str, signal: str) -> str:
    called, due = found.called(kind, signal), found.due(kind, signal)
    text = f"{called.yes / called.of:.0%}"
    if due.yes == 0:
        return text
    return f"{text}, due {due.yes / due.of:.0%} day {found.delay(kind, signal):g}"


def harmful(
    found: Found,
    rows: Sequence[tuple[str, Sequence[str], Sequence[str]]],
    *,
    losses: Mapping[str, tuple[float, float]],
) -> str:
    """What harms, and who sees it.

    Args:
        found: everything.
        rows: name of a harm, kinds of drift that it is, signals to show.
        losses: harm to the loss of average precision from which on, and below which, a run is
            shown; of others all are.
    """
    lines = [
        "| Harm | Runs | AP lost | Signal | Called drifted | First on day | Days called |",
        "|---|--:|--:|---|--:|--:|--:|",
    ]
    for name, kinds, signals in rows:
        least, most = losses.get(name, (-np.inf, np.inf))
        for signal in signals:
            runs = [
                run
                for kind in kinds
                for run in found.all(kind, signal)
                if least <= (run.loss or 0.0) < most
            ]
            if runs:
                lines.append(f"| {name} | {_seen(runs, signal)} |")
    return "\n".join(lines)


def _seen(runs: Sequence[Run], signal: str) -> str:
    first = [run.first_called for run in runs if run.first_called is not None]
    days = [day for run in runs for day in run.called]
    loss = np.median([run.loss for run in runs if run.loss is not None])
    return (
        f"{len(runs)} | {loss:.0%} | {signal} | {len(first) / len(runs):.0%} of runs | "
        f"{f'{np.median(first):g}' if first else '-'} | {sum(days) / len(days):.0%}"
    )
