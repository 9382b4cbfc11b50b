"""What a run has to say: one JSON document, and one self-contained HTML page made of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ibook_sim.judging.findings import RunResult
from ibook_sim.report.document import read_summary, summary
from ibook_sim.report.page import rendered

__all__ = ["page", "read_summary", "summary", "write_report"]


def write_report(
    result: RunResult, path: Path, *, previous: Mapping[str, Any] | None = None
) -> Path:
    """Write the page to `path` and the document beside it (`.json`); returns the latter's path.

    When `path` is the document's, the page is what stands beside it (`.html`).
    """
    found = summary(result)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".json")
    shown = path.with_suffix(".html") if path == beside else path
    shown.write_text(rendered(found, previous=previous), encoding="utf-8")
    beside.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return beside


def page(result: RunResult, *, previous: Mapping[str, Any] | None = None) -> str:
    """The run as one HTML page that needs nothing else."""
    return rendered(summary(result), previous=previous)
