"""Commands that write a world's days, describe it, draw it, and write the seed data set."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table

from ibook_assets.core.settings import Settings
from ibook_sim.cli.console import print_json, progress_bar, stdout
from ibook_sim.datasets import seed_data as seeds
from ibook_sim.datasets.export import write_catalogue, write_days, write_truth
from ibook_sim.describe import Description
from ibook_sim.describe import describe as describe_world
from ibook_sim.plots import draw
from ibook_sim.plots.sample import DAYS as PLOTTED_DAYS
from ibook_sim.world import World, WorldConfig, days_from

MAX_DAYS: Final = 3_650

Days = Annotated[int, typer.Option(min=1, max=MAX_DAYS, help="Days from the start date on.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Default: IBOOK_SIM_SEED.")]
Start = Annotated[
    datetime | None,
    typer.Option(formats=["%Y-%m-%d"], help="First day. Default: IBOOK_START_DATE."),
]
Users = Annotated[int | None, typer.Option(help="Living accounts. Default: IBOOK_SIM_USERS.")]
Events = Annotated[
    int | None, typer.Option(help="Events on sale in any 90 days. Default: IBOOK_SIM_EVENTS.")
]
Orders = Annotated[
    float | None, typer.Option(help="Expected orders a day. Default: IBOOK_SIM_ORDERS_PER_DAY.")
]
Out = Annotated[Path, typer.Option(file_okay=False, help="Folder to write to.")]


def world(
    days: Days,
    out: Out,
    *,
    seed: Seed = None,
    start: Start = None,
    users: Users = None,
    events: Events = None,
    orders_per_day: Orders = None,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Processes that write.")] = 1,
    truth: Annotated[bool, typer.Option(help="Write the ground truth too, under truth/.")] = True,
    as_json: Json = False,
) -> None:
    """Write the tables of DAYS days as Parquet: OUT/<table>/dt=YYYY-MM-DD/part.parquet."""
    config = _config(seed, start, users=users, events=events, orders_per_day=orders_per_day)
    dates = days_from(config.start_date, days)
    with progress_bar("days written", days, quiet=as_json) as advance:
        rows = dict(write_days(config, dates, out, processes=processes, advance=advance))
    simulated = World(config)
    rows |= write_catalogue(simulated, dates[-1], out)
    if truth:
        rows["truth"] = write_truth(simulated, dates, out)
    if as_json:
        print_json({"out": str(out), "first": dates[0], "last": dates[-1], "rows": rows})
        return
    table = Table(title=f"{dates[0]} to {dates[-1]} in {out}")
    table.add_column("table")
    table.add_column("rows", justify="right")
    for name, count in rows.items():
        table.add_row(name, f"{count:,}")
    stdout.print(table)


def seed_data(
    out: Out = Path("data"),
    *,
    seed: Annotated[int, typer.Option(min=0)] = 7,
    as_json: Json = False,
) -> None:
    """Write the reference data set: 10,000 orders, 100 events, 1,000 accounts, 3 % fraud."""
    with progress_bar("seed data", 1, quiet=as_json) as advance:
        data = seeds.seed_data(seed)
        paths = seeds.write_seed_data(data, out)
        advance(1)
    rows = {name: table.num_rows for name, table in data.items()}
    if as_json:
        print_json({name: {"path": str(paths[name]), "rows": rows[name]} for name in rows})
        return
    table = Table("table", "path", title=f"Seed data set (seed {seed})")
    table.add_column("rows", justify="right")
    for name, count in rows.items():
        table.add_row(name, str(paths[name]), f"{count:,}")
    stdout.print(table)


def describe(
    *,
    days: Days = 60,
    seed: Seed = None,
    start: Start = None,
    users: Users = None,
    events: Events = None,
    orders_per_day: Orders = None,
    as_json: Json = False,
) -> None:
    """Show what the first DAYS days look like, and the best a fraud model can do on them."""
    config = _config(seed, start, users=users, events=events, orders_per_day=orders_per_day)
    with progress_bar("days", days, quiet=as_json) as advance:
        description = describe_world(config, days, advance=advance)
    if as_json:
        print_json(description.as_dict())
        return
    stdout.print(_summary(config, description))


def plots(out: Out, *, as_json: Json = False) -> None:
    """Draw what the world looks like: OUT/world-<name>.svg, the pictures of docs/world.md."""
    with progress_bar("days played", PLOTTED_DAYS, quiet=as_json) as advance:
        paths = draw(out, advance=advance)
    if as_json:
        print_json({"plots": [str(path) for path in paths]})
        return
    for path in paths:
        stdout.print(str(path))


def _summary(config: WorldConfig, seen: Description) -> Table:
    table = Table(title=f"World of seed {config.seed}: {seen.days} days from {seen.first_day}")
    table.add_column("")
    table.add_column("", justify="right")
    low, high = seen.orders_per_day_min, seen.orders_per_day_max
    for name, value in (
        ("orders", f"{seen.orders:,}"),
        ("orders a day", f"{seen.orders / seen.days:,.0f} ({low:,} to {high:,})"),
        ("tickets", f"{seen.tickets:,}"),
        ("revenue", f"{seen.revenue_cents / 100:,.2f}"),
        ("accounts that ordered", f"{seen.accounts_ordering:,}"),
        ("events on sale", f"{seen.events_on_sale:,}"),
        *((f"orders: {k}", f"{n:,}") for k, n in seen.orders_by_category.items()),
        ("fraudulent orders", f"{seen.fraud_orders:,} ({seen.fraud_share:.2%})"),
        *(
            (k.replace("_", " "), f"{n:,} ({n / max(seen.fraud_orders, 1):.0%})")
            for k, n in seen.fraud_by_archetype.items()
        ),
        ("oracle average precision", f"{seen.oracle_average_precision:.3f}"),
        ("the same from a row alone", f"{seen.row_average_precision:.3f}"),
    ):
        table.add_row(name, value)
    return table


def _config(seed: int | None, start: datetime | None, **sizes: float | None) -> WorldConfig:
    """The settings' world with what the command line overrides, validated together."""
    values = WorldConfig.from_settings(Settings()).model_dump()
    given = {"seed": seed, "start_date": start.date() if start else None, **sizes}
    return WorldConfig.model_validate(values | {k: v for k, v in given.items() if v is not None})
