"""Plots of demand: when orders come, how seats sell, what tickets cost."""

from __future__ import annotations

from typing import Final

import numpy as np

from ibook_assets.core.tables import CATEGORIES, TIERS
from ibook_assets.core.times import HOUR_US
from ibook_sim.plots.drawing import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    RED,
    TOP,
    Panel,
    Scale,
    Ticks,
    legend,
    page,
    written,
)
from ibook_sim.plots.sample import CONFIG, DAYS, TIER_COLOURS, Sample
from ibook_sim.world.emissions import MEAN_QUANTITY
from ibook_sim.world.orders import TIER_PERCENT
from ibook_sim.world.randomness import Floats

_WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_SHOWN_SALES: Final = 60


def on_sale(sample: Sample) -> str:
    """Daily orders of three events beside their exact expectation."""
    sold = sample.sold(np.ones_like(sample.orders.quantity))
    parts = [legend([("orders", BLUE), ("expected", ORANGE), ("wanted, were seats endless", RED)])]
    for place, (name, event) in enumerate(_three_events(sample).items()):
        mean = sample.world.expected_sales(event)
        days = mean.orders.size
        first = int(sample.on_sale_day[event])
        seen = sold[event, first : first + days].astype(np.float64)
        panel = Panel(
            52 + place * 274, TOP + 26, 222, 210, Scale(-1, days), Scale(0.4, 2_000, "log")
        )
        panel.axes(
            Ticks.of(range(0, days, 15 if days > 40 else 10)),
            Ticks.of([1, 10, 100, 1_000], "{:,d}"),
            title=name,
            x_title=f"days on sale ({sample.event('capacity')[event]:,} seats)",
        )
        x, some = np.arange(days, dtype=np.float64), seen > 0
        panel.dots(x[some], seen[some], BLUE, radius=2.2)
        panel.line(x, mean.wanted, RED, dash="2 5")
        left = mean.orders > panel.y.low
        panel.line(x[left], mean.orders[left], ORANGE)
        parts += panel.marks
    return page(
        "An event's sale: a burst, a plateau, a last week",
        "Orders a day of three events (scale of powers of ten), fraud included, beside the exact "
        "expectation of honest ones.",
        TOP + 290,
        parts,
    )


def _three_events(sample: Sample) -> dict[str, int]:
    """A sale that runs out, one that nearly does and a slow one, all of them complete."""
    on_sale_day, lead = sample.on_sale_day, sample.lead_days
    complete = (on_sale_day >= 0) & (on_sale_day + lead <= DAYS) & (lead > 35)
    events = np.flatnonzero(complete & (np.abs(sample.event("capacity") - 4_500) < 3_000))
    wanted = np.array([sample.world.expected_sales(int(e)).wanted.sum() for e in events])
    pressure = wanted * MEAN_QUANTITY / sample.event("capacity")[events]
    chosen = {"Sold out": 1.5, "Nearly full": 0.85, "Slow": 0.3}
    return {
        name: int(events[np.abs(pressure - wish).argmin()]) for name, wish in chosen.items()
    }  # fmt: skip


def sell_through(sample: Sample) -> str:
    """Share of seats sold over the sale of many events."""
    tickets = sample.sold(sample.orders.quantity).cumsum(axis=1)
    complete = (sample.on_sale_day >= 0) & (sample.on_sale_day + sample.lead_days <= DAYS)
    panel = Panel(56, TOP + 14, 500, 260, Scale(0, 1), Scale(0, 1))
    panel.axes(
        Ticks.shares([0, 0.25, 0.5, 0.75, 1]),
        Ticks.shares([0, 0.25, 0.5, 0.75, 0.9, 1]),
        title="Seats sold",
        x_title="of the time on sale",
    )
    grid, curves, full = np.linspace(0, 1, 61), [], 0
    for event in np.flatnonzero(complete):
        first, lead = sample.on_sale_day[event], sample.lead_days[event]
        share = tickets[event, first : first + lead] / sample.event("capacity")[event]
        passed = np.arange(lead + 1) / lead
        curves.append(np.interp(grid, passed, np.concatenate([[0.0], share])))
        full += share[-1] > 0.89
    for curve in curves[:_SHOWN_SALES]:
        panel.line(grid, curve, RED if curve[-1] > 0.89 else INK, width=0.8)
    for level, dash in ((0.5, ""), (0.1, "5 5"), (0.9, "5 5")):
        panel.line(grid, np.quantile(curves, level, axis=0), BLUE, width=2.5, dash=dash)
    ends = np.array([curve[-1] for curve in curves])
    heights = np.histogram(ends, np.linspace(0, 1, 21))[0].astype(np.float64)
    side = Panel(640, TOP + 14, 190, 260, Scale(0, heights.max() * 1.1), Scale(0, 1))
    side.axes(
        Ticks.upto(heights.max(), 3), Ticks.shares([0, 0.5, 1]),
        title="At the doors", x_title="events",
    )  # fmt: skip
    for row, count in enumerate(heights):
        low, high = float(side.down((row + 1) / 20)), float(side.down(row / 20))
        width = float(side.across(count)) - side.left
        side.marks.append(
            f'<rect x="{side.left:.1f}" y="{low + 1:.1f}" width="{width:.1f}" '
            f'height="{high - low - 2:.1f}" fill="{BLUE}" fill-opacity=".75"/>'
        )
    entries = [("an event", INK), ("an event that sold out", RED), ("median, 10 % and 90 %", BLUE)]
    return page(
        "Seats run out for some, and never for most",
        f"{len(curves)} whole sales, {_SHOWN_SALES} of them drawn; {full} run out: honest buyers "
        "may take 90 % of the seats.",
        TOP + 326,
        [legend(entries), *panel.marks, *side.marks],
    )


def week(sample: Sample) -> str:
    """Orders by weekday and hour."""
    weekday = (CONFIG.start_date.weekday() + sample.day) % 7
    hour = sample.orders.known_ts // HOUR_US % 24
    whole = sample.day < DAYS // 7 * 7
    cell = (weekday * 24 + hour)[whole]
    relative = np.bincount(cell, minlength=168).reshape(7, 24) / (cell.size / 168)
    width, height, left, top = 31, 25, 56, TOP + 8
    parts = []
    for d, row in enumerate(relative):
        parts.append(written(_WEEKDAYS[d], (left - 8, top + d * height + 17), "end"))
        for h, value in enumerate(row):
            parts.append(_tile(left + h * width, top + d * height, value, (width, height)))
    below = top + 7 * height
    parts += [
        written(f"{h:02d}", (left + (h + 0.5) * width, below + 17), "middle")
        for h in range(0, 24, 3)
    ]
    parts.append(written("hour (UTC)", (left + 12 * width, below + 37), "middle"))
    for place, value in enumerate((0.0, 0.5, 1.0, 1.5, 2.0)):
        at = 600 + place * 46
        parts += [_tile(at, 52, value, (30, 13)), written(f"{value:g}", (at + 15, 80), "middle")]
    parts.append(written("orders, 1 = mean of the week", (590, 63), "end"))
    return page(
        "When orders come",
        "One daily clock for everybody, fraudsters too; Friday and Saturday are a quarter busier.",
        below + 52,
        parts,
    )


def _tile(x: float, y: float, value: float, size: tuple[int, int]) -> str:
    return (
        f'<rect x="{x + 1}" y="{y + 1}" width="{size[0] - 2}" height="{size[1] - 2}" rx="3" '
        f'fill="{BLUE}" fill-opacity="{0.06 + 0.94 * min(value / 2.4, 1):.2f}"/>'
    )


def prices(sample: Sample) -> str:
    """Price of a ticket by tier, and list prices by category."""
    orders = sample.orders
    each = orders.amount_cents / orders.quantity / 100
    edges = np.geomspace(15, 800, 49)
    log = Scale(15, 800, "log")
    ticks = Ticks.of([20, 50, 100, 200, 500])
    heights = [_density(each[orders.tier == tier], edges, each.size) for tier in range(4)]
    panel = Panel(52, TOP + 30, 440, 200, log, Scale(0, float(np.max(heights)) * 1.08))
    panel.axes(ticks, Ticks([], []), title="A ticket, by tier", x_title="price of a ticket")
    for tier, height in enumerate(heights):
        panel.area(_middle(edges), np.zeros_like(height), height, TIER_COLOURS[tier])
        panel.line(_middle(edges), height, TIER_COLOURS[tier], width=1.5)
    listed = sample.event("list_price_cents") / 100
    kinds = sample.events["category"].to_pylist()
    side = Panel(560, TOP + 30, 270, 200, Scale(15, 260, "log"), Scale(-0.5, 3.5))
    side.axes(
        Ticks.of([20, 50, 100, 200]), Ticks([3, 2, 1, 0], CATEGORIES),
        title="List price of an event", x_title="median, half and nine tenths of the events",
    )  # fmt: skip
    for row, name in enumerate(CATEGORIES):
        price = listed[[kind == name for kind in kinds]]
        y = float(side.down(3 - row))
        for low, high, thick in ((0.05, 0.95, 2), (0.25, 0.75, 8)):
            a, b = side.across(np.quantile(price, [low, high]))
            side.marks.append(
                f'<path stroke="{GREEN}" stroke-width="{thick}" stroke-linecap="round" '
                f'd="M{a:.1f} {y:.1f}H{b:.1f}"/>'
            )
        side.dots(np.median(price, keepdims=True), np.array([3.0 - row]), ORANGE)
    entries = [
        (f"{name} ({percent} % of list)", colour)
        for name, percent, colour in zip(TIERS, TIER_PERCENT, TIER_COLOURS, strict=True)
    ]
    return page(
        "What tickets cost",
        "Tiers are fixed multiples of an event's list price, which rises a little with its hype.",
        TOP + 284,
        [legend(entries), *panel.marks, *side.marks],
    )


def _density(values: Floats, edges: Floats, total: int) -> Floats:
    counts = np.histogram(values, edges)[0].astype(np.float64) / total
    return np.convolve(np.pad(counts, 2, "edge"), [1 / 9, 2 / 9, 3 / 9, 2 / 9, 1 / 9], "valid")


def _middle(edges: Floats) -> Floats:
    return np.asarray(np.sqrt(edges[1:] * edges[:-1]))
