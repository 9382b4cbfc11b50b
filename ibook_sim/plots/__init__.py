"""Plots of what the world looks like, for its documentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from ibook_sim.plots import demand, fraud
from ibook_sim.plots.sample import Sample, sample

PLOTS: Final[Mapping[str, Callable[[Sample], str]]] = MappingProxyType(
    {
        "on-sale": demand.on_sale,
        "sell-through": demand.sell_through,
        "week": demand.week,
        "prices": demand.prices,
        "fraud-over-time": fraud.over_time,
        "columns": fraud.columns,
        "chargebacks": fraud.chargebacks,
        "calibration": fraud.calibration,
        "drift": fraud.drift,
    }
)
"""Each plot by its file's name."""


def draw(out: Path, *, advance: Callable[[int], None] = lambda _: None) -> tuple[Path, ...]:
    """Write every plot as `out`/world-<name>.svg; the same bytes each time.

    `advance` is called for each day played.
    """
    out.mkdir(parents=True, exist_ok=True)
    seen = sample(advance=advance)
    paths = []
    for name, plot in PLOTS.items():
        paths.append(out / f"world-{name}.svg")
        paths[-1].write_text(plot(seen), encoding="utf-8")
    return tuple(paths)
