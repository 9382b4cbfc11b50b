"""Small charts as inline SVG: no scripts, no fonts, colours from the page's style sheet."""

from __future__ import annotations

from html import escape
from typing import Final

import numpy as np

from ibook_sim.world.randomness import Floats

WIDTH: Final = 360
HEIGHT: Final = 120
_LEFT: Final = 44
_BOTTOM: Final = 18
_TOP: Final = 8


def line(title: str, x: Floats, y: Floats, *, unit: str, x_unit: str) -> str:
    """`y` over `x` (rising, same shape) as a chart; a NaN breaks the line."""
    present = y[~np.isnan(y)]
    top = float(present.max()) if present.size and present.max() > 0 else 1.0
    left, right = float(x[0]), float(x[-1])
    across = (x - left) / max(right - left, 1e-12) * (WIDTH - _LEFT - 8) + _LEFT
    down = HEIGHT - _BOTTOM - y / top * (HEIGHT - _BOTTOM - _TOP)
    path, pen = [], "M"
    for a, b in zip(across, down, strict=True):
        if np.isnan(b):
            pen = "M"
            continue
        path.append(f"{pen}{a:.1f} {b:.1f}")
        pen = "L"
    floor = HEIGHT - _BOTTOM
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - 8}" y1="{floor}" y2="{floor}"/>'
        f'<path class="line" d="{" ".join(path)}"/>'
        f'<text x="{_LEFT - 4}" y="{_TOP + 8}" text-anchor="end">{top:.3g}</text>'
        f'<text x="{_LEFT - 4}" y="{floor}" text-anchor="end">0</text>'
        f'<text x="{_LEFT}" y="{HEIGHT - 4}">{left:.3g}</text>'
        f'<text x="{WIDTH - 8}" y="{HEIGHT - 4}" text-anchor="end">{right:.3g} {escape(x_unit)}'
        f"</text></svg><small>{escape(unit)}</small></figure>"
    )
