"""One console for every command, and errors that end a command with a clear message."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Final, NoReturn, ParamSpec, TypeVar

import typer
from pydantic import ValidationError
from rich.console import Console

from ibook_assets.core.errors import IbookError
from ibook_assets.core.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")

console: Final = Console()
errors: Final = Console(stderr=True)

EXIT_FAILED: Final = 1


def explains_errors(command: Callable[P, R]) -> Callable[P, R]:
    """A command whose deliberate errors end it with their message and exit code 1."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except IbookError as error:
            fail(str(error))
        except ValidationError as error:
            fail(_in_words(error))

    return wrapped


def _in_words(error: ValidationError) -> str:
    if error.title != Settings.__name__:
        return str(error)
    wrong = [
        f"{_variable(found['loc'])} is {found['input']!r}: {found['msg']}"
        if found["loc"]
        else found["msg"]
        for found in error.errors(include_url=False)
    ]
    return f"a setting is wrong: {'; '.join(wrong)}. `.env.example` lists all settings"


def _variable(location: tuple[int | str, ...]) -> str:
    name = str(location[0])
    # A field with names of its own is reported under the one that was read.
    return name if name.isupper() else f"IBOOK_{name.upper()}"


def fail(message: str) -> NoReturn:
    """Print `message` to standard error and end with code 1."""
    errors.print(f"[bold red]error[/]: {message}", highlight=False, soft_wrap=True)
    raise typer.Exit(EXIT_FAILED)


def print_json(value: object) -> None:
    """`value` as one JSON document on standard output."""
    typer.echo(json.dumps(value, indent=2, default=str))


def settings() -> Settings:
    """The settings of this process."""
    return Settings()
