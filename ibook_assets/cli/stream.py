"""`ibook stream …`: the parts of the stream as services, and looking at how they do."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer
from rich.table import Table

from ibook_assets.cli import stream_parts as parts
from ibook_assets.cli.console import console, explains_errors, print_json, settings
from ibook_assets.core.times import day_start_us, from_us

stream = typer.Typer(no_args_is_help=True, help="The event log: sink, worker, probe, replay.")


@stream.command()
@explains_errors
def topics() -> None:
    """Create the topics that do not exist."""
    config = settings()
    parts.create_topics(config)
    console.print(f"topics are there at {config.kafka_bootstrap}")


@stream.command()
@explains_errors
def sink() -> None:
    """Land every message of the log in the lake, exactly once, until it is ended."""
    parts.serve(settings(), "sink")


@stream.command()
@explains_errors
def worker() -> None:
    """Keep the live online store level with the log until it is ended."""
    parts.serve(settings(), "worker")


@stream.command()
@explains_errors
def probe() -> None:
    """Log the online features of orders, for the check against batch, until it is ended."""
    parts.serve(settings(), "probe")


@stream.command()
@explains_errors
def up() -> None:
    """Sink, worker and probe in one process, and a development broker where none listens."""
    config = settings()
    with parts.broker_if_none_listens(config):
        parts.serve(config, *parts.PARTS)


@stream.command()
@explains_errors
def backfill() -> None:
    """Fill the live online store anew from the facts in the lake, then swap it in."""
    config = settings()
    with console.status("reading facts"):
        base_us = parts.backfill_store(config)
    console.print(f"{config.live_store} holds everything known before {_iso(base_us)}")


@stream.command()
@explains_errors
def replay(
    day: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="Day to replay.")],
    seconds: Annotated[float, typer.Option(min=1, help="How long to take.")] = 60.0,
) -> None:
    """Send a day of the source through a gateway, as if it happened from that midnight on, now."""
    from ibook_assets.streaming.running import stopped_by_signals

    clock = parts.clock_from(day_start_us(day.date()))
    with stopped_by_signals() as stop:
        sent = parts.replay_day(settings(), day.date(), clock=clock, seconds=seconds, stop=stop)
    console.print(f"{sent:,} events sent")


@stream.command()
@explains_errors
def status(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """How far the lake and the live store are behind the log, partition by partition."""
    config = settings()
    found = parts.standing_of(config)
    if as_json:
        print_json(found.as_dict())
        return
    table = Table("topic", "partition", "in the log", "landed", "applied", "known before", box=None)
    for row in found.partitions:
        applied = ("", "") if row.applied_us is None else (str(row.applied), _iso(row.applied_us))
        table.add_row(row.topic, str(row.partition), str(row.end), str(row.landed), *applied)
    console.print(table)
    console.print(f"{config.live_store} holds everything known before {_iso(found.watermark_us)}")


def _iso(timestamp_us: int) -> str:
    return from_us(timestamp_us).isoformat(timespec="milliseconds").replace("+00:00", "Z")
