"""`ibook experiment`: which experiments there are, and where one stands."""

from __future__ import annotations

import time
from typing import Annotated, Final

import msgspec
import typer
from rich.table import Column, Table

from ibook_assets.cli.console import console, explains_errors, print_json, settings
from ibook_assets.core.experiments.catalog import experiment_named
from ibook_assets.core.experiments.definition import Run
from ibook_assets.core.experiments.summary import (
    Decision,
    ExperimentSummary,
    FixedHorizon,
    GuardrailState,
    WindowSummary,
)
from ibook_assets.core.times import from_us
from ibook_assets.stores.blobs import Blobs, open_blobs
from ibook_assets.stores.experiments import ExperimentReader, Known, stored_summary

experiment = typer.Typer(no_args_is_help=True, help=__doc__)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document.")]

_COLOURS: Final[dict[Decision, str]] = {
    "ship": "green",
    "rollback": "red",
    "keep-running": "cyan",
    "no-effect": "yellow",
    "invalid": "red",
}
_GUARDRAIL_COLOURS: Final[dict[GuardrailState, str]] = {
    "held": "green",
    "open": "cyan",
    "breached": "red",
}


@experiment.command("list")
@explains_errors
def list_all(as_json: AsJson = False) -> None:
    """List defined experiments and those that the promotion log names."""
    blobs = _blobs()
    rows = [_row(blobs, known) for known in ExperimentReader(blobs).known()]
    if as_json:
        print_json(rows)
        return
    # An id that is cut cannot be asked for.
    name = Column("experiment", no_wrap=True)
    table = Table(name, "metric", "users", "started", "ran", "kept verdict", "about")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    console.print(table)


@experiment.command("summary")
@explains_errors
def summary(
    name: Annotated[str, typer.Argument(help="Id of a defined experiment.")],
    window_hours: Annotated[
        int, typer.Option(min=1, max=24 * 365, help="Window that is shown by itself.")
    ] = 24,
    as_json: AsJson = False,
) -> None:
    """Where an experiment stands: arms, effect, sequential decision, guardrails, sample ratio."""
    found = ExperimentReader(_blobs()).summary(
        experiment_named(name), window_hours=window_hours, now_us=time.time_ns() // 1_000
    )
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        return
    _show(found)


def _blobs() -> Blobs:
    config = settings()
    return open_blobs(config.lake, endpoint_url=config.s3_endpoint_url)


def _row(blobs: Blobs, known: Known) -> dict[str, object]:
    defined, run = known.experiment, known.run
    if defined is None or run is None:
        about = "not defined: add it to ibook_assets/core/experiments/catalog.py"
        return _columns(known.name, ran="named by the promotion log", about=about)
    kept = stored_summary(blobs, known.name)
    return _columns(
        known.name,
        metric=f"{defined.metric} {defined.direction} by {defined.minimal_effect:g}",
        users=defined.users_needed,
        started=None if run.started_us is None else f"{from_us(run.started_us):%Y-%m-%d %H:%M} UTC",
        ran=_ran(run),
        verdict=None if kept is None else f"{kept.verdict.decision} ({kept.as_of[:10]})",
        about=defined.description,
    )


def _columns(
    name: str,
    *,
    metric: str | None = None,
    users: int | None = None,
    started: str | None = None,
    ran: str,
    verdict: str | None = None,
    about: str,
) -> dict[str, object]:
    return {
        "experiment": name,
        "metric": metric,
        "users_needed": users,
        "started": started,
        "ran": ran,
        "verdict": verdict,
        "about": about,
    }


def _ran(run: Run) -> str:
    if run.fault is not None:
        return run.fault
    if run.started_us is None:
        return "not started"
    return "running" if run.withdrawn_us is None else "withdrawn"


def _show(found: ExperimentSummary) -> None:
    verdict = found.verdict
    colour = _COLOURS[verdict.decision]
    console.print(f"[bold]{found.experiment}[/]  {found.description}")
    console.print(f"[bold {colour}]{verdict.decision}[/]  {verdict.reason}", highlight=False)
    started = f", started {found.started_at}" if found.started_at else ""
    console.print(f"{found.state}{started}, as of {found.as_of}", style="dim", highlight=False)
    console.print(_arms(found))
    console.print(_tests(found))
    if found.guardrails:
        console.print(_guardrails(found))
    _progress(found)


def _arms(found: ExperimentSummary) -> Table:
    table = Table(
        "arm", "model", "share", "exposed", "counted", "events", "rate", "per answer",
        title=f"{found.metric} by user ({found.direction} wanted)", title_justify="left",
    )  # fmt: skip
    for arm in found.arms:
        table.add_row(
            arm.variant,
            ", ".join(found.models[arm.variant]),
            f"{arm.share:.0%}",
            f"{arm.exposed:,}",
            f"{arm.users:,}",
            f"{arm.events:,}",
            _percent(arm.rate),
            _percent(arm.answer_rate),
        )
    return table


def _tests(found: ExperimentSummary) -> Table:
    table = Table("test", "difference", "interval", "evidence", "may be looked at")
    sequential = found.sequential
    table.add_row(*_fixed("fixed horizon", found.fixed_horizon), "once, at the planned size")
    window: WindowSummary = found.window
    table.add_row(*_fixed(f"last {window.hours} h", window.fixed_horizon), "once")
    looks = sequential.looks
    if looks:
        decisive = next((look for look in looks if look.crossed), looks[-1])
        table.add_row(
            f"sequential, look {decisive.number}/{sequential.looks_planned}",
            f"{decisive.difference:+.4f}",
            f"{decisive.low:+.4f} to {decisive.high:+.4f}",
            f"z {decisive.z:+.2f}, bound {decisive.bound:.2f}",
            "any time",
        )
    ratio = found.sample_ratio
    table.add_row(
        "sample ratio",
        "" if ratio.treatment_share is None else f"{ratio.treatment_share:.2%} treated",
        f"{ratio.expected_share:.2%} expected",
        f"p {ratio.anytime_p:.3g}{' MISMATCH' if ratio.mismatch else ''}",
        "any time",
    )
    return table


def _fixed(name: str, fixed: FixedHorizon) -> tuple[str, str, str, str]:
    if fixed.difference is None or fixed.low is None or fixed.high is None:
        return name, "", "", "an arm has no users yet"
    interval = f"{fixed.low:+.4f} to {fixed.high:+.4f}"
    return name, f"{fixed.difference:+.4f}", interval, f"z {fixed.z:+.2f}, p {fixed.p_value:.3g}"


def _guardrails(found: ExperimentSummary) -> Table:
    table = Table("guardrail", "control", "treatment", "difference at any time", "allowed", "state")
    for rail in found.guardrails:
        sign = "+" if rail.better == "lower" else "-"
        table.add_row(
            rail.metric,
            _percent(rail.control_rate),
            _percent(rail.treatment_rate),
            f"{rail.low:+.4f} to {rail.high:+.4f}",
            f"{sign}{rail.worst_difference:g}",
            f"[{_GUARDRAIL_COLOURS[rail.state]}]{rail.state}[/]",
        )
    return table


def _progress(found: ExperimentSummary) -> None:
    plan, out = found.plan, found.left_out
    following = found.sequential.next_look_users
    power = "" if plan.power_now is None else f", one test's power now {plan.power_now:.0%}"
    console.print(
        f"{plan.users:,} of {plan.users_needed:,} users for {plan.power:.0%} power at "
        f"{plan.minimal_effect:g}{power}"
        + ("" if following is None else f"; next look at {following:,}")
        + ("" if plan.expected_end is None else f"; expected end {plan.expected_end[:16]}Z"),
        highlight=False,
    )
    console.print(
        f"in follow-up {out.in_follow_up:,}, outside the design {out.outside_design:,}, answered "
        f"by both arms {out.switched:,}",
        highlight=False,
    )
    for line in found.verdict.evidence:
        console.print(f"- {line}", highlight=False, soft_wrap=True)


def _percent(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.2%}"
