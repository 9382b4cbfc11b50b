"""Drift between two files: the decision, and Evidently's page beside it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ibook_assets.core.errors import ContractError
from ibook_assets.core.monitoring import DriftDecision, drift_of
from ibook_assets.stores.window_files import read_window
from ibook_assets.training.drift_page import DriftPage, drift_page

DECISION: Final = "decision.json"
HTML: Final = "evidently.html"
JSON: Final = "evidently.json"


@dataclass(frozen=True, slots=True)
class FileDrift:
    """How far one file's rows are from another's."""

    decision: DriftDecision
    page: DriftPage | None
    """None when there are too few rows, or no column with values."""
    left_out: tuple[str, ...]
    """Columns that were not compared: in one file only, or of neither numbers nor texts."""


def compare_files(reference: Path, current: Path, *, without: Collection[str] = ()) -> FileDrift:
    """Compare the columns that both files have, except those of `without`.

    Rows count as independent draws, so the verdict is calibrated on rows drawn from the reference.

    Raises:
        ContractError: a file cannot be read, lacks a column of `without`, or both share none.
    """
    before, after = read_window(reference, without=without), read_window(current, without=without)
    shared = {name: kind for name, kind in before.kinds.items() if after.kinds.get(name) == kind}
    if not shared:
        msg = (
            f"{reference} and {current} have no column in common: {list(before.kinds)} and "
            f"{list(after.kinds)}"
        )
        raise ContractError(msg)
    seen = {*before.kinds, *after.kinds, *before.left_out, *after.left_out}
    return FileDrift(
        drift_of(before.columns, after.columns, shared),
        drift_page(before.columns, after.columns, shared),
        tuple(sorted(seen - set(shared))),
    )


def write_files(found: FileDrift, folder: Path) -> list[Path]:
    """Write the decision, and the page if there is one, to `folder`; the files.

    Without a page, that of an earlier comparison is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    contents = {DECISION: found.decision.model_dump_json(indent=1).encode()}
    if found.page is not None:
        contents |= {HTML: found.page.html, JSON: found.page.json}
    for name in {HTML, JSON} - contents.keys():
        (folder / name).unlink(missing_ok=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in contents]
