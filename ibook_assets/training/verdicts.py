"""What people look at after a model was judged: figures, a page, a record, kept in the lake."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ibook_assets.core.use_cases import UseCase
from ibook_assets.stores.blobs import Blobs
from ibook_assets.training.pipeline import Verdict
from ibook_assets.training.reports import all_figures, html_report


@dataclass(frozen=True, slots=True)
class StoredVerdict:
    """Where the report lies, and what it shows."""

    report: str
    """Path or URI of the HTML page."""
    figures: Mapping[str, bytes]
    """PNG files by name."""
    page: str


def verdict_key(use_case: str, version: str) -> str:
    """Where the record of a model's evaluation and gate lies in the lake."""
    return f"{_folder(use_case, version)}/evaluation.json"


def store_verdict(blobs: Blobs, use_case: UseCase, verdict: Verdict) -> StoredVerdict:
    """Draw the figures and keep page and record under `reports/<use case>/<version>/`."""
    drawn = all_figures(
        verdict.evaluation, verdict.bundle, verdict.examples, use_case, oracle=verdict.oracle
    )
    page = html_report(verdict.evaluation, verdict.bundle, drawn, gate=verdict.gate)
    version = verdict.bundle.version
    folder = _folder(use_case.name, version)
    record = {"evaluation": verdict.evaluation.as_dict(), "gate": verdict.gate.as_dict()}
    blobs.put(f"{folder}/evaluation.html", page.encode())
    data = json.dumps(record, indent=1, sort_keys=True).encode()
    blobs.put(verdict_key(use_case.name, version), data)
    return StoredVerdict(blobs.location(f"{folder}/evaluation.html"), drawn, page)


def _folder(use_case: str, version: str) -> str:
    return f"reports/{use_case}/{version}"
