"""How a command ends that has run something: the report, the figures, and the exit code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import typer
from rich.table import Table

from ibook_sim.cli.console import print_json, stderr, stdout
from ibook_sim.judging.findings import RunResult
from ibook_sim.report import summary, write_report
from ibook_sim.report.objectives import number
from ibook_sim.report.page import verdict

EXIT_BROKEN: Final = 1
"""Exit code when an objective fails."""
EXIT_INTERRUPTED: Final = 130

_COLOURS: Final = {"passed": "green", "interrupted": "yellow"}


def told(
    result: RunResult, out: Path | None, previous: Mapping[str, Any] | None, *, as_json: bool
) -> None:
    """Write the report to `out`, print what was found, and end with the code it deserves.

    Raises:
        Exit: the run was interrupted, or an objective fails.
    """
    found = summary(result)
    if out:
        write_report(result, out, previous=previous)
    if as_json:
        print_json(found)
    else:
        _show(found, previous)
        if out:
            stdout.print(f"report: {out}")
    if verdict(found) == "invalid":
        stderr.print(
            f"[bold red]invalid[/]: {found['realtime']['rate_share']:.1%} of the asked rate was "
            "sent, at least 99 % must be: these figures are the generator's. Lower --rps."
        )
    if found["interrupted"]:
        stderr.print(f"interrupted: {found['orders']:,} orders were played")
        raise typer.Exit(EXIT_INTERRUPTED)
    if not found["passed"]:
        raise typer.Exit(EXIT_BROKEN)


def verdict_of(found: Mapping[str, Any]) -> str:
    """The verdict in a word, coloured."""
    word = verdict(found)
    return f"[{_COLOURS.get(word, 'red')}]{word}[/]"


def _show(found: Mapping[str, Any], before: Mapping[str, Any] | None) -> None:
    past = {c["name"]: c["value"] for c in before["checks"]} if before else {}
    table = Table(title=f"{found['scenario']}, seed {found['seed']}: {verdict_of(found)}")
    for name in ("objective", "value", "limit", *(["previous"] if before else []), ""):
        table.add_column(name)
    for check in found["checks"]:
        row = [check["name"], number(check["value"]), f"{check['sense']} {check['limit']:,.4g}"]
        if before:
            row.append(number(past.get(check["name"])))
        table.add_row(*row, "[green]passed[/]" if check["passed"] else "[red]failed[/]")
    stdout.print(table)
    if found["realtime"] is None:
        stdout.print(f"scores: {found['scorer']}; latency: imagined service, not measured")
        return
    stdout.print(_pace(found["realtime"]))
    stdout.print(f"scores: {found['scorer']}; latency: from when each request was due")


def _pace(figures: Mapping[str, Any]) -> Table:
    table = Table("", "", show_header=False, title=f"{figures['scenario']} → {figures['target']}")
    for name, value in figures.items():
        if isinstance(value, dict):
            shown = ", ".join(f"{key} {item}" for key, item in value.items())
        else:
            shown = str(value)
        table.add_row(name.replace("_", " "), shown)
    return table
