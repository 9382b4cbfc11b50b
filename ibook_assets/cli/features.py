"""`ibook features`: what is computed, from what, where it is defined, and what it is now."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final

import typer
from rich.table import Table

from ibook_assets.cli.console import console, explains_errors, fail, print_json
from ibook_assets.core.errors import ContractError
from ibook_assets.core.features.catalog import FEATURE_VIEWS, resolve, view
from ibook_assets.core.features.requests import Request, RequestValue
from ibook_assets.core.times import from_us, to_us

GET: Final = "get"
SOURCE: Final = "ibook_assets/core/features/catalog.py"


@explains_errors
def features(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME] | get NAME...",
            help="A view, or `view:feature`; all views without it. After `get`: what to compute.",
        ),
    ] = None,
    row: Annotated[
        list[str] | None,
        typer.Option(help="With `get`: an order, `user_id=5,event_id=7`; may be repeated."),
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(help="With `get`: where windows end, ISO 8601 or microseconds (UTC)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """List feature views, features or a definition; `get` asks the online store for values."""
    first, more = (names[0], names[1:]) if names else (None, [])
    if first == GET:
        _get([n for name in more if name for n in _expanded(name)], row, as_of, as_json=as_json)
    elif more or row or as_of:
        fail(f"only `ibook features {GET} NAME... --row …` takes several names, rows or a time")
    elif first is None:
        _views(as_json=as_json)
    elif ":" in first:
        found, feature = resolve(first)
        print_json({"view": found.name, "defined_in": SOURCE, **feature.definition()})
    else:
        _features(first, as_json=as_json)


def _expanded(name: str) -> Sequence[str]:
    return [name] if ":" in name else view(name).qualified_names


def _get(names: list[str], rows: list[str] | None, as_of: str | None, *, as_json: bool) -> None:
    if not names or not rows:
        fail(f"give features and rows: `ibook features {GET} user_risk --row user_id=5,event_id=7`")
    from ibook_assets.stores.online import fetch_online_features

    requests = [_request(text) for text in rows]
    found = fetch_online_features(names, requests, as_of_us=_moment(as_of))
    answer = {
        "as_of": from_us(found.as_of_us).isoformat(),
        "read": found.snapshot_id,
        "degraded": found.degraded,
        "rows": [
            {
                "row": text,
                "unknown": unknown,
                "features": {
                    name: None if math.isnan(value) else value
                    for name, value in zip(names, values, strict=True)
                },
            }
            for text, unknown, values in zip(
                rows, found.unknown, found.values.tolist(), strict=True
            )
        ],
    }
    if as_json:
        print_json(answer)
        return
    title = f"as of {answer['as_of']}, read from {found.snapshot_id or 'the rows alone'}"
    if found.degraded:
        title += f"\n[yellow]degraded: {', '.join(found.degraded)}[/]"
    table = Table("feature", *rows, title=title, title_justify="left")
    for name, values in zip(names, found.values.T.tolist(), strict=True):
        table.add_row(name, *(f"{value:g}" for value in values))
    table.add_section()
    table.add_row("unknown entities", *(", ".join(u) or "none" for u in found.unknown))
    console.print(table)


def _request(text: str) -> Request:
    """`user_id=5,tier=vip,avs_match=true` as a request."""
    request: dict[str, RequestValue] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if not equals:
            msg = f"row {text!r}: {part!r} is not `column=value`, as in `user_id=5,event_id=7`"
            raise ContractError(msg)
        request[name] = _value(name, value)
    return request


def _value(name: str, value: str) -> RequestValue:
    # Identifiers stay text: it names the same entity, and leading zeros belong to it.
    if name.endswith("_id"):
        return value
    if value in {"true", "false"}:
        return value == "true"
    return int(value) if value.removeprefix("-").isdecimal() else value


def _moment(text: str | None) -> int | None:
    if text is None or text.isdecimal():
        return None if text is None else int(text)
    try:
        return to_us(datetime.fromisoformat(text))
    except ValueError as error:
        msg = f"time {text!r} is neither microseconds nor ISO 8601 with a zone: {error}"
        raise ContractError(msg) from error


def _views(*, as_json: bool) -> None:
    rows = [
        {"view": v.name, "entity": v.entity or "order", "features": len(v.feature_names)}
        | {"version": v.spec_hash[:16], "description": v.description}
        for v in FEATURE_VIEWS
    ]
    _print(f"feature views, defined in {SOURCE}", rows, as_json=as_json)


def _features(name: str, *, as_json: bool) -> None:
    rows: list[dict[str, object]] = [
        {"feature": f"{name}:{f.name}", "unit": f.unit, "description": f.description}
        for f in view(name).emitted
    ]
    _print(f"{name}, defined in {SOURCE}", rows, as_json=as_json)


def _print(title: str, rows: list[dict[str, object]], *, as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    table = Table(*rows[0], title=title, title_justify="left")
    for row in rows:
        table.add_row(*map(str, row.values()))
    console.print(table)
