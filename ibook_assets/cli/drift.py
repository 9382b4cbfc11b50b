"""`ibook drift`: how far the rows of one file have drifted from those of another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ibook_assets.cli.console import EXIT_FAILED, console, explains_errors, print_json, settings
from ibook_assets.core.monitoring import ColumnDrift, DriftDecision

drift = typer.Typer(no_args_is_help=True, help=__doc__)


@drift.callback()
def _commands() -> None:
    # With a callback the one command keeps its name.
    """How far the rows of one file have drifted from those of another."""


@drift.command("report")
@explains_errors
def report(
    reference: Annotated[
        Path | None, typer.Option(help="CSV or Parquet; DRIFT_REFERENCE_PATH without it.")
    ] = None,
    current: Annotated[
        Path | None, typer.Option(help="CSV or Parquet; DRIFT_CURRENT_PATH without it.")
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the report.")] = Path(
        "reports/drift"
    ),
    without: Annotated[
        list[str] | None, typer.Option(help="A column to leave out, such as an id; repeatable.")
    ] = None,
    fail_on_drift: Annotated[
        bool, typer.Option("--fail-on-drift", help="Exit code 1 when the verdict is `drifted`.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Compare two files: the calibrated verdict, the 0.30 score, Evidently's HTML and JSON."""
    from ibook_assets.training.file_drift import compare_files, write_files

    config = settings()
    found = compare_files(
        reference or config.drift_reference_path,
        current or config.drift_current_path,
        without=without or (),
    )
    files = write_files(found, out)
    decision = found.decision
    if as_json:
        print_json(
            {
                **decision.model_dump(mode="json"),
                "score_fires": decision.score_fires,
                "left_out": found.left_out,
                "files": [str(file) for file in files],
            }
        )
    else:
        _show(decision, found.left_out, files)
    if fail_on_drift and decision.drifted:
        raise typer.Exit(EXIT_FAILED)


def _show(decision: DriftDecision, left_out: tuple[str, ...], files: list[Path]) -> None:
    if decision.statistic is None or decision.threshold is None or decision.score is None:
        console.print(f"[bold]insufficient data[/]: {decision.reason}", highlight=False)
    else:
        colour = "red" if decision.drifted else "green"
        fires = "fires" if decision.score_fires else "does not fire"
        console.print(
            f"[bold {colour}]{decision.state}[/]: largest deviation {decision.statistic:.1f} "
            f"standard deviations, threshold {decision.threshold:.1f} (false alarms "
            f"{decision.false_alarm_rate:.0%})\nscore {decision.score:.2f}, which at "
            f"{decision.score_threshold:.2f} {fires}; by the distance rule alone "
            f"{decision.distance_share:.2f}",
            highlight=False,
        )
        console.print(_columns(decision.columns))
    if left_out:
        console.print(f"not compared: {', '.join(left_out)}", highlight=False)
    for file in files:
        console.print(str(file), highlight=False, soft_wrap=True)


def _columns(columns: tuple[ColumnDrift, ...]) -> Table:
    table = Table("column", "kind", "deviation", "drifted", "distance", "nulls before", "now")
    for column in columns:
        table.add_row(
            column.name,
            column.kind,
            f"{column.deviation:.1f}",
            "yes" if column.drifted else "",
            "" if column.distance is None else f"{column.distance:.3f}",
            f"{column.reference_nulls:.1%}",
            f"{column.current_nulls:.1%}",
        )
    return table
