"""`ibook`: the platform's command line."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ibook_assets.cli import backtest, features, promotions, tracing
from ibook_assets.cli.alerts import alerts
from ibook_assets.cli.console import console, explains_errors, settings
from ibook_assets.cli.drift import drift
from ibook_assets.cli.experiment import experiment
from ibook_assets.cli.rollout import rollout
from ibook_assets.cli.sim import with_gateway
from ibook_assets.cli.story import story
from ibook_assets.cli.stream import stream
from ibook_sim.cli import app as simulator

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
app.command("promote")(promotions.promote)
app.command("withdraw")(promotions.withdraw)
app.command("rollback")(promotions.rollback)
app.command("history")(promotions.history)
app.command("card")(promotions.card)
app.command("backtest")(backtest.backtest)
app.command("features")(features.features)
app.command("trace")(tracing.trace)
app.command("replay")(tracing.replay)
app.command("lineage")(tracing.lineage)
app.add_typer(alerts, name="alerts")
app.add_typer(drift, name="drift")
app.add_typer(experiment, name="experiment")
app.add_typer(rollout, name="rollout")
app.add_typer(story, name="story")
app.add_typer(stream, name="stream")
app.add_typer(simulator, name="sim", callback=with_gateway)


@app.command()
@explains_errors
def demo(
    days: Annotated[
        int, typer.Option(min=60, max=400, help="Days to simulate and materialise.")
    ] = 120,
    stay: Annotated[
        bool | None,
        typer.Option(help="Keep serving until Ctrl-C. Default: only on a terminal."),
    ] = None,
) -> None:
    """Simulate orders, materialise the graph, promote a model, serve it, score one order."""
    from ibook_assets.cli.demo import run

    run(settings(), days=days, stay=sys.stdout.isatty() if stay is None else stay)


@app.command()
@explains_errors
def mlflow(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
) -> None:
    """Serve the MLflow UI over the platform's tracking store."""
    import subprocess

    from ibook_assets.cli.local_servers import mlflow_command

    console.print(f"http://127.0.0.1:{port}")
    raise typer.Exit(subprocess.run(mlflow_command(settings(), port), check=False).returncode)
