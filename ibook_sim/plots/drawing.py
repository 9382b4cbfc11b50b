"""Plots as SVG: panels with axes, lines, bars and tiles, legible on white and on dark pages.

Nothing is filled behind a plot, and every colour is a middle tone that stands out from both.
Coordinates are rounded to a tenth of a pixel, so equal data make equal bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final, Literal

import numpy as np

from ibook_sim.world.randomness import Floats

WIDTH: Final = 860
"""Pixels of every plot."""
TOP: Final = 86
"""Pixels above the first panel: title, note and legend."""

INK: Final = "#78818c"
BLUE: Final = "#3d85c6"
ORANGE: Final = "#cc7816"
GREEN: Final = "#2f9e74"
RED: Final = "#d6504a"
VIOLET: Final = "#9068d0"

_STYLE: Final = (
    "text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;"
    f"fill:{INK}}}.t{{font-size:16px;font-weight:600}}.h{{font-weight:600}}"
    f".a{{stroke:{INK};stroke-width:1}}.g{{stroke:{INK};stroke-width:1;opacity:.22}}"
    ".l{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}"
)

Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True, slots=True)
class Scale:
    """Values `low` to `high` on an axis; "odds" spreads shares near 0 and 1."""

    low: float
    high: float
    kind: Literal["linear", "log", "odds"] = "linear"

    def share(self, values: Floats | float) -> Floats:
        """How far along the axis each value lies, 0 to 1; values beyond the ends stay at them."""
        within = np.clip(np.asarray(values, np.float64), self.low, self.high)
        low, high, at = (self._even(np.asarray(v)) for v in (self.low, self.high, within))
        return np.asarray((at - low) / (high - low))

    def _even(self, values: Floats) -> Floats:
        if self.kind == "linear":
            return values
        return np.asarray(np.log(values if self.kind == "log" else values / (1 - values)))


@dataclass(frozen=True, slots=True)
class Ticks:
    """Where an axis is labelled, and how."""

    at: Sequence[float]
    labels: Sequence[str]

    @classmethod
    def upto(cls, top: float, count: int) -> Ticks:
        """About `count` round numbers from 0 to below `top`, which is above 1."""
        steps = (np.array([1, 2, 5]) * 10.0 ** np.arange(7)[:, None]).ravel()
        step = float(steps[steps <= max(top / count, 1)].max())
        return cls.of(np.arange(0, top, step).tolist(), "{:,.0f}")

    @classmethod
    def shares(cls, values: Sequence[float]) -> Ticks:
        """Shares in percent."""
        return cls(values, [f"{100 * value:g} %" for value in values])

    @classmethod
    def of(cls, values: Sequence[float], form: str = "{:g}") -> Ticks:
        """Each value written as `form` says."""
        return cls(values, [form.format(value) for value in values])


@dataclass(slots=True)
class Panel:
    """A rectangle with two axes; marks are added to it in the order they are drawn."""

    left: float
    top: float
    width: float
    height: float
    x: Scale
    y: Scale
    marks: list[str] = field(default_factory=list)

    def across(self, values: Floats | float) -> Floats:
        """Pixels from the left of each x."""
        return np.asarray(self.left + self.x.share(values) * self.width)

    def down(self, values: Floats | float) -> Floats:
        """Pixels from the top of each y."""
        return np.asarray(self.top + (1 - self.y.share(values)) * self.height)

    def axes(
        self, x: Ticks, y: Ticks, *, title: str = "", x_title: str = "", y_title: str = ""
    ) -> Panel:
        """Grid lines at `y`, labels at both, and what they measure."""
        right, bottom = self.left + self.width, self.top + self.height
        for value, label in zip(y.at, y.labels, strict=True):
            at = float(self.down(value))
            self.marks.append(segment("g", (self.left, at), (right, at)))
            self.label(label, (self.left - 7, at + 4), "end")
        self.marks.append(segment("a", (self.left, bottom), (right, bottom)))
        for value, label in zip(x.at, x.labels, strict=True):
            at = float(self.across(value))
            self.marks.append(segment("a", (at, bottom), (at, bottom + 4)))
            self.label(label, (at, bottom + 18), "middle")
        self.label(x_title, (self.left + self.width / 2, bottom + 36), "middle")
        self.label(title, (self.left, self.top - 10), "start", css="h")
        self.label(y_title, (right, self.top - 10), "end")
        return self

    def label(
        self, text: str, at: tuple[float, float], anchor: Anchor, *, css: str = "", colour: str = ""
    ) -> None:
        """`text` at pixels `at`."""
        if text:
            self.marks.append(written(text, at, anchor, css=css, colour=colour))

    def line(self, x: Floats, y: Floats, colour: str, *, width: float = 2, dash: str = "") -> None:
        """A line through the points."""
        look = f"stroke:{colour};stroke-width:{width:g}"
        look += f";stroke-dasharray:{dash}" if dash else ""
        self.marks.append(f'<path class="l" style="{look}" d="{self._through(x, y)}"/>')

    def area(self, x: Floats, low: Floats, high: Floats, colour: str) -> None:
        """The surface between two lines."""
        there, back = self._through(x, high), self._through(x[::-1], low[::-1])
        shape = f"{there}L{back[1:]}Z"
        self.marks.append(f'<path fill="{colour}" fill-opacity=".3" d="{shape}"/>')

    def bars(
        self, x: Floats, low: Floats, high: Floats, colour: str, *, width: float, shift: float = 0.0
    ) -> None:
        """Bars `width` pixels wide, `shift` pixels beside their x."""
        starts = self.across(x) - width / 2 + shift
        path = "".join(
            f"M{a:.1f} {b:.1f}h{width:.1f}V{c:.1f}h-{width:.1f}Z"
            for a, b, c in zip(starts, self.down(low), self.down(high), strict=True)
        )
        self.marks.append(f'<path fill="{colour}" fill-opacity=".75" d="{path}"/>')

    def dots(
        self, x: Floats, y: Floats, colour: str, *, low: Floats | None = None,
        high: Floats | None = None, radius: float = 3.5,
    ) -> None:  # fmt: skip
        """Points, with intervals from `low` to `high` if given."""
        across, down = self.across(x), self.down(y)
        if low is not None and high is not None:
            path = "".join(
                f"M{a:.1f} {b:.1f}V{c:.1f}"
                for a, b, c in zip(across, self.down(low), self.down(high), strict=True)
            )
            self.marks.append(f'<path class="l" stroke="{colour}" d="{path}"/>')
        for a, b in zip(across, down, strict=True):
            self.marks.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{radius:g}" fill="{colour}"/>')

    def _through(self, x: Floats, y: Floats) -> str:
        return "M" + "L".join(
            f"{a:.1f} {b:.1f}" for a, b in zip(self.across(x), self.down(y), strict=True)
        )


def segment(css: str, start: tuple[float, float], end: tuple[float, float]) -> str:
    """A straight line of a class of the style sheet, between two pixels."""
    (a, b), (c, d) = start, end
    return f'<path class="{css}" d="M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}"/>'


def written(
    text: str, at: tuple[float, float], anchor: Anchor, *, css: str = "", colour: str = ""
) -> str:
    """`text` at a pixel."""
    look = f' class="{css}"' if css else ""
    look += f' style="fill:{colour}"' if colour else ""
    place = f'x="{at[0]:.1f}" y="{at[1]:.1f}" text-anchor="{anchor}"'
    return f"<text {place}{look}>{escape(text)}</text>"


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """(name, colour) of each series, in a row under the note."""
    out, at = [], 16.0
    for name, colour in entries:
        out.append(f'<rect x="{at:.1f}" y="53" width="11" height="11" rx="2" fill="{colour}"/>')
        out.append(written(name, (at + 16, 63), "start"))
        at += 34 + 6.6 * len(name)
    return "".join(out)


def page(title: str, note: str, height: int, parts: Sequence[str]) -> str:
    """A whole SVG document with a title and one line that says what to see."""
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img">\n'
        f"<title>{escape(title)}</title>\n<desc>{escape(note)}</desc>\n<style>{_STYLE}</style>\n"
        f"{written(title, (16, 24), 'start', css='t')}\n{written(note, (16, 43), 'start')}\n"
        f"{body}\n</svg>\n"
    )
