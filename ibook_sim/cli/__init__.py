"""The simulator's command line: write days, write the seed data set, describe a world."""

from __future__ import annotations

import typer

from ibook_sim.cli import realtime, scenarios, worlds
from ibook_sim.cli.console import explains_errors

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
app.command("list-scenarios")(explains_errors(scenarios.list_scenarios))
app.command("validate")(explains_errors(scenarios.validate))
app.command("run")(explains_errors(scenarios.run))
app.command("run-all")(explains_errors(scenarios.run_all))
app.command("mix")(explains_errors(scenarios.mix))
app.command("realtime")(explains_errors(realtime.realtime))
app.command("replay")(explains_errors(realtime.replay))
app.command("world")(explains_errors(worlds.world))
app.command("seed-data")(explains_errors(worlds.seed_data))
app.command("describe")(explains_errors(worlds.describe))
app.command("plots")(explains_errors(worlds.plots))
