"""What every command shares: a console for answers, one for the rest, Ctrl-C, errors explained."""

from __future__ import annotations

import functools
import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, ParamSpec, TypeVar

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ibook_assets.core.errors import IbookError

P = ParamSpec("P")
R = TypeVar("R")

stdout: Final = Console()
stderr: Final = Console(stderr=True)


def explains_errors(command: Callable[P, R]) -> Callable[P, R]:
    """A command whose bad input ends it with one clear message and code 2."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'world'}: {e['msg']}" for e in error.errors()
            )
            message = f"the world cannot be made: {problems}"
        except (IbookError, OSError) as error:
            message = str(error)
        stderr.print(f"[bold red]error[/]: {message}", highlight=False, soft_wrap=True)
        raise typer.Exit(2)

    return wrapped


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
