"""The page: the verdict on top, then why, then what happened, then where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any, Final

from ibook_sim.orders.placed import ROW_POSTERIOR
from ibook_sim.report.charts import Series, calibration, distribution, short, timeline
from ibook_sim.report.drift import drift_section
from ibook_sim.report.objectives import Before, objectives
from ibook_sim.report.pace import pace_section
from ibook_sim.report.style import STYLE

Found = Mapping[str, Any]

_TICK: Final = '<path d="M12 20.5l6 6 11-13"/>'
_CROSS: Final = '<path d="M13 13l14 14M27 13l-14 14"/>'
_BARS: Final = '<path d="M15 12v16M25 12v16"/>'


def rendered(found: Found, *, previous: Found | None = None) -> str:
    """The document of a run as one HTML page that needs nothing else."""
    before = Before(previous)
    word = verdict(found)
    name = escape(found["scenario"])
    run = "real-time run" if found["mode"] == "realtime" else "offline run"
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<link rel="icon" href="data:,"><title>{name}: {word}</title><style>{STYLE}</style></head>
<body><main><header><p class="over">ibook simulator · {run} · seed {found["seed"]}</p>
<h1>{name}</h1><p>{escape(found["description"])}</p></header>
{_verdict(found, word)}{_tiles(found, before)}
<section><h2>Objectives</h2>{objectives(found, before)}<p>{escape(_honesty(found))}</p></section>
<section><h2>The run</h2><div class="grid">{_charts(found)}</div></section>
{pace_section(found)}{_against_truth(found)}{drift_section(found)}{_provenance(found, before)}
</main></body></html>
"""


def verdict(found: Found) -> str:
    """passed, failed, invalid (the generator fell behind) or interrupted."""
    if found["interrupted"]:
        return "interrupted"
    if any(c["name"] == "rate" and not c["passed"] for c in found["checks"]):
        return "invalid"
    return "passed" if found["passed"] else "failed"


def _verdict(found: Found, word: str) -> str:
    checks = found["checks"]
    broken = [c["name"] for c in checks if not c["passed"]]
    kept = f"{len(checks) - len(broken)} of {len(checks)} objectives hold."
    said = {
        "passed": f"All {len(checks)} objectives hold.",
        "failed": f"Broken: {', '.join(broken)}. {kept}",
        "invalid": "The generator fell behind its schedule: these figures are its own, not the "
        "server's. Lower the rate and run again.",
        "interrupted": f"The run was ended early; these are the figures of what was played. {kept}"
        + (f" Broken: {', '.join(broken)}." if broken else ""),
    }[word]
    icon = {"passed": _TICK, "interrupted": _BARS}.get(word, _CROSS)
    return (
        f'<div class="verdict {word}" role="status"><svg viewBox="0 0 40 40" aria-hidden="true">'
        f'<circle cx="20" cy="20" r="20"/>{icon}</svg><div><b>{word.upper()}</b>'
        f"<p>{escape(said)}</p></div></div>"
    )


def _tiles(found: Found, before: Before) -> str:
    seconds = found["duration_seconds"]
    unanswered = 1.0 - found["answered"] / max(found["orders"], 1)
    p99 = found["latency_ms"]["0.99"]
    tiles = [
        ("Orders", f"{found['orders']:,}", f"in {seconds:,.4g} s"),
        (
            "Latency, p99",
            "not measured" if p99 is None else f"{short(p99)} ms",
            "as users meet it" if found["mode"] == "realtime" else "imagined service",
        ),
        ("Without an answer", f"{unanswered:.2%}", f"{found['orders'] - found['answered']:,}"),
    ]
    if "confusion" in found:
        frauds = found["frauds"]
        caught = sum(row["held"] for name, row in found["confusion"].items() if name != "legit")
        money = found["money_cents"]
        kept = money["honest_kept"] / money["honest"] if money["honest"] else None
        tiles += [
            ("Frauds held", f"{caught:,} of {frauds:,}", _percent(caught, frauds)),
            (
                "Honest revenue kept",
                "not measured" if kept is None else f"{kept:.1%}",
                f"saved by holding: {money['saved'] / 100:,.0f}",
            ),
        ]
    cells = "".join(
        f'<div class="card"><dt>{escape(name)}</dt><dd>{escape(value)}'
        f"<small>{escape(note)}</small></dd></div>"
        for name, value, note in tiles
    )
    return f'<dl class="tiles">{cells}</dl>{before.note(found)}'


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.0%} of them" if whole else "there were none"


def _honesty(found: Found) -> str:
    scorer = found["scorer"]
    if found["mode"] == "realtime":
        return (
            f"Real time: scores and decisions come from {scorer}. Latency counts from when a "
            "request was due, not from when it was sent, so a server that stalls cannot hide it."
        )
    judge = (
        "no model was asked: scores are the world's own row posterior, the best possible from an "
        "order's own columns before any drift"
        if scorer == ROW_POSTERIOR
        else f"scores come from {scorer}"
    )
    service = found["configuration"]["service"]
    return (
        f"Offline: {judge}. Latency is that of an imagined first-come-first-served service "
        f"({service['workers']} workers, {service['service_ms']:g} ms a call), not a measurement."
    )


def _charts(found: Found) -> str:
    line = found["timeline"]
    seconds = line["seconds"]
    shares = [Series("held", line["held_share"], "a")]
    if "fraud_share" in line:
        shares.append(Series("fraud (truth)", line["fraud_share"], "b"))
    charts = [
        timeline(
            "Orders", seconds, [Series("orders", line["orders_per_second"])], unit="sent a second"
        ),
        timeline(
            "Latency",
            seconds,
            [Series("p99", line["latency_p99_ms"], "b"), Series("p50", line["latency_p50_ms"])],
            unit="ms" if found["mode"] == "realtime" else "ms, imagined service",
        ),
        timeline(
            "Without an answer",
            seconds,
            [Series("unanswered", line["unanswered_share"], "bad")],
            unit="share of orders",
        ),
        timeline("Fraud and held", seconds, shares, unit="share of orders"),
    ]
    if found["latency_curve"]:
        limit = found["configuration"]["objectives"]["latency_p99_ms"]
        charts.append(distribution(found["latency_curve"], limit=limit))
    if found.get("calibration"):
        charts.append(calibration(found["calibration"]))
    return "".join(charts)


def _against_truth(found: Found) -> str:
    if "confusion" not in found:
        return (
            "<section><h2>Decisions</h2><p>The truth of these orders was not recorded, so no "
            "objective that needs it is judged.</p></section>"
        )
    rows = "".join(_truth_row(name, counts) for name, counts in found["confusion"].items())
    precision = found["average_precision"]
    return f"""<section><h2>Decisions against the truth</h2>
<p><span class="key r">right</span><span class="key w">wrong</span>
<span class="key n">without an answer</span></p>
<div class="card wide"><table class="rows"><thead><tr><th scope="col">truth</th>
<th scope="col" class="bar">share</th><th scope="col">passed</th><th scope="col">held</th>
<th scope="col">unanswered</th></tr></thead><tbody>{rows}</tbody></table></div>
<p>{_holding(found)} Average precision {_number(precision["score"])}; the exact posterior, which
no model can beat, reaches {_number(precision["bound"])}.</p></section>"""


def _holding(found: Found) -> str:
    if found["mode"] == "realtime" and found["realtime"]["target"] != "offline":
        return "The API decided which orders to hold."
    return "An order is held when holding has the lower expected cost under its score."


def _truth_row(name: str, counts: Mapping[str, int]) -> str:
    total = max(sum(counts.values()), 1)
    right, wrong = ("passed", "held") if name == "legit" else ("held", "passed")
    kinds = (("r", right), ("w", wrong), ("n", "unanswered"))
    bars = "".join(
        f'<i class="{style}" style="width:{100 * counts[key] / total:.2f}%"></i>'
        for style, key in kinds
    )
    cells = "".join(f'<td data-name="{key}">{count:,}</td>' for key, count in counts.items())
    shown = escape(name.replace("_", " "))
    return (
        f'<tr><th scope="row">{shown}</th><td class="bar"><div class="stack" role="img" '
        f'aria-label="{counts[right] / total:.0%} right, {counts[wrong] / total:.0%} wrong">{bars}'
        f"</div></td>{cells}</tr>"
    )


def _provenance(found: Found, before: Before) -> str:
    configuration = json.dumps(found["configuration"], indent=1)
    what = "what was to be sent" if found["mode"] == "realtime" else "everything that was seen"
    return f"""<section><h2>Where it comes from</h2><div class="card"><div class="facts">
<p>Seed {found["seed"]} · digest of {what}: <code>{found["digest"]}</code></p>
<p>Scores: {escape(found["scorer"])}.</p>{before.digest(found)}
<p class="note">Equal seeds and lengths give equal digests.</p></div>
<details><summary>Configuration</summary><pre tabindex="0"><code
>{escape(configuration)}</code></pre></details></div></section>"""


def _number(value: float | None) -> str:
    return "was not measured" if value is None else f"{value:.4g}"
