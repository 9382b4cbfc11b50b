"""`realtime` and `replay`: load on a schedule against the scoring API, the log, or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ibook_assets.core.errors import ContractError
from ibook_assets.core.settings import Settings
from ibook_sim.cli.console import stderr, stdout
from ibook_sim.cli.telling import told
from ibook_sim.durations import seconds_of
from ibook_sim.orders.recordings import recording_in
from ibook_sim.realtime.driving import Watcher
from ibook_sim.realtime.events import OpenSink
from ibook_sim.realtime.findings import findings
from ibook_sim.realtime.load import Load, recorded, simulated
from ibook_sim.realtime.recording import Recording
from ibook_sim.realtime.running import Room, Run, run
from ibook_sim.report import read_summary
from ibook_sim.scenarios import scenario as scenario_called

_RECENT: Final = 1_000


Api = Annotated[
    str | None,
    typer.Option(envvar="API_BASE_URL", help="Scoring API. Without one, answers are synthetic."),
]
Log = Annotated[bool, typer.Option("--log", help="Send every order to the event log too.")]
Out = Annotated[
    Path | None,
    typer.Option("-o", "--out", dir_okay=False, help="HTML report; its figures beside it (.json)."),
]
Previous = Annotated[
    Path | None, typer.Option(exists=True, dir_okay=False, help="Compare with this run's .json.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Default: IBOOK_SIM_SEED.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Prepare everything, send nothing.")]


def realtime(
    context: typer.Context,
    scenario: Annotated[str, typer.Argument(help="See list-scenarios.")] = "normal-traffic",
    *,
    rps: Annotated[float, typer.Option(help="Mean requests a second.")] = 100.0,
    duration: Annotated[str, typer.Option(help="Seconds, or 90s, 10m.")] = "60",
    api: Api = None,
    log: Log = False,
    admitted: Annotated[
        int | None, typer.Option(min=1, help="A waiting room that lets in this many at a time.")
    ] = None,
    stay: Annotated[str, typer.Option(help="How long a visitor keeps the place.")] = "500ms",
    seed: Seed = None,
    dry_run: DryRun = False,
    out: Out = None,
    previous: Previous = None,
    as_json: Json = False,
) -> None:
    """Send orders on a schedule that waits for nobody; latency counts from when each was due."""
    load = simulated(
        scenario_called(scenario),
        seed=Settings().sim_seed if seed is None else seed,
        rps=rps,
        seconds=seconds_of(duration, bare="s"),
    )
    room = None if admitted is None else Room(admitted, seconds_of(stay, bare="s"))
    if dry_run:
        stdout.print(
            f"{load.rows.num_rows:,} orders are ready for {load.seconds:g} s; none was sent"
        )
        return
    before = read_summary(previous) if previous else None
    sinks = context.find_object(SinkOpener) if log else None
    done = _sent(load, api, room, _opener(sinks, asked=log), quiet=as_json)
    told(findings(done), out, before, as_json=as_json)


def replay(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(file_okay=False, help="What `world` wrote.")],
    day: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="First day.")],
    *,
    days: Annotated[int, typer.Option(min=1, max=3_650)] = 1,
    speed: Annotated[float, typer.Option(min=1e-3, help="60: an hour takes a minute.")] = 60.0,
    api: Api = None,
    log: Log = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the synthetic answers.")] = 7,
    out: Out = None,
    previous: Previous = None,
    as_json: Json = False,
) -> None:
    """Send recorded days as they were spread in time, only faster."""
    load = recorded(recording_in(folder, day.date(), days), speed=speed, seed=seed)
    before = read_summary(previous) if previous else None
    sinks = context.find_object(SinkOpener) if log else None
    done = _sent(load, api, None, _opener(sinks, asked=log), quiet=as_json)
    told(findings(done), out, before, as_json=as_json)


class SinkOpener:
    """The way into the log, put into the command's context by who knows one."""

    def __init__(self, open_sink: OpenSink) -> None:
        self.open_sink = open_sink


def _opener(found: SinkOpener | None, *, asked: bool) -> OpenSink | None:
    if asked and found is None:
        msg = "--log needs the platform's gateway: use `ibook sim …` instead of the module"
        raise ContractError(msg)
    return found.open_sink if found else None


def _sent(
    load: Load, api: str | None, room: Room | None, open_sink: OpenSink | None, *, quiet: bool
) -> Run:
    with ExitStack() as stack:
        sink = stack.enter_context(open_sink()) if open_sink else None
        watch = stack.enter_context(_progress(load, quiet=quiet))
        return asyncio.run(run(load, api=api or None, room=room, sink=sink, watch=watch))


@contextmanager
def _progress(load: Load, *, quiet: bool) -> Iterator[Watcher]:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[seen]}"))
    with Progress(*columns, TimeElapsedColumn(), console=stderr, disable=quiet) as progress:
        task = progress.add_task(load.name, total=load.seconds, seen="")

        def watch(recording: Recording, elapsed: float) -> None:
            recent = slice(max(0, recording.issued - _RECENT), recording.issued)
            taken = (recording.done - recording.due)[recent]
            taken = taken[~np.isnan(taken)]
            tail = f"p99 {np.quantile(taken, 0.99) * 1e3:.0f} ms" if taken.size else ""
            seen = f"{recording.issued:,} sent {tail}"
            progress.update(task, completed=min(elapsed, load.seconds), seen=seen)

        yield watch
