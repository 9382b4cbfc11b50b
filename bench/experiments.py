"""Errors and power of experiments that are looked at 24 times, by simulation.

Each simulated experiment is judged by the platform's own bounds, beside what is usual: a plain
z-test at every look, a plain z-test once, Pearson's test of the split at every look. Some of them
go through the whole of `summarise`, so that what is measured is what decides.
`python -m bench.experiments` prints tables and writes reports/bench/experiments.json.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from scipy.special import chdtrc, ndtri

from ibook_assets.core.experiments.confidence import surely_above
from ibook_assets.core.experiments.definition import Experiment, Guardrail, Run
from ibook_assets.core.experiments.metrics import METRICS
from ibook_assets.core.experiments.proportions import users_for
from ibook_assets.core.experiments.sample_ratio import log_evidence_path
from ibook_assets.core.experiments.summarising import summarise
from ibook_assets.core.experiments.units import Units

REPORT: Final = Path("reports/bench/experiments.json")
SEED: Final = 20_261_121
SPLIT_USERS: Final = 8_000
USED: Final = "users needed with the effect, of one test's: ibook"
_CHUNK: Final = 250

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Hits = npt.NDArray[np.bool_]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """Share of experiments in which something happened."""

    what: str
    design: str
    share: float
    repeats: int
    promised: str

    @property
    def standard_error(self) -> float:
        """Of the share."""
        return math.sqrt(self.share * (1 - self.share) / self.repeats)


@dataclass(frozen=True)
class Counts:
    """Users and events of both arms at each look, shape (experiments, looks)."""

    control_users: Ints
    control_events: Ints
    treatment_users: Ints
    treatment_events: Ints

    def z(self) -> Floats:
        """The pooled z-test's statistic at each look."""
        x0, n0, x1, n1 = (
            np.asarray(part, np.float64)
            for part in (
                self.control_events,
                self.control_users,
                self.treatment_events,
                self.treatment_users,
            )
        )
        pooled = (x0 + x1) / (n0 + n1)
        variance = pooled * (1 - pooled) * (1 / n0 + 1 / n1)
        found: Floats = np.divide(
            x1 / n1 - x0 / n0,
            np.sqrt(variance),
            out=np.zeros_like(variance),
            where=variance > 0,
        )
        return found


def a_design(rate: float, effect: float, share: float = 0.5) -> Experiment:
    """An experiment of 24 looks that wants fewer reviews."""
    return Experiment(
        id="bench",
        description="A simulated experiment.",
        salt="bench",
        metric="review_rate",
        direction="decrease",
        baseline_rate=rate,
        minimal_effect=effect,
        treatment_share=share,
        follow_up_hours=0,
        horizon_days=28,
        looks=24,
    )


DESIGNS: Final = (a_design(0.03, 0.01), a_design(0.30, 0.03), a_design(0.10, 0.02, share=0.1))


def told(experiment: Experiment) -> str:
    """A design in words."""
    return (
        f"{experiment.baseline_rate:.0%}, {experiment.minimal_effect * 100:g} points, "
        f"{experiment.treatment_share:.0%} treated, {experiment.users_needed:,} users"
    )


def at_looks(
    users: tuple[int, ...],
    rates: tuple[float, float],
    share: float,
    repeats: int,
    rng: np.random.Generator,
) -> Counts:
    """Experiments whose arms have the `rates`, counted at each look."""
    steps = np.diff((0, *users))
    treated = rng.binomial(steps, share, (repeats, len(users)))
    control = steps - treated
    return Counts(
        np.cumsum(control, axis=1),
        np.cumsum(rng.binomial(control, rates[0]), axis=1),
        np.cumsum(treated, axis=1),
        np.cumsum(rng.binomial(treated, rates[1]), axis=1),
    )


def effects(experiment: Experiment, repeats: int, rng: np.random.Generator) -> list[Measured]:
    """What is found where there is nothing, and where there is the designed effect."""
    rate, alpha = experiment.baseline_rate, experiment.alpha
    treated = rate + experiment.wanted_effect
    critical = -ndtri(alpha / 2)
    bounds = np.array(experiment.bounds)
    share, users = experiment.treatment_share, experiment.look_users
    null = at_looks(users, (rate, rate), share, repeats, rng).z()
    effect = at_looks(users, (rate, treated), share, repeats, rng).z()
    single = math.ceil(
        users_for(
            rate=rate,
            effect=experiment.wanted_effect,
            treatment_share=share,
            alpha=alpha,
            power=experiment.power,
        )
    )
    once = at_looks((single,), (rate, treated), share, repeats, rng).z()
    found = [
        ("false positive: z-test at every look", np.abs(null).max(axis=1) >= critical, "5 %, once"),
        ("false positive: z-test at the end", np.abs(null[:, -1]) >= critical, "5 %"),
        ("false positive: ibook, 24 looks", (np.abs(null) >= bounds).any(axis=1), "≤ 5 %"),
        (f"power: z-test once, at {single:,} users", once[:, 0] <= -critical, "80 %"),
        ("power: ibook, 24 looks", _first_is(effect, bounds, sign=-1), "80 %"),
        ("effect called harm: ibook", _first_is(effect, bounds, sign=1), "≤ 2.5 %"),
    ]
    measured = [
        Measured(what, told(experiment), float(hit.mean()), repeats, promised)
        for what, hit, promised in found
    ]
    crossed = np.abs(effect) >= bounds
    stops = np.where(crossed.any(axis=1), np.argmax(crossed, axis=1), len(users) - 1)
    used = float(np.array(users)[stops].mean()) / single
    return [
        *measured,
        Measured(USED, told(experiment), used, repeats, ""),
    ]


def _first_is(z: Floats, bounds: Floats, *, sign: int) -> Hits:
    """Whether the first crossing is on that side."""
    crossed = np.abs(z) >= bounds
    first = np.argmax(crossed, axis=1)
    found: Hits = crossed.any(axis=1) & (np.sign(z[np.arange(len(z)), first]) == sign)
    return found


def guardrails(
    rate: float, worst: float, users: int, repeats: int, rng: np.random.Generator
) -> list[Measured]:
    """A guardrail at its very limit, where a breach is false, and at twice its limit."""
    looks = tuple(round(users * k / 24) for k in range(1, 25))
    # Ours may be looked at any time, and is: at every 50th user.
    often = tuple(range(50, users + 1, 50))
    design = f"{rate:.1%}, {worst * 100:g} points worse allowed, {users:,} users"
    found = []
    for times, what in ((1, "false breach"), (2, "breach found, at twice the limit")):
        rates = (rate, rate + times * worst)
        usual, ours = (at_looks(n, rates, 0.5, repeats, rng) for n in (looks, often))
        hits = (
            ("one-sided z-test at every look", _plain_breach(usual, worst), "5 %, once"),
            ("ibook, at any time", _breach(ours, worst, users), "≤ 5 %"),
        )
        for who, hit, promised in hits:
            told_of = promised if times == 1 else ""
            found.append(Measured(f"{what}: {who}", design, float(hit.mean()), repeats, told_of))
    return found


def _plain_breach(counts: Counts, worst: float) -> Hits:
    c, t = (
        (counts.control_events / counts.control_users, counts.control_users),
        (counts.treatment_events / counts.treatment_users, counts.treatment_users),
    )
    spread = np.sqrt(c[0] * (1 - c[0]) / c[1] + t[0] * (1 - t[0]) / t[1])
    gap = t[0] - c[0] - worst
    breached = np.asarray((spread > 0) & (gap >= -ndtri(0.05) * spread), np.bool_)
    found: Hits = np.asarray(breached.any(axis=1))
    return found


def _breach(counts: Counts, worst: float, planned: int) -> Hits:
    control = (counts.control_events, np.maximum(counts.control_users, 1))
    treatment = (counts.treatment_events, np.maximum(counts.treatment_users, 1))
    above = surely_above(control, treatment, worst, planned=planned, alpha=0.10)
    found: Hits = np.asarray(above.any(axis=1))
    return found


def splits(share: float, repeats: int, rng: np.random.Generator) -> list[Measured]:
    """Splits that are as they should be, and ones that lose one treated user in ten."""
    design = f"{share:.0%} treated, {SPLIT_USERS:,} users"
    users = np.arange(1, SPLIT_USERS + 1)
    looks = np.linspace(SPLIT_USERS / 24, SPLIT_USERS, 24).astype(int) - 1
    hits: dict[str, int] = {}
    for lossy, what in ((0.0, "false alarm"), (0.1, "loss of 10 % found")):
        kept = share * (1 - lossy) / (1 - share * lossy)
        for begin in range(0, repeats, _CHUNK):
            treated = rng.random((min(_CHUNK, repeats - begin), SPLIT_USERS)) < kept
            ours = log_evidence_path(treated, share).max(axis=1) > math.log(1_000)
            counts = np.cumsum(treated, axis=1)[:, looks]
            expected = users[looks] * share
            statistic = (counts - expected) ** 2 / (expected * (1 - share))
            plain = (chdtrc(1, statistic) < 0.001).any(axis=1)
            for who, hit in (("chi-square at every look", plain), ("ibook, every user", ours)):
                hits[f"{what}: {who}"] = hits.get(f"{what}: {who}", 0) + int(hit.sum())
    promised = {
        "false alarm: chi-square at every look": "0.1 %, once",
        "false alarm: ibook, every user": "≤ 0.1 %",
    }
    return [
        Measured(f"sample ratio, {what}", design, count / repeats, repeats, promised.get(what, ""))
        for what, count in hits.items()
    ]


def decisions(experiment: Experiment, repeats: int, rng: np.random.Generator) -> list[Measured]:
    """A/A experiments through the whole summary: what is decided at their end."""
    run = Run(0, 0, None, frozenset({1}), (("a",), ("b",)), ())
    users = experiment.users_needed
    guarded = experiment.model_copy(
        update={"guardrails": (Guardrail(metric="degraded_rate", worst_difference=0.005),)}
    )
    said = []
    for _ in range(repeats):
        treated = rng.random(users) < guarded.treatment_share
        events = {name: np.zeros(users, np.int64) for name in METRICS}
        for name in ("review_rate", "degraded_rate"):
            events[name] = (rng.random(users) < guarded.baseline_rate).astype(np.int64)
        everybody, nobody = np.ones(users, np.bool_), np.zeros(users, np.bool_)
        arrived = np.arange(users) * 1_000_000
        units = Units(
            np.arange(users), arrived, treated, everybody, nobody, np.ones(users, int), events
        )
        found = summarise(guarded, run, units, as_of_us=int(arrived[-1]), window_hours=24)
        said.append(found.verdict.decision)
    promised = {"ship": "≤ 2.5 %", "rollback": "≤ 7.5 %", "invalid": "≤ 0.1 %", "no-effect": ""}
    return [
        Measured(
            f"whole summary, A/A: {decision}",
            told(experiment),
            sum(one == decision for one in said) / repeats,
            repeats,
            promise,
        )
        for decision, promise in promised.items()
    ]


def measure(repeats: int, whole: int, *, progress: Progress = lambda _: None) -> list[Measured]:
    """Everything; `whole` experiments go through the whole summary."""
    rng = np.random.default_rng(SEED)
    found: list[Measured] = []
    for design in DESIGNS:
        progress(told(design))
        found += effects(design, repeats, rng)
    for rate, worst in ((0.002, 0.002), (0.01, 0.005), (0.10, 0.01)):
        progress(f"guardrail at {rate:.1%}")
        found += guardrails(rate, worst, 20_000, repeats // 8, rng)
    for share in (0.5, 0.1):
        progress(f"splits at {share:.0%}")
        found += splits(share, repeats // 4, rng)
    if whole:
        progress("whole summaries")
        found += decisions(DESIGNS[0], whole, rng)
    return found


def main() -> None:
    """Simulate, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20_000)
    parser.add_argument("--whole", type=int, default=500)
    options = parser.parse_args()
    console = Console()
    found = measure(options.repeats, options.whole, progress=console.log)
    table = Table(title="Experiments looked at 24 times: share of simulated experiments")
    for column in ("what", "share", "± 2 s.e.", "promised", "experiments"):
        table.add_column(column, justify="left" if column == "what" else "right")
    design = ""
    for m in found:
        if m.design != design:
            design = m.design
            table.add_section()
            table.add_row(f"[bold]{design}[/]")
        spread = f"{2 * m.standard_error:.2%}" if m.what != USED else ""
        table.add_row(m.what, f"{m.share:.2%}", spread, m.promised, f"{m.repeats:,}")
    console.print(table)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps({"seed": SEED, "results": [asdict(m) for m in found]}, indent=2))


if __name__ == "__main__":
    main()
