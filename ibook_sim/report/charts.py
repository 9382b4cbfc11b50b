"""Charts as inline SVG: no scripts, no fonts, colours from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 340
HEIGHT: Final = 170
LEFT: Final = 46
RIGHT: Final = WIDTH - 16
TOP: Final = 10
FLOOR: Final = HEIGHT - 34

Values = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart."""

    name: str
    values: Values
    style: str = "a"
    """Class of its colour in the style sheet: a, b or bad."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Values onto pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Where `value` is drawn; what is beyond the scale is drawn at its end."""
        low, high, value = self._on(self.low), self._on(self.high), self._on(value)
        share = (value - low) / max(high - low, 1e-12)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def _log_ticks(self) -> list[float]:
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = (1.0, 2.0, 5.0) if len(decades) <= 3 else (1.0,)
        ticks = [n * 10.0**decade for decade in decades for n in steps]
        within = [t for t in ticks if self.low * 0.999 <= t <= self.high * 1.001]
        return within[:: max(1, math.ceil(len(within) / 7))]

    def _on(self, value: float) -> float:
        return math.log10(max(value, self.low)) if self.log else value

    def ticks(self) -> list[float]:
        """Three to six round values."""
        if self.log:
            return self._log_ticks()
        step = _round_step((self.high - self.low) / 4)
        lowest = math.ceil(self.low / step - 1e-9)
        count = math.floor(self.high / step + 1e-9) - lowest + 1
        return [(lowest + n) * step for n in range(count)]


def timeline(title: str, seconds: Values, series: Sequence[Series], *, unit: str) -> str:
    """Lines over the time of the run; None breaks a line."""
    present = [v for one in series for v in one.values if v is not None]
    top = max(present, default=0.0) or 1.0
    last = max(v for v in seconds if v is not None)
    earliest = min(v for v in seconds if v is not None)
    divisor, name = (60.0, "min") if last > 180 else (1.0, "s")
    x = Scale(0.0, (last + earliest) / divisor, LEFT, RIGHT)
    y = Scale(0.0, top * 1.08, FLOOR, TOP)
    lines = "".join(_path(one, [s and s / divisor for s in seconds], x, y) for one in series)
    most = ", ".join(f"{one.name} at most {_most(one.values)}" for one in series)
    return figure(
        title,
        _axes(x, y, f"time, {name}") + lines,
        unit=unit,
        about=f"{title}, {unit}, over the run: {most}",
        legend=series if len(series) > 1 else (),
    )


def distribution(points: Sequence[Sequence[float]], *, limit: float | None) -> str:
    """Share of orders answered within a time, on a logarithmic axis."""
    p50, p99, longest = (_at(points, share) for share in (0.5, 0.99, 1.0))
    high = longest if limit is None else max(longest, limit)
    # The fastest twentieth would take half of a logarithmic axis.
    low = _at(points, 0.05)
    x = Scale(_decade(low, down=True), _decade(high, down=False), LEFT, RIGHT, log=True)
    y = Scale(0.0, 1.0, FLOOR, TOP)
    marks = "".join(
        f'<circle class="dot" r="3.5" cx="{x.at(ms):.1f}" cy="{y.at(share):.1f}"/>'
        for share, ms in ((0.5, p50), (0.99, p99))
    )
    if limit is not None:
        across = x.at(limit)
        marks += (
            f'<line class="limit" x1="{across:.1f}" x2="{across:.1f}" y1="{TOP}" y2="{FLOOR}"/>'
        )
    line = Series("share answered", [share for _, share in points])
    drawn = _path(line, [ms for ms, _ in points], x, y)
    return figure(
        "Latency, distribution",
        _axes(x, y, "ms, logarithmic") + drawn + marks,
        unit=f"share answered within · p50 {short(p50)} ms, p99 {short(p99)} ms"
        + (" · dashed: limit for p99" if limit else ""),
        about=f"Distribution of latency: half within {short(p50)} ms, 99 % within {short(p99)} ms",
    )


def calibration(bins: Sequence[dict[str, float]]) -> str:
    """Realised fraud rate over the mean score of each bin, with intervals; both logarithmic."""
    floor = 1e-4
    x = Scale(floor, 1.0, LEFT, RIGHT, log=True)
    y = Scale(floor, 1.0, FLOOR, TOP, log=True)
    ideal = f'x1="{x.at(floor):.1f}" y1="{y.at(floor):.1f}" x2="{x.at(1):.1f}" y2="{y.at(1):.1f}"'
    marks = [f'<line class="ideal" {ideal}/>']
    for one in bins:
        across, style = x.at(one["predicted"]), "dot" if one["calibrated"] else "dot off"
        marks.append(
            f'<line class="whisker" x1="{across:.1f}" x2="{across:.1f}" '
            f'y1="{y.at(one["low"]):.1f}" y2="{y.at(one["high"]):.1f}"/>'
            f'<circle class="{style}" r="3.5" cx="{across:.1f}" cy="{y.at(one["observed"]):.1f}"/>'
        )
    kept = sum(bool(one["calibrated"]) for one in bins)
    return figure(
        "Calibration",
        _axes(x, y, "mean score of the bin, logarithmic") + "".join(marks),
        unit="realised fraud rate, logarithmic · bars: 95 % interval · dashed: what a score says",
        about=f"Score against realised fraud rate: {kept} of {len(bins)} bins keep their word",
    )


def figure(
    title: str, drawing: str, *, unit: str, about: str, legend: Sequence[Series] = ()
) -> str:
    """A chart with its caption."""
    keys = "".join(f'<span class="key {one.style}">{escape(one.name)}</span>' for one in legend)
    return (
        f"<figure><figcaption><b>{escape(title)}</b><small>{escape(unit)}</small>"
        f'{keys}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(about)}">{drawing}</svg></figure>'
    )


def short(value: float) -> str:
    """`value` with at most three digits: 0.004, 12.5, 1.2k."""
    if abs(value) >= 10_000:
        return f"{value / 1_000:.3g}k"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _axes(x: Scale, y: Scale, label: str) -> str:
    lines = []
    for tick in y.ticks():
        down = y.at(tick)
        lines.append(
            f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{down:.1f}" y2="{down:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{down + 4:.1f}" text-anchor="end">{_tick(tick)}</text>'
        )
    for tick in x.ticks():
        across = x.at(tick)
        lines.append(
            f'<line class="grid" x1="{across:.1f}" x2="{across:.1f}" y1="{FLOOR}" '
            f'y2="{FLOOR + 4}"/><text x="{across:.1f}" y="{FLOOR + 16}" '
            f'text-anchor="middle">{_tick(tick)}</text>'
        )
    lines.append(f'<line class="axis" x1="{LEFT}" x2="{RIGHT}" y1="{FLOOR}" y2="{FLOOR}"/>')
    middle = (LEFT + RIGHT) / 2
    lines.append(f'<text x="{middle}" y="{HEIGHT - 3}" text-anchor="middle">{escape(label)}</text>')
    return "".join(lines)


def _tick(value: float) -> str:
    return f"{value:g}" if abs(value) < 10_000 else f"{value / 1_000:g}k"


def _path(series: Series, across: Values, x: Scale, y: Scale) -> str:
    steps, pen = [], "M"
    for a, b in zip(across, series.values, strict=True):
        if a is None or b is None:
            pen = "M"
            continue
        steps.append(f"{pen}{x.at(a):.1f} {y.at(b):.1f}")
        pen = "L"
    return f'<path class="line {series.style}" d="{" ".join(steps)}"/>'


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(max(rough, 1e-9)))
    return power * next((n for n in (1.0, 2.0, 2.5, 5.0) if rough <= n * power * 1.0001), 10.0)


def _decade(value: float, *, down: bool) -> float:
    """The nearest 1, 2 or 5 times a power of ten below or above `value`."""
    power = 10.0 ** math.floor(math.log10(max(value, 1e-6)))
    steps = [n * power for n in (1.0, 2.0, 5.0, 10.0)]
    if down:
        return max(step for step in steps if step <= value * 1.0001 or step == power)
    return min(step for step in steps if step >= value * 0.9999 or step == 10.0 * power)


def _at(points: Sequence[Sequence[float]], share: float) -> float:
    return next(ms for ms, reached in points if reached >= share - 1e-9)


def _most(values: Values) -> str:
    present = [v for v in values if v is not None]
    return short(max(present)) if present else "not measured"
