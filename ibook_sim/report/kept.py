"""Reports in the lake: one folder a run, and the figures of the latest to compare the next with.

```
reports/simulation/flash-sale/<run>/report.html   and report.json
reports/simulation/flash-sale/latest.json         figures of the run that ended last
```
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from ibook_assets.core.errors import NotFoundError
from ibook_assets.stores.blobs import Blobs
from ibook_sim.judging.findings import RunResult
from ibook_sim.report import read_summary, write_report

FOLDER: Final = "reports/simulation"
LATEST: Final = "latest.json"


@dataclass(frozen=True, slots=True)
class KeptReport:
    """A report that was stored."""

    page: str
    """Path or URI of the HTML page."""
    figures: str
    """Path or URI of the JSON document."""
    found: Mapping[str, Any]
    """That document."""
    previous: Mapping[str, Any] | None
    """Document of the scenario's run before, which the page compares it with."""


def keep_report(
    blobs: Blobs, result: RunResult, *, run: str, precommit: Callable[[], None] = lambda: None
) -> KeptReport:
    """Store the report of `result` as that of `run`, compared with the scenario's run before.

    Args:
        blobs: the lake's.
        result: what was run.
        run: name of the run; the same name replaces its report.
        precommit: called when the report is stored, just before it becomes the latest.

    Raises:
        ContractError: what is stored as the latest document is none.
    """
    scenario = f"{FOLDER}/{result.scenario.name}"
    page, figures = f"{scenario}/{run}/report.html", f"{scenario}/{run}/report.json"
    with TemporaryDirectory() as folder:
        previous = _latest(blobs, f"{scenario}/{LATEST}", Path(folder))
        written = Path(folder) / "report.html"
        document = write_report(result, written, previous=previous)
        blobs.put(page, written.read_bytes())
        blobs.put(figures, document.read_bytes())
        precommit()
        blobs.put(f"{scenario}/{LATEST}", document.read_bytes())
        found = read_summary(document)
    return KeptReport(blobs.location(page), blobs.location(figures), found, previous)


def _latest(blobs: Blobs, key: str, folder: Path) -> Mapping[str, Any] | None:
    try:
        stored = blobs.get(key)
    except NotFoundError:
        return None
    path = folder / LATEST
    path.write_bytes(stored)
    return read_summary(path)
