"""`ibook features`: what is computed, from what, and where it is defined."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from ibook_assets.cli.console import console, explains_errors, print_json
from ibook_assets.core.features.catalog import FEATURE_VIEWS, resolve, view

SOURCE = "ibook_assets/core/features/catalog.py"


@explains_errors
def features(
    name: Annotated[
        str | None, typer.Argument(help="A view, or `view:feature`; all views without it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """List feature views, the features of one view, or the definition of one feature."""
    if name is None:
        _views(as_json=as_json)
    elif ":" in name:
        found, feature = resolve(name)
        print_json({"view": found.name, "defined_in": SOURCE, **feature.definition()})
    else:
        _features(name, as_json=as_json)


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
