"""`ibook story`: what the platform does by itself, played from end to end on a world of its own."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ibook_assets.cli.console import explains_errors, print_json, settings

story = typer.Typer(no_args_is_help=True, help=__doc__)


@story.callback()
def stories() -> None:
    """Play a story: each starts from nothing, in a folder of its own, and says what came true."""


@story.command()
@explains_errors
def drift(
    level: Annotated[
        float, typer.Option(min=0.5, max=1.0, help="How far prices and fraud move.")
    ] = 0.7,
    rps: Annotated[
        float, typer.Option(min=60, max=1_000, help="Orders scored a second meanwhile.")
    ] = 100.0,
    stay: Annotated[
        bool | None,
        typer.Option(
            help="Leave Dagster and the server running until Ctrl-C. Default: on a terminal."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document at the end.")] = False,
) -> None:
    """Drift, retraining, rollout, and a harmful model that is taken back, while orders are scored.

    Nothing drifts: nothing fires. The world drifts: the sensor trains, the gate judges, the model
    goes from shadow over canary to champion. Then a harmful model becomes a canary and is rolled
    back. Ends with code 1 when any of it does not come true, or a scoring request failed.
    """
    from ibook_assets.cli.story.drift import play

    told = play(
        settings(),
        level=level,
        rps=rps,
        stay=(sys.stdout.isatty() and not as_json) if stay is None else stay,
        quiet=as_json,
    )
    if as_json:
        print_json(told)
