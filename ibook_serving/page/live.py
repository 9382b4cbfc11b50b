"""What happens now: verdict, tiles, variants. Attributes name what a script updates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from ibook_serving.page.shown import (
    UNKNOWN,
    age,
    exact,
    gauge,
    milliseconds,
    moment,
    money,
    percent,
    quantile,
    share,
)
from ibook_serving.status.api import Finding, LaneStatus, Status, VariantCount
from ibook_serving.telemetry.metrics import MIXED, NO_VARIANT

_NOTHING: Final = VariantCount(
    variant="",
    requests=0,
    latency_seconds=0.0,
    latency_buckets=(),
    approved=0,
    reviewed=0,
    fraud_saved_cents=0.0,
    review_cost_cents=0.0,
)
_MIXED_LANE: Final = LaneStatus(
    variant=MIXED,
    stage="several variants in one request",
    model_version="",
    share=0.0,
    threshold=0.0,
)
_COLUMNS: Final = (
    ("requests", "Requests"),
    ("p50", "p50"),
    ("p95", "p95"),
    ("p99", "p99"),
    ("review", "To review"),
    ("saved", "Saved"),
    ("cost", "Review cost"),
)


def verdict_section(status: Status) -> str:
    """Whether all is well, and what is not."""
    verdict = status.verdict
    findings = "".join(_finding(finding) for finding in verdict.findings)
    # A version is read as one word: lines may break between words only.
    words = " ".join(f"<span>{escape(word)}</span>" for word in verdict.headline.split())
    return f"""<section id="verdict" class="verdict {verdict.level}" aria-labelledby="headline">
<svg class="icon" viewBox="0 0 40 40" aria-hidden="true"><use href="#i-{verdict.level}"/></svg>
<div><h1 id="headline">{words}</h1>
<p id="state" role="status">{escape(state_of(verdict.findings))}</p>
<ul id="findings">{findings}</ul>
<p class="facts" id="facts">{escape(facts_of(status))}</p></div>
<template id="finding">{_finding(Finding("warn", "", "", ""))}</template></section>"""


def state_of(findings: Sequence[Finding]) -> str:
    """The number of findings in words."""
    if not findings:
        return "All is well"
    broken = sum(finding.level == "bad" for finding in findings)
    if not broken:
        return "Worth a look"
    return "1 thing is broken" if broken == 1 else f"{broken} things are broken"


def facts_of(status: Status) -> str:
    """The server in one line."""
    waiting, lost = status.queue_rows, status.shadow_rows_lost
    entry = (
        "no promotion" if status.record_sequence is None else f"promotion {status.record_sequence}"
    )
    return (
        f"{status.processes} of {status.processes_expected} processes · {entry} · "
        f"{waiting:,} {'order' if waiting == 1 else 'orders'} waiting"
    ) + (f" · {lost:,} orders not shown to a shadow" if lost else "")


def _finding(finding: Finding) -> str:
    return (
        f'<li class="{finding.level}"><b>{escape(finding.what)}</b>'
        f"<span>{escape(finding.why)}</span><span>{escape(finding.next_step)}</span></li>"
    )


def live_section(status: Status) -> str:
    """The numbers, since counting began: a script makes rates of them."""
    return f"""<section id="live" aria-labelledby="live-title">
<h2 id="live-title">Live <small id="window">since {moment(status.since)}</small></h2>
<dl class="tiles">{"".join(_tiles(status))}</dl>
<div class="card wide"><table class="rows"><caption class="aside">Variants: who answers, how fast,
to what effect</caption><thead><tr><th scope="col">Variant</th>
<th scope="col" class="bar">Share of the orders</th>
{"".join(f'<th scope="col">{title}</th>' for _, title in _COLUMNS)}</tr></thead>
<tbody id="variants">{"".join(_rows(status))}</tbody></table></div>
<template id="variant">{_row(_MIXED_LANE, _NOTHING, 0)}</template></section>"""


def _tiles(status: Status) -> Iterable[str]:
    requests = sum(status.answers.values())
    failed = sum(n for code, n in status.answers.items() if code >= "500")
    rejected = sum(n for code, n in status.answers.items() if "400" <= code < "500")
    answered = [v for v in status.variants if v.variant != NO_VARIANT]
    buckets = [sum(column) for column in zip(*(v.latency_buckets for v in answered), strict=True)]
    bounds = status.latency_bounds_seconds
    p50, p95, p99 = (milliseconds(quantile(buckets, bounds, q)) for q in (0.5, 0.95, 0.99))
    reviewed = sum(v.reviewed for v in answered)
    orders = reviewed + sum(v.approved for v in answered)
    degraded = sum(status.degraded.values())
    saved = sum(v.fraud_saved_cents for v in answered)
    cost = sum(v.review_cost_cents for v in answered)
    missing = ", ".join(status.degraded).replace("_", " ")
    yield _tile("requests", "Requests", f"{requests:,}", f"{orders:,} orders", drawn=True)
    yield _tile(
        "errors", "Failed", share(failed, requests), f"{rejected:,} rejected (4xx)", drawn=True
    )
    yield _tile("latency", "Latency, p95", p95, f"p50 {p50} · p99 {p99}", drawn=True)
    yield _tile(
        "review", "Sent to review", share(reviewed, orders), f"{reviewed:,} orders", drawn=True
    )
    yield _tile("saved", "Fraud saved", money(saved), f"expected · reviews cost {money(cost)}")
    yield _tile(
        "degraded", "Degraded answers", share(degraded, orders), missing or "nothing missing"
    )
    yield _tile(
        "features",
        "Feature age",
        age(status.feature_age_seconds),
        history_of(status),
    )
    yield _tile(
        "model",
        "Model age",
        age(status.model_age_seconds),
        status.model_version or "none promoted",
    )


def history_of(status: Status) -> str:
    """Until when features know everything."""
    as_of = status.features_as_of
    return "no history" if as_of is None else f"as of {as_of[:16].replace('T', ' ')} UTC"


def _tile(name: str, title: str, value: str, note: str, *, drawn: bool = False) -> str:
    spark = (
        '<svg class="spark" viewBox="0 0 120 24" preserveAspectRatio="none" aria-hidden="true">'
        '<path class="area"/><path class="line"/></svg>'
        if drawn
        else ""
    )
    return (
        f'<div class="card" data-tile="{name}"><dt>{title}</dt><dd><b>{escape(value)}</b>'
        f"<small>{escape(note)}</small>{spark}</dd></div>"
    )


def _rows(status: Status) -> Iterable[str]:
    counts = {count.variant: count for count in status.variants}
    orders = sum(count.approved + count.reviewed for count in status.variants)
    for lane in status.lanes:
        yield _row(lane, counts.get(lane.variant, _NOTHING), orders, status.latency_bounds_seconds)
    mixed = counts.get(MIXED)
    if mixed is not None:
        yield _row(_MIXED_LANE, mixed, orders, status.latency_bounds_seconds)


def _row(lane: LaneStatus, count: VariantCount, orders: int, bounds: Sequence[float] = ()) -> str:
    own = count.approved + count.reviewed
    times = [quantile(count.latency_buckets, bounds, q) for q in (0.5, 0.95, 0.99)]
    cells = {
        "requests": f"{count.requests:,}",
        **{f"p{q}": milliseconds(time) for q, time in zip((50, 95, 99), times, strict=True)},
        "review": share(count.reviewed, own),
        "saved": money(count.fraud_saved_cents),
        "cost": money(count.review_cost_cents),
    }
    named = "".join(
        f'<td data-name="{title}" data-f="{key}">{escape(cells[key])}</td>'
        for key, title in _COLUMNS
    )
    part = own / orders if orders else 0.0
    bar = gauge(100 * part, 100 * lane.share)
    shares = escape(shares_of(lane, part if orders else None))
    return f"""<tr data-variant="{escape(lane.variant)}"><th scope="row">{escape(lane.variant)}
<small data-f="version">{escape(lane.model_version or lane.stage)}</small></th>
<td class="bar">{bar}<small data-f="share">{shares}</small></td>{named}</tr>"""


def shares_of(lane: LaneStatus, answered: float | None) -> str:
    """Configured and actual share of a lane in words."""
    if lane.stage == "shadow":
        return f"watches {exact(lane.share)} of users, answers nobody"
    if lane.variant == MIXED:
        return "batches over several variants"
    actual = UNKNOWN if answered is None else percent(answered)
    return f"{actual} answered, {exact(lane.share)} configured"
