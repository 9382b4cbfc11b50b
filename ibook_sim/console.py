"""What the simulator's commands print with: one console for answers, one for everything else."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

stdout: Final = Console()
stderr: Final = Console(stderr=True)


@contextmanager
def progress_bar(what: str, total: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar of `total` steps; what it yields takes how many were done since."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=stderr, disable=quiet) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.advance(task, done)


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """What it yields says whether Ctrl-C was pressed; pressed again, it ends the process."""
    asked = threading.Event()
    before = signal.getsignal(signal.SIGINT)

    def note(*_: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)
        stderr.print("ending with what has been played; Ctrl-C again ends at once")

    signal.signal(signal.SIGINT, note)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def print_json(value: object) -> None:
    """`value` as one JSON document on standard output."""
    typer.echo(json.dumps(value, indent=2, default=str))
