"""What only a run in real time has: who was asked, the pace that was kept, where time went."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from ibook_sim.report.charts import short

Found = Mapping[str, Any]

_MEANING = {
    "latency_ms": ("latency", "from due to answered: what users meet"),
    "service_ms": ("service", "from sent to answered: what a closed loop would report"),
    "generator_lag_ms": ("generator's lag", "from due to sent: its own fault"),
    "room_ms": ("waiting room", "before the door"),
}


def pace_section(found: Found) -> str:
    """The schedule and where the time went; nothing for an offline run."""
    figures = found["realtime"]
    if figures is None:
        return ""
    outcomes = ", ".join(f"{count:,} {name}" for name, count in figures["outcomes"].items())
    log = figures["log"]
    logged = f" Into the log: {log['sent']:,}, refused {log['refused']:,}." if log else ""
    rows = "".join(_row(key, figures[key]) for key in _MEANING if key in figures)
    return f"""<section><h2>Pace</h2><p>Sent to {escape(str(figures["target"]))}
({figures["loop"]} loop): {figures["asked_rps"]:,.4g} requests a second asked,
{figures["rate_share"]:.1%} of that rate kept. Outcomes: {escape(outcomes)}.{escape(logged)}</p>
<div class="card wide"><table class="rows"><thead><tr><th scope="col">milliseconds</th>
<th scope="col">p50</th><th scope="col">p90</th><th scope="col">p99</th><th scope="col">p99.9</th>
<th scope="col">max</th></tr></thead><tbody>{rows}</tbody></table></div></section>"""


def _row(key: str, quantiles: Mapping[str, float | None]) -> str:
    name, about = _MEANING[key]
    cells = "".join(
        f'<td data-name="{q}">{"-" if ms is None else short(ms)}</td>'
        for q, ms in quantiles.items()
    )
    return f'<tr><th scope="row">{escape(name)}<small>{about}</small></th>{cells}</tr>'
