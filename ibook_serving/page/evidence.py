"""What the lake says: drift of the newest day, promotions with their evidence, the way back."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final

from ibook_assets.core.monitoring.decision import ColumnDrift
from ibook_assets.core.monitoring.record import DriftRecord
from ibook_assets.core.promotion import GateRecord, GateRuleRecord, PromotionRecord
from ibook_serving.page.shown import UNKNOWN, exact, gauge, percent
from ibook_serving.status.api import Status
from ibook_serving.status.endpoints import COLUMNS_SHOWN, ROLLBACK, WITHDRAW
from ibook_serving.status.evidence import Evidence

_STATES: Final = {
    "stable": ("well", "Stable"),
    "drifted": ("warn", "Drifted, not confirmed yet"),
    "insufficient_data": ("none", "Not enough data"),
}
_MAKE_REPORT: Final = (
    ".venv/bin/dagster asset materialize -m ibook_assets.definitions "
    "--select 'key:\"{use_case}/feature_drift\"' --partition <day>"
)


def evidence_section(evidence: Evidence, status: Status) -> str:
    """Drift and promotions beside what `status` says; replaced as a whole when it is new."""
    return (
        f'<div id="evidence" data-digest="{status.evidence}">'
        f"{_drift_section(evidence, status.model_version)}"
        f"{_promotions_section(evidence, status.record_sequence)}</div>"
    )


def command(text: str) -> str:
    """A command with a button that copies it, where scripts run."""
    return (
        f'<div class="command"><code>{escape(text)}</code>'
        '<button type="button" class="copy" hidden>Copy</button></div>'
    )


def _drift_section(evidence: Evidence, serving: str | None) -> str:
    body = _problem(evidence.drift_problem)
    if evidence.drift is not None:
        body += _drift(evidence.drift, serving)
    elif not body:
        body = (
            "<p>No report yet. It holds a day's features against what the champion learnt from; "
            "the schedule <code>drift_monitoring</code> makes one a day, or make one now:</p>"
            + command(_MAKE_REPORT.format(use_case=evidence.use_case))
        )
    return (
        '<section id="drift" aria-labelledby="drift-title"><h2 id="drift-title">Drift</h2>'
        f'<div class="card body">{body}</div></section>'
    )


def _problem(problem: str | None) -> str:
    return "" if problem is None else f'<p class="problem">Not read just now: {escape(problem)}</p>'


def _drift(record: DriftRecord, serving: str | None) -> str:
    decision = record.decision
    level, word = ("bad", "Drift confirmed") if record.confirmed else _STATES[decision.state]
    about = f"{record.day} against "
    about += (
        f"{record.reference_first_day} to {record.reference_last_day}, the last days that "
        f"{record.champion_version} learnt from"
        if record.reference_first_day
        else "nothing"
    )
    if serving not in (None, record.champion_version):
        about += f"; {serving} serves by now"
    gauges = ""
    if decision.score is not None:
        limit = decision.score_threshold
        gauges += _gauge(
            "Columns that drifted", percent(decision.score), decision.score, limit, exact(limit)
        )
    if decision.statistic is not None and decision.threshold is not None:
        gauges += _gauge(
            "Largest deviation",
            f"{decision.statistic:.1f} sd",
            decision.statistic,
            decision.threshold,
            f"{decision.threshold:.1f} sd, {exact(decision.false_alarm_rate)} false alarms",
        )
    reason = "" if decision.reason is None else f"<p>{escape(decision.reason)}</p>"
    folder = f"monitoring/feature_drift/{record.use_case}/dt={record.day}"
    note = (
        f'<p class="note">{decision.current_rows:,} orders against {decision.reference_rows:,}; '
        f"{len(record.left_out)} features left out. All columns and Evidently's page are in the "
        f"lake: <code>{_breakable(folder)}</code></p>"
    )
    return (
        f'<p class="lead"><b class="badge {level}">{word}</b> <span>{escape(about)}</span></p>'
        f'{reason}<div class="pair"><div>{gauges}{note}</div>{_columns(decision.columns)}</div>'
    )


def _gauge(title: str, text: str, value: float, limit: float, limit_text: str) -> str:
    top = 1.5 * max(value, limit) or 1.0
    bar = gauge(100 * value / top, 100 * limit / top, kind="over" if value >= limit else "")
    return (
        f'<div class="measure"><p><span>{title}</span> <b>{text}</b></p>{bar}'
        f"<small>acts from {escape(limit_text)}</small></div>"
    )


def _columns(columns: tuple[ColumnDrift, ...]) -> str:
    if not columns:
        return ""
    rows = "".join(
        f'<tr><th scope="row"><code>{_breakable(column.name)}</code></th>'
        f'<td data-name="Deviation">{column.deviation:.1f} sd</td>'
        f'<td data-name="Distance">'
        f"{UNKNOWN if column.distance is None else f'{column.distance:.3f}'}</td>"
        f'<td data-name="Missing">{percent(column.reference_nulls)} → '
        f"{percent(column.current_nulls)}</td>"
        f'<td class="mark {"bad" if column.drifted else "well"}">'
        f"{'drifted' if column.drifted else 'usual'}</td></tr>"
        for column in columns[:COLUMNS_SHOWN]
    )
    return (
        '<div class="wide"><table class="rows slim"><caption class="aside">Columns that moved '
        'most</caption><thead><tr><th scope="col">Column</th><th scope="col">Deviation</th>'
        '<th scope="col">Distance</th><th scope="col">Missing</th><th scope="col">Verdict</th>'
        f"</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _breakable(name: str) -> str:
    """A name that a narrow column may break between its words."""
    return escape(name).replace("/", "/<wbr>").replace(":", ":<wbr>").replace("_", "_<wbr>")


def _promotions_section(evidence: Evidence, served: int | None) -> str:
    body = _problem(evidence.promotions_problem)
    if evidence.promotions:
        body += _ways_back(evidence) + _entries(evidence.promotions, served)
    elif not body:
        body = (
            '<div class="card body"><p>Nothing has been promoted yet. <code>make demo</code> '
            f"does it all, or materialise <code>{escape(evidence.use_case)}/promotion</code> in "
            "Dagster.</p></div>"
        )
    return (
        '<section id="promotions" aria-labelledby="promotions-title">'
        f'<h2 id="promotions-title">Promotions</h2>{body}</section>'
    )


def _ways_back(evidence: Evidence) -> str:
    newest = evidence.promotions[0]
    ways = ""
    if newest.challengers:
        names = " and ".join(c.model.model_version for c in newest.challengers)
        ways += (
            f"<p>Withdrawing takes out <b>{escape(names)}</b> and leaves "
            f"<b>{escape(newest.model_version)}</b> alone:</p>"
            + command(WITHDRAW.format(use_case=newest.use_case))
        )
    if evidence.rollback_to is None:
        ways += (
            f"<p>{escape(newest.model_version)} is the first model: there is none to roll back "
            "to.</p>"
        )
    else:
        beside = ", without challengers" if newest.challengers else ""
        ways += (
            f"<p>Rolling back puts <b>{escape(evidence.rollback_to)}</b> in the place of "
            f"<b>{escape(newest.model_version)}</b>{beside}:</p>"
            + command(ROLLBACK.format(use_case=newest.use_case))
            + '<p class="note">Servers follow within a second. Say why in place of the dots; the '
            "reason is kept.</p>"
        )
    return f'<div class="card body">{ways}</div>'


def _entries(records: Iterable[PromotionRecord], served: int | None) -> str:
    entries = "".join(_entry(record, served) for record in records)
    return f'<ol class="entries">{entries}</ol>'


def _entry(record: PromotionRecord, served: int | None) -> str:
    restores = "" if record.restores is None else f" of entry {record.restores}"
    was = f"instead of {record.previous_version}" if record.previous_version else "the first"
    if record.action == "challenge":
        was = record.subject.partition(" by ")[2] or "all challengers withdrawn"
    mark = ""
    if record.sequence == served:
        mark = '<b class="badge well">serving</b>'
    elif served is None or record.sequence > served:
        mark = '<b class="badge bad">not served</b>'
    when = f"{record.promoted_at:%Y-%m-%d %H:%M:%S}"
    judged = [("", record.model.gate)]
    if record.action == "challenge":
        judged = [
            (f"{c.variant} {c.model.model_version}", c.model.gate) for c in record.challengers
        ]
    gates = "".join(
        _gate(gate, name, key=f"gate-{record.sequence}-{i}")
        for i, (name, gate) in enumerate(judged)
    )
    return (
        f'<li class="card entry"><p class="lead"><span class="number">{record.sequence}</span> '
        f'<b class="badge {record.action}">{record.action}{restores}</b> '
        f"<b>{escape(record.model_version)}</b> <span>{escape(was)}</span> {mark}</p>"
        f'<p class="note">{escape(record.actor)} · '
        f'<time datetime="{record.promoted_at.isoformat()}">{when} UTC</time></p>'
        f"<blockquote>{escape(record.reason)}</blockquote>{gates}</li>"
    )


def _gate(gate: GateRecord, name: str, *, key: str) -> str:
    passed = sum(rule.passed for rule in gate.rules)
    against = f" against {gate.champion_version}" if gate.champion_version else ""
    title = f"Gate{' of ' + name if name else ''}: {passed} of {len(gate.rules)} rules passed"
    if not gate.rules:
        return f'<p class="note gate">{escape(title.partition(":")[0])}: no rules</p>'
    return (
        f'<details id="{key}"><summary>{escape(title + against)}</summary><div class="wide">'
        '<table class="rows slim"><thead><tr><th scope="col">Rule</th><th scope="col">Value</th>'
        '<th scope="col">Bound</th><th scope="col">Verdict</th></tr></thead>'
        f"<tbody>{''.join(_rule(rule) for rule in gate.rules)}</tbody></table></div></details>"
    )


def _rule(rule: GateRuleRecord) -> str:
    value, bound = (UNKNOWN if n is None else f"{n:,.4g}" for n in (rule.value, rule.bound))
    sign = {">=": "≥", "<=": "≤"}[rule.comparison]
    verdict = ("well", "passed") if rule.passed else ("bad", "failed")
    return (
        f'<tr><th scope="row">{escape(rule.name.replace("_", " "))}'
        f"<small>{escape(rule.evidence)}</small></th>"
        f'<td data-name="Value">{value}</td><td data-name="Bound">{sign} {bound}</td>'
        f'<td class="mark {verdict[0]}">{verdict[1]}</td></tr>'
    )
