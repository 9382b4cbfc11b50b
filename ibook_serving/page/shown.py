"""Numbers as people read them; `static/numbers.js` shows them in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

UNKNOWN: Final = "\N{EN DASH}"
GLUE: Final = "\N{NO-BREAK SPACE}"
"""Keeps a number and its unit on one line."""

_UNITS: Final = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"))


def share(part: float, whole: float) -> str:
    """`part` of `whole` in per cent; a dash of nothing."""
    return percent(part / whole) if whole else UNKNOWN


def percent(value: float) -> str:
    """0.0042 as 0.42%: two digits where that says something."""
    digits = 0 if value in (0.0, 1.0) else 2 if value < 0.1 else 1
    return f"{100 * value:.{digits}f}%"


def exact(value: float) -> str:
    """A configured share, 0.15 as 15%: as it was written."""
    return f"{f'{100 * value:.4f}'.rstrip('0').rstrip('.')}%"


def money(cents: float) -> str:
    """Cents in currency units, whole ones from a hundred on."""
    units = cents / 100
    return f"{units:,.0f}" if abs(units) >= 100 or units == 0 else f"{units:,.2f}"


def milliseconds(seconds: float | None) -> str:
    """A latency."""
    if seconds is None:
        return UNKNOWN
    value = 1_000 * seconds
    return f"{value:.{0 if value >= 100 else 1}f}{GLUE}ms"


def age(seconds: float | None) -> str:
    """A duration in its largest unit that says something: 90 s, 3.5 h, 12 d."""
    if seconds is None:
        return UNKNOWN
    for size, unit in _UNITS:
        if seconds >= 2 * size or unit == "s":
            value = seconds / size
            return f"{value:,.{1 if value < 10 else 0}f}{GLUE}{unit}"
    raise AssertionError


def moment(unix_seconds: float) -> str:
    """A time of this day or another: 2026-03-01 09:31 UTC."""
    return f"{datetime.fromtimestamp(unix_seconds, UTC):%Y-%m-%d %H:%M} UTC"


def gauge(filled: float, mark: float, *, kind: str = "") -> str:
    """A bar `filled` to so many per cent, and a mark on it."""
    return (
        f'<svg class="gauge {kind}" viewBox="0 0 100 8" preserveAspectRatio="none" '
        'aria-hidden="true"><rect class="track" width="100" height="8"/>'
        f'<rect class="fill" width="{filled:.2f}" height="8"/>'
        f'<path class="mark" d="M{mark:.2f} -2V10"/></svg>'
    )


def quantile(buckets: Sequence[int], bounds: Sequence[float], q: float) -> float | None:
    """The latency (seconds) that the share `q` of requests stays within, interpolated.

    Args:
        buckets: requests within each of `bounds`, then all.
        bounds: upper bounds (seconds), rising; slower requests count as the last one.
        q: 0 to 1.

    Source: Prometheus' `histogram_quantile`.
    """
    if not buckets or buckets[-1] == 0:
        return None
    rank = q * buckets[-1]
    below, lower = 0, 0.0
    for within, upper in zip(buckets, bounds, strict=False):
        if within >= rank and within > below:
            return lower + (upper - lower) * (rank - below) / (within - below)
        below, lower = within, upper
    return bounds[-1]
