"""Plots of fraud: when it comes, what it looks like, when it is known, how well it can be told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from ibook_assets.core.times import DAY_US
from ibook_sim.drift import DRIFT_THRESHOLD, divergence
from ibook_sim.plots.drawing import (
    BLUE,
    INK,
    ORANGE,
    RED,
    TOP,
    Panel,
    Scale,
    Ticks,
    legend,
    page,
    segment,
)
from ibook_sim.plots.sample import COLOURS, CONFIG, DAYS, DRIFT_LEVELS, NAMES, Sample
from ibook_sim.world.fates import CHARGEBACK_LAW, CHARGEBACK_LIMIT_DAYS, NEVER, fates
from ibook_sim.world.orders import Codes
from ibook_sim.world.randomness import Bools, Floats, Ints

_EDGES: Final = np.array(
    [0, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.12, 0.25, 0.5, 0.75, 0.9, 0.97, 0.99, 1.0]
)
_WILSON_Z: Final = 1.96
_TYPES: Final = list(zip(NAMES, COLOURS, strict=True))


def over_time(sample: Sample) -> str:
    """Fraudulent orders a week by archetype, and their share of all orders."""
    weeks, archetype = DAYS // 7, sample.orders.archetype
    cell = np.minimum(sample.day // 7, weeks) * 5 + archetype
    counts = np.bincount(cell, minlength=(weeks + 1) * 5).reshape(-1, 5)[:weeks].astype(np.float64)
    tops = counts[:, 1:].cumsum(axis=1)
    ticks = Ticks.of(range(0, weeks, 4))
    panel = Panel(56, TOP + 26, 780, 180, Scale(-0.7, weeks - 0.3), Scale(0, tops.max() * 1.08))
    panel.axes(ticks, Ticks.upto(tops.max() * 1.08, 4), title="Fraudulent orders a week")
    x = np.arange(weeks, dtype=np.float64)
    for kind in range(4):
        low = tops[:, kind - 1] if kind else np.zeros(weeks)
        panel.bars(x, low, tops[:, kind], COLOURS[kind + 1], width=20)
    share = tops[:, -1] / counts.sum(axis=1)
    below = Panel(56, TOP + 260, 780, 80, Scale(-0.7, weeks - 0.3), Scale(0, 0.05))
    below.axes(ticks, Ticks.shares([0, 0.03]), title="Share of orders", x_title="week")
    below.line(x, share, INK)
    return page(
        "Fraud comes with the crowd",
        "Fraud follows the market's own pace, so its share stays near 3 % through quiet and busy "
        "weeks.",
        TOP + 392,
        [legend(_TYPES[1:]), *panel.marks, *below.marks],
    )


def columns(sample: Sample) -> str:
    """Distributions of four published columns by archetype."""
    orders = sample.orders
    parts = [legend(_TYPES)]
    for place, (title, values, labels) in enumerate((
        ("Tickets in the order", orders.quantity - 1, ("1", "2", "3", "4", "5", "6")),
        ("Declined attempts before", np.minimum(orders.declines, 2), ("0", "1", "2 or more")),
    )):  # fmt: skip
        parts += _shares(title, values, labels, orders.archetype, 56 + place * 424)
    for place, (title, unit, values, edges, ticks) in enumerate((
        ("Checkout time", "seconds", orders.checkout_ms / 1e3,
         np.geomspace(2, 1_000, 37), (3, 10, 30, 100, 300, 1_000)),
        ("Distance of the address from home", "km", orders.geo_distance_m / 1e3,
         np.geomspace(0.2, 5_000, 37), (1, 10, 100, 1_000)),
    )):  # fmt: skip
        log = Scale(float(edges[0]), float(edges[-1]), "log")
        heights = [_density(values[orders.archetype == kind], edges) for kind in range(5)]
        panel = Panel(
            56 + place * 424, TOP + 286, 360, 160, log, Scale(0, float(np.max(heights)) * 1.08)
        )
        panel.axes(Ticks.of(ticks, "{:,g}"), Ticks([], []), title=title, x_title=unit)
        for height, colour in zip(heights, COLOURS, strict=True):
            panel.line(np.sqrt(edges[1:] * edges[:-1]), height, colour)
        parts += panel.marks
    return page(
        "No single column tells fraud apart",
        "Share of each archetype's orders. Honest orders (grey) outnumber all others 32 to 1.",
        TOP + 500,
        parts,
    )


def _shares(
    title: str, values: Ints, labels: Sequence[str], archetype: Codes, left: float
) -> list[str]:
    size = len(labels)
    panel = Panel(left, TOP + 26, 360, 180, Scale(-0.5, size - 0.5), Scale(0, 1))
    panel.axes(Ticks(range(size), labels), Ticks.shares([0, 0.5, 1]), title=title)
    width = 360 / size / 7
    for kind, colour in enumerate(COLOURS):
        share = np.bincount(values[archetype == kind], minlength=size) / (archetype == kind).sum()
        x = np.arange(size, dtype=np.float64)
        panel.bars(x, np.zeros(size), share, colour, width=width - 1, shift=(kind - 2) * width)
    return panel.marks


def _density(values: Floats, edges: Floats) -> Floats:
    counts = np.histogram(values, edges)[0] / values.size
    return np.convolve(np.pad(counts, 2, "edge"), np.array([1, 2, 3, 2, 1]) / 9, "valid")


def chargebacks(sample: Sample) -> str:
    """How long a chargeback takes, and what share of fraud is known by when."""
    delay, fraud = _chargebacks(sample)
    days = delay[(delay >= 0) & fraud]
    edges = np.arange(0, CHARGEBACK_LIMIT_DAYS + 1, 4, dtype=np.float64)
    height = np.histogram(days, edges)[0] / days.size
    x = Scale(0, CHARGEBACK_LIMIT_DAYS)
    ticks = Ticks.of(range(0, CHARGEBACK_LIMIT_DAYS + 1, 30))
    panel = Panel(56, TOP + 26, 360, 220, x, Scale(0, float(height.max()) * 1.1))
    panel.axes(
        ticks, Ticks.shares([0, 0.04, 0.08, 0.12, 0.16]), title="Share of chargebacks, by 4 days",
        x_title="days after the order",
    )  # fmt: skip
    middle = (edges[1:] + edges[:-1]) / 2
    panel.bars(middle, np.zeros(height.size), height, BLUE, width=10)
    panel.line(middle, np.diff(CHARGEBACK_LAW[edges.astype(np.int64)]), ORANGE)
    side = Panel(480, TOP + 26, 350, 220, x, Scale(0, 1))
    side.axes(
        ticks, Ticks.shares([0, 0.25, 0.5, 0.75, 0.88, 1]), title="Fraud that is known",
        x_title="days after the order",
    )  # fmt: skip
    grid = np.arange(CHARGEBACK_LIMIT_DAYS + 1, dtype=np.float64)
    known = np.searchsorted(np.sort(days), grid, side="right") / fraud.sum()
    side.line(grid, known, BLUE)
    mature = float(CONFIG.label_maturity_days)
    at = float(side.across(mature))
    side.marks.append(segment("g", (at, side.top), (at, side.top + side.height)))
    share = float(known[CONFIG.label_maturity_days])
    side.label(
        f"labels mature: {100 * share:.0f} % known", (at + 8, side.top + side.height - 12), "start"
    )  # fmt: skip
    entries = [("orders of the plotted world", BLUE), ("the law", ORANGE)]
    return page(
        "The truth comes late, and not always",
        f"Median {np.median(days):.0f} days, none after 120; 12 % of fraud is never reported.",
        TOP + 300,
        [legend(entries), *panel.marks, *side.marks],
    )


def _chargebacks(sample: Sample) -> tuple[Floats, Bools]:
    """Days from each order to its chargeback (negative if none), and whether it is fraud."""
    delays = []
    for day in range(DAYS):
        rows = np.flatnonzero(sample.day == day)
        fate = fates(CONFIG, day, sample.orders.row[rows], sample.orders.archetype[rows])
        delays.append(np.where(fate.chargeback_us == NEVER, -DAY_US, fate.chargeback_us))
    return np.concatenate(delays) / DAY_US, sample.orders.archetype > 0


def calibration(sample: Sample) -> str:
    """Realised fraud share in bins of the posterior, with intervals."""
    place = np.clip(np.searchsorted(_EDGES, sample.posterior, side="right") - 1, 0, _EDGES.size - 2)
    total = np.bincount(place, minlength=_EDGES.size - 1)
    told = np.bincount(place, sample.posterior, _EDGES.size - 1) / total
    real = np.bincount(place, sample.fraud, _EDGES.size - 1) / total
    low, high = _wilson(real, total)
    odds = Scale(0.0004, 0.9994, "odds")
    ticks = Ticks.shares([0.001, 0.01, 0.1, 0.5, 0.9, 0.99])
    panel = Panel(66, TOP + 26, 400, 290, odds, odds)
    panel.axes(
        ticks, ticks, title="Fraud found", x_title="mean posterior of the bin (scale of odds)"
    )
    ends = np.array([odds.low, odds.high])
    panel.line(ends, ends, INK, width=1, dash="4 4")
    panel.dots(told, real, BLUE, low=low, high=high)
    counts = Scale(1, float(total.max()) * 2, "log")
    side = Panel(560, TOP + 26, 270, 290, odds, counts)
    sizes = Ticks.of([10, 100, 1_000, 10_000, 100_000], "{:,d}")
    side.axes(ticks, sizes, title="Orders, and fraud among them", x_title="mean posterior")
    ones = np.ones(total.size)
    side.bars(told, ones, total.astype(np.float64), INK, width=11)
    side.bars(told, ones, np.maximum(real * total, 1), RED, width=11)
    entries = [("share of fraud, 95 % interval", BLUE), ("orders", INK), ("fraud", RED)]
    return page(
        "The posterior means what it says",
        f"{sample.posterior.size:,} orders: where it says 10 %, one in ten is fraud.",
        TOP + 368,
        [legend(entries), *panel.marks, *side.marks],
    )


def _wilson(share: Floats, total: Ints) -> tuple[Floats, Floats]:
    """Interval of a share.

    Source: Wilson (1927), "Probable inference, the law of succession, and statistical inference".
    """
    z = _WILSON_Z**2 / total
    middle, half = share + z / 2, _WILSON_Z * np.sqrt(share * (1 - share) / total + z / total / 4)
    return (middle - half) / (1 + z), (middle + half) / (1 + z)


def drift(sample: Sample) -> str:
    """Amounts of the world as it is and drifted."""
    edges = np.geomspace(15_00, 6_000_00, 49)
    heights = [_density(amounts, edges) for amounts in sample.drifted]
    panel = Panel(
        30, TOP + 30, 800, 200, Scale(15, 6_000, "log"), Scale(0, float(np.max(heights)) * 1.08)
    )
    panel.axes(
        Ticks.of([20, 50, 100, 200, 500, 1_000, 2_000, 5_000], "{:,g}"), Ticks([], []),
        title="Amount of an order", x_title="amount",
    )  # fmt: skip
    for height, colour in zip(heights, (INK, ORANGE, RED), strict=True):
        panel.line(np.sqrt(edges[1:] * edges[:-1]) / 100, height, colour)
    entries = [("as it is", INK)]
    for level, amounts, colour in zip(DRIFT_LEVELS, sample.drifted[1:], (ORANGE, RED), strict=True):
        index = divergence("amount_cents", sample.drifted[0], amounts).stability_index
        entries.append((f"level {level:g}: stability index {index:.2f}", colour))
    return page(
        "Drift of an exact size",
        "Covariate drift: each order pays the drifted price with the probability of the level. "
        f"An index of {DRIFT_THRESHOLD:.2f} counts as drifted.",
        TOP + 284,
        [legend(entries), *panel.marks],
    )
