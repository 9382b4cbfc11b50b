"""What a run has to say: one JSON document, and one self-contained HTML page made of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any, Final

import numpy as np

from ibook_assets.core.errors import ContractError
from ibook_assets.core.tables import ARCHETYPES
from ibook_sim.charts import line
from ibook_sim.drift import DRIFT_THRESHOLD
from ibook_sim.running import ROW_POSTERIOR, RunResult, Seen
from ibook_sim.validators import (
    held,
    honest_revenue,
    judged,
    oracle_precision,
    quantile,
    saved_cents,
)
from ibook_sim.world.randomness import Bools, Floats

_BINS: Final = 60
_STYLE: Final = """
:root{color-scheme:light dark;--ink:#17202a;--page:#f6f7f9;--card:#fff;--soft:#5d6875;
--rule:#d9dee4;--line:#2563c4;--good:#18794e;--bad:#c22f2f}
@media(prefers-color-scheme:dark){:root{--ink:#e8ecf1;--page:#12161b;--card:#1b2128;--soft:#9aa7b5;
--rule:#323b45;--line:#7db0ff;--good:#56c991;--bad:#ff8080}}
*{box-sizing:border-box}body{margin:0 auto;max-width:1080px;padding:20px;background:var(--page);
color:var(--ink);font:15px/1.5 system-ui,sans-serif}h1{margin:.2em 0;font-size:1.6rem}
h2{margin:1.6em 0 .5em;font-size:1.1rem}p,small,figcaption{color:var(--soft)}
.verdict{padding:14px 18px;border-radius:10px;background:var(--card);border-left:6px solid}
.verdict b{font-size:1.2rem}.passed{color:var(--good)}.failed{color:var(--bad)}
.grid{display:grid;gap:12px;grid-template-columns:repeat(auto-fit,minmax(min(100%,310px),1fr))}
figure,.wide{margin:0;padding:12px;border-radius:10px;background:var(--card)}
.wide{overflow-x:auto}svg{display:block;width:100%;height:auto}
.line{fill:none;stroke:var(--line);stroke-width:1.6}.axis{stroke:var(--rule)}
svg text{fill:var(--soft);font-size:10px}table{width:100%;border-collapse:collapse}
th,td{padding:5px 8px;text-align:right;border-bottom:1px solid var(--rule)}
th:first-child,td:first-child{text-align:left}th{font-weight:600}td small{display:block}
@media(max-width:640px){.checks tr{display:flex;flex-wrap:wrap;justify-content:space-between;
border-bottom:1px solid var(--rule)}.checks td,.checks th{border:0}
.checks td:first-child,.checks th:first-child{flex:1 0 100%}}
code{overflow-wrap:anywhere;font-size:.85em}pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:0}
"""


def summary(result: RunResult) -> dict[str, Any]:
    """The run in plain values; equal runs give equal documents."""
    seen = result.seen
    own, bound = oracle_precision(seen)
    checks = judged(result)
    saved, possible = saved_cents(seen)
    kept, honest = honest_revenue(seen)
    return {
        "scenario": result.scenario.name,
        "passed": all(check.passed for check in checks),
        "seed": result.seed,
        "digest": result.digest,
        "scorer": result.scorer,
        "duration_seconds": result.duration_seconds,
        "orders": seen.score.size,
        "frauds": int((seen.archetype > 0).sum()),
        "answered": int(seen.answered.sum()),
        "dropped": int(seen.dropped.sum()),
        "refused": int(seen.refused.sum()),
        "failed": int(seen.failed.sum()),
        "duplicated": result.books.duplicated,
        "latency_ms": {str(q): _plain(quantile(seen.latency_ms, q)) for q in (0.5, 0.95, 0.99)},
        "average_precision": {"score": _plain(own), "bound": _plain(bound)},
        "money_cents": {
            "saved": saved,
            "saved_at_best": possible,
            "honest_kept": kept,
            "honest": honest,
        },
        "confusion": _confusion(seen),
        "drift": {
            "level": result.drift.level,
            "axes": list(result.drift.axes) if result.drift.level else [],
            "seed": result.drift.seed,
            "reached": {share.axis: _plain(share.share) for share in result.drifted},
            "score": max(d.stability_index for d in result.divergences),
            "columns": {
                d.column: [d.stability_index, d.total_variation] for d in result.divergences
            },
        },
        "checks": [
            {
                "name": check.name,
                "about": check.about,
                "value": _plain(check.value),
                "sense": check.sense,
                "limit": check.limit,
                "passed": check.passed,
            }
            for check in checks
        ],
        "configuration": result.scenario.model_dump(mode="json"),
    }


def write_report(
    result: RunResult, path: Path, *, previous: Mapping[str, Any] | None = None
) -> Path:
    """Write the page to `path` and the document beside it (`.json`); returns the latter's path."""
    found = summary(result)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(result, previous=previous), encoding="utf-8")
    beside = path.with_suffix(".json")
    beside.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return beside


def read_summary(path: Path) -> dict[str, Any]:
    """A previous run's document.

    Raises:
        ContractError: `path` holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{path} is not JSON ({error}); give the .json file beside a report"
        raise ContractError(msg) from error
    checks = found.get("checks") if isinstance(found, dict) else None
    if not isinstance(checks, list) or not all(
        isinstance(c, dict) and {"name", "value"} <= c.keys() for c in checks
    ):
        msg = f"{path} is not the document of a run; give the .json file beside a report"
        raise ContractError(msg)
    return dict(found)


def page(result: RunResult, *, previous: Mapping[str, Any] | None = None) -> str:
    """The run as one HTML page that needs nothing else."""
    found = summary(result)
    name, word = escape(found["scenario"]), "passed" if found["passed"] else "failed"
    broken = [c["name"] for c in found["checks"] if not c["passed"]]
    verdict = f"Broken: {', '.join(broken)}." if broken else "Every objective holds."
    level, score = found["drift"]["level"], found["drift"]["score"]
    rings = "counts as drift" if score >= DRIFT_THRESHOLD else "does not count as drift"
    configuration = json.dumps(found["configuration"], indent=1)
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1"><title>{name}: {word}</title>
<style>{_STYLE}</style></head><body>
<p>ibook simulator, offline run</p><h1>{name}</h1><p>{escape(result.scenario.description)}</p>
<div class="verdict {word}"><b>{word.upper()}</b><br>{escape(verdict)}</div>
<h2>Objectives</h2><div class="wide">{_checks(found, previous)}</div>
<p>{escape(_honesty(result))}</p>
<h2>The run</h2><div class="grid">{_timelines(result)}</div>
<h2>Decisions against the truth</h2><div class="wide">{_confusion_table(found)}</div>
<p>An order is held when holding has the lower expected cost under its score. Average precision
{_number(found["average_precision"]["score"])}; the exact posterior, which no model can beat,
reaches {_number(found["average_precision"]["bound"])}.</p>
<h2>Drift</h2><p>Level asked: {level:g}{_reached(found)}. Most moved column: stability index
{score:.3f}, which {rings} (from {DRIFT_THRESHOLD:g}).</p><div class="wide">{_columns(found)}</div>
<h2>Where it comes from</h2><div class="wide"><p>Seed {found["seed"]}; digest
<code>{found["digest"]}</code>. Equal seeds and lengths give equal digests.</p>
<details><summary>Configuration</summary><pre><code>{escape(configuration)}</code></pre></details>
</div></body></html>
"""


def _honesty(result: RunResult) -> str:
    judge = (
        "no model was asked: scores are the world's own row posterior, the best possible from an "
        "order's own columns before any drift"
        if result.scorer == ROW_POSTERIOR
        else f"scores come from {result.scorer}"
    )
    return (
        f"Offline: {judge}. Latency is that of an imagined first-come-first-served service "
        f"({result.scenario.service.workers} workers, {result.scenario.service.service_ms:g} ms a "
        "call), not a measurement."
    )


def _checks(found: Mapping[str, Any], previous: Mapping[str, Any] | None) -> str:
    before = {c["name"]: c["value"] for c in previous["checks"]} if previous else {}
    head = "<th>previous</th>" if previous else ""
    rows = []
    for check in found["checks"]:
        word = "passed" if check["passed"] else "failed"
        past = f"<td>{_number(before.get(check['name']))}</td>" if previous else ""
        rows.append(
            f"<tr><td><b>{escape(check['name'])}</b><small>{escape(check['about'])}</small></td>"
            f"<td>{_number(check['value'])}</td><td>{check['sense']} {_number(check['limit'])}</td>"
            f'{past}<td class="{word}">{word}</td></tr>'
        )
    note = ""
    if previous:
        same = "equal" if previous.get("digest") == found["digest"] else "different"
        other = escape(str(previous.get("scenario", "unknown")))
        note = f"<p>Previous run: {other}, seed {escape(str(previous.get('seed')))}; "
        note += f"its digest is {same}.</p>"
    return (
        '<table class="checks"><tr><th>objective</th><th>value</th><th>limit</th>'
        f"{head}<th></th></tr>"
        f"{''.join(rows)}</table>{note}"
    )


def _timelines(result: RunResult) -> str:
    seen = result.seen
    edges = np.linspace(0.0, result.duration_seconds, _BINS + 1)
    which = np.clip(np.searchsorted(edges, seen.sent_seconds, side="right") - 1, 0, _BINS - 1)
    middle = (edges[1:] + edges[:-1]) / 2
    sent = np.bincount(which, minlength=_BINS)
    slow = np.array([quantile(seen.latency_ms[which == b], 0.99) for b in range(_BINS)])
    levels = np.linspace(0.0, 1.0, 101)
    latency = np.array([quantile(seen.latency_ms, q) for q in levels])
    charts = [
        line("Orders sent", middle, sent / (edges[1] - edges[0]), unit="a second", x_unit="s"),
        line("Latency, 99th percentile", middle, slow, unit="ms, imagined service", x_unit="s"),
        line("Without an answer", middle, _share(which, ~seen.answered), unit="share", x_unit="s"),
        line("Fraud", middle, _share(which, seen.archetype > 0), unit="share, truth", x_unit="s"),
        line("Held", middle, _share(which, held(seen)), unit="share of orders", x_unit="s"),
    ]
    if not np.isnan(latency).any():
        charts.append(line("Latency, distribution", latency, levels, unit="share", x_unit="ms"))
    return "".join(charts)


def _share(which: np.ndarray[Any, Any], hit: Bools) -> Floats:
    total = np.bincount(which, minlength=_BINS).astype(np.float64)
    total[total == 0] = np.nan
    return np.asarray(np.bincount(which, hit, _BINS) / total)


def _confusion(seen: Seen) -> dict[str, dict[str, int]]:
    stopped, answered = held(seen), seen.answered
    return {
        name: {
            "passed": int((mine & answered & ~stopped).sum()),
            "held": int((mine & stopped).sum()),
            "unanswered": int((mine & ~answered).sum()),
        }
        for code, name in enumerate(ARCHETYPES)
        for mine in (seen.archetype == code,)
    }


def _confusion_table(found: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name.replace('_', ' '))}</td>"
        + "".join(f"<td>{count:,}</td>" for count in counts.values())
        + "</tr>"
        for name, counts in found["confusion"].items()
    )
    return (
        f"<table><tr><th>truth</th><th>passed</th><th>held</th><th>unanswered</th></tr>{rows}"
        "</table>"
    )


def _columns(found: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{index:.4f}</td><td>{variation:.4f}</td></tr>"
        for name, (index, variation) in found["drift"]["columns"].items()
    )
    head = "<tr><th>column</th><th>stability index</th><th>total variation</th></tr>"
    return f"<table>{head}{rows}</table>"


def _reached(found: Mapping[str, Any]) -> str:
    reached = found["drift"]["reached"]
    parts = [f"{axis} {_number(share)}" for axis, share in reached.items()]
    return f"; reached: {', '.join(parts)}" if parts else ""


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


def _number(value: object) -> str:
    return f"{value:,.4g}" if isinstance(value, int | float) else "not measured"
