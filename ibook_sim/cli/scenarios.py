"""Commands that list, check and run scenarios offline."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ibook_assets.core.errors import ContractError
from ibook_assets.core.settings import Settings
from ibook_sim.cli.console import interruptible, print_json, progress_bar, stderr, stdout
from ibook_sim.cli.telling import EXIT_BROKEN, EXIT_INTERRUPTED, told, verdict_of
from ibook_sim.durations import spelled
from ibook_sim.offline.planning import plan_of, seconds_asked
from ibook_sim.offline.running import RunPlan, planned
from ibook_sim.offline.running import run as run_plan
from ibook_sim.orders.placed import Scorer
from ibook_sim.orders.recordings import Recording, recording_in
from ibook_sim.report import read_summary, summary, write_report
from ibook_sim.scenarios import mixed, parse_weights, scenario, scenarios

Name = Annotated[str, typer.Argument(help="See list-scenarios.")]
Duration = Annotated[
    str | None, typer.Option(help="Minutes, or 90s, 10m: scales the orders. Default: its own.")
]
Seed = Annotated[int | None, typer.Option(min=0, help="Default: IBOOK_SIM_SEED.")]
Out = Annotated[
    Path | None,
    typer.Option("-o", "--out", dir_okay=False, help="HTML report; its figures beside it (.json)."),
]
Previous = Annotated[
    Path | None, typer.Option(exists=True, dir_okay=False, help="Compare with this run's .json.")
]
Model = Annotated[
    str | None,
    typer.Option(
        help="Who scores: champion, the promoted model, or a folder with a model's files. "
        "Default: the world's own row posterior."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be run, and run nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


def list_scenarios(*, as_json: Json = False) -> None:
    """List the scenarios."""
    if as_json:
        print_json([item.model_dump(mode="json") for item in scenarios().values()])
        return
    table = Table("scenario", "what happens")
    for item in scenarios().values():
        table.add_row(item.name, item.description)
    stdout.print(table)


def validate(
    names: Annotated[list[str] | None, typer.Argument(help="Default: all.")] = None,
) -> None:
    """Check that scenarios can be run: their types, worlds, traffic and parts."""
    for name in names or list(scenarios()):
        item = scenario(name)
        plan = planned(item, seed=0)
        of = " of recorded days" if item.recorded else ""
        length = spelled(plan.duration_seconds)
        stdout.print(f"{name}: sound, {plan.orders:,} orders{of} in {length}")


def run(
    name: Name,
    *,
    duration: Duration = None,
    seed: Seed = None,
    drift_level: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Default: the scenario's.")
    ] = None,
    drift_seed: Annotated[int | None, typer.Option(min=0, help="Seed of the coins.")] = None,
    drift_transactions: Annotated[
        int | None, typer.Option(min=100, max=5_000_000, help="Orders, instead of a duration.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(file_okay=False, help="For replay: what `world` wrote.")
    ] = None,
    day: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="For replay: its first day.")
    ] = None,
    days: Annotated[int | None, typer.Option(min=1, max=3_650, help="For replay.")] = None,
    model: Model = None,
    out: Out = None,
    previous: Previous = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Run one scenario offline and judge it; exit code 1 when an objective fails."""
    plan = plan_of(
        name,
        seed=_seed(seed),
        duration=duration,
        drift_level=drift_level,
        drift_seed=drift_seed,
        drift_transactions=drift_transactions,
        recording=_recording(folder, day, days),
    )
    _one(plan, model, out, previous, dry_run=dry_run, as_json=as_json)


def mix(
    weights: Annotated[
        str | None, typer.Option("--scenarios", help='"name:weight,name:weight". Default: mix.')
    ] = None,
    *,
    duration: Duration = None,
    seed: Seed = None,
    model: Model = None,
    out: Out = None,
    previous: Previous = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Run several scenarios at once, each with its weight of the orders."""
    item = mixed(parse_weights(weights)) if weights else scenario("mix")
    plan = planned(item, seed=_seed(seed), duration_seconds=seconds_asked(duration))
    _one(plan, model, out, previous, dry_run=dry_run, as_json=as_json)


def run_all(
    *,
    duration: Duration = None,
    seed: Seed = None,
    model: Model = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", file_okay=False, help="Folder of the reports.")
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Run every scenario offline; Ctrl-C keeps what has been run. Exit code 1 when one fails.

    A model is judged by the scenarios that have a history before their orders.
    """
    plans = [
        planned(item, seed=_seed(seed), duration_seconds=seconds_asked(duration))
        for item in scenarios().values()
        if not (model and item.recorded)
    ]
    if dry_run:
        _show_plans(plans, as_json=as_json)
        return
    scorer = _scorer(model)
    found: list[dict[str, Any]] = []
    orders = sum(plan.orders for plan in plans)
    with interruptible() as stopped, progress_bar("orders", orders, quiet=as_json) as advance:
        for plan in plans:
            result = run_plan(plan, scorer=scorer, advance=advance, stopped=stopped)
            if out:
                write_report(result, out / f"{plan.scenario.name}.html")
            found.append(summary(result))
            if stopped():
                break
    if as_json:
        print_json(found)
    else:
        _show(found, out)
    if stopped():
        whole = sum(not item["interrupted"] for item in found)
        stderr.print(f"interrupted: {whole} of {len(plans)} scenarios were run to their end")
        raise typer.Exit(EXIT_INTERRUPTED)
    if not all(item["passed"] for item in found):
        raise typer.Exit(EXIT_BROKEN)


def _one(
    plan: RunPlan,
    model: str | None,
    out: Path | None,
    previous: Path | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    if dry_run:
        _show_plans([plan], as_json=as_json)
        return
    scorer = _scorer(model)
    before = read_summary(previous) if previous else None
    with interruptible() as stopped, progress_bar("orders", plan.orders, quiet=as_json) as advance:
        result = run_plan(plan, scorer=scorer, advance=advance, stopped=stopped)
    told(result, out, before, as_json=as_json)


def _recording(folder: Path | None, day: datetime | None, days: int | None) -> Recording | None:
    if folder is not None:
        return recording_in(folder, day and day.date(), days)
    if day or days:
        msg = "--day and --days name recorded days; say with --folder where they are"
        raise ContractError(msg)
    return None


def _scorer(model: str | None) -> Scorer | None:
    if model is None:
        return None
    # A second of imports that a run without a model does not need.
    from ibook_sim.offline.scoring import model_scorer

    return model_scorer(model, Settings())


def _seed(seed: int | None) -> int:
    return Settings().sim_seed if seed is None else seed


def _show_plans(plans: list[RunPlan], *, as_json: bool) -> None:
    if as_json:
        print_json(
            [
                {
                    "scenario": plan.scenario.name,
                    "seed": plan.seed,
                    "duration_seconds": plan.duration_seconds,
                    "parts": {item.name: orders for item, orders in plan.parts},
                }
                for plan in plans
            ]
        )
        return
    table = Table("scenario", "seed", "length", "orders", "of")
    for plan in plans:
        parts = ", ".join(item.name for item, _ in plan.parts)
        length = spelled(plan.duration_seconds)
        table.add_row(plan.scenario.name, str(plan.seed), length, f"{plan.orders:,}", parts)
    stdout.print(table)


def _show(found: list[dict[str, Any]], out: Path | None) -> None:
    table = Table("scenario", "verdict", "broken", "orders")
    for item in found:
        broken = ", ".join(c["name"] for c in item["checks"] if not c["passed"])
        table.add_row(item["scenario"], verdict_of(item), broken, f"{item['orders']:,}")
    stdout.print(table)
    if out and found:
        stdout.print(f"reports: {out}")
