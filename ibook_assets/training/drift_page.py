"""Evidently's drift report of two windows: the page and the JSON people know."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from ibook_assets.core.monitoring import DRIFT_SCORE_THRESHOLD, Kind, Values
from ibook_assets.core.monitoring.columns import is_null
from ibook_assets.core.monitoring.decision import MIN_REFERENCE_ROWS
from ibook_assets.core.monitoring.distances import distance
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.drift_days import report_folder

SAMPLED_ROWS: Final = 5_000
"""Rows of each window that the report draws; a million would take minutes and a gigabyte."""


_METHODS: Final = {"wasserstein": "wasserstein", "jensen_shannon": "jensenshannon"}
"""Evidently's names of the rule's distances."""


@dataclass(frozen=True, slots=True)
class PageColumn:
    """What Evidently says of one column."""

    name: str
    method: str
    value: float
    """The distance."""
    threshold: float

    @property
    def drifted(self) -> bool:
        """Whether the distance reaches the threshold."""
        return self.value >= self.threshold


@dataclass(frozen=True, slots=True)
class DriftPage:
    """What Evidently made of two windows."""

    html: bytes
    json: bytes
    share: float
    """Its share of drifted columns."""
    columns: tuple[PageColumn, ...]
    """By descending distance."""
    left_out: tuple[str, ...]
    """Columns it cannot judge: without a finite value in one of the windows."""


def drift_page(
    reference: Mapping[str, Values],
    current: Mapping[str, Values],
    kinds: Mapping[str, Kind],
    *,
    seed: int = 0,
) -> DriftPage | None:
    """Evidently's report over samples of both windows; None when no column or few rows are left.

    An infinity would hide what else moved in its column, so infinities are drawn as nulls, which
    Evidently leaves out; the platform's own decision counts both.
    """
    rng = np.random.default_rng(seed)
    rows = {
        name: next(iter(w.values())).size if w else 0
        for name, w in (("reference", reference), ("current", current))
    }
    if rows["reference"] < MIN_REFERENCE_ROWS or not rows["current"]:
        return None
    before = _sample(reference, kinds, rng.permutation(rows["reference"])[:SAMPLED_ROWS])
    after = _sample(current, kinds, rng.permutation(rows["current"])[:SAMPLED_ROWS])
    kept = [name for name in kinds if _has_values(before[name]) and _has_values(after[name])]
    if not kept:
        return None
    left_out = tuple(name for name in kinds if name not in kept)
    return _drawn(
        {name: before[name] for name in kept},
        {name: after[name] for name in kept},
        kinds,
        left_out,
    )


def _sample(
    window: Mapping[str, Values], kinds: Mapping[str, Kind], rows: Values
) -> dict[str, Values]:
    sampled = {}
    for name, kind in kinds.items():
        values = window[name][rows]
        if kind == "numeric":
            values = values.astype(np.float64)
            values = np.where(np.isfinite(values), values, np.nan)
        sampled[name] = values
    return sampled


def _has_values(values: Values) -> bool:
    return not bool(is_null(values).all())


def _drawn(
    reference: Mapping[str, Values],
    current: Mapping[str, Values],
    kinds: Mapping[str, Kind],
    left_out: tuple[str, ...],
) -> DriftPage:
    # Left alone Evidently takes p-values for columns of up to 1,000 known reference rows, and a
    # column changes its rule from one day to the next.
    methods = {
        name: _METHODS[distance(reference[name], current[name], kinds[name]).method]
        for name in reference
    }
    # Evidently takes ten seconds to import: only who draws pays for it.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pandas as pd
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        definition = DataDefinition(
            numerical_columns=[name for name in reference if kinds[name] == "numeric"],
            categorical_columns=[name for name in reference if kinds[name] == "categorical"],
        )
        preset = DataDriftPreset(drift_share=DRIFT_SCORE_THRESHOLD, per_column_method=methods)
        report = Report([preset], include_tests=True)
        snapshot = report.run(
            Dataset.from_pandas(pd.DataFrame(current), definition),
            Dataset.from_pandas(pd.DataFrame(reference), definition),
        )
        with TemporaryDirectory() as folder:
            page = Path(folder) / "drift.html"
            snapshot.save_html(str(page))
            html = page.read_bytes()
        told = snapshot.dict()["metrics"]
        share = float(told[0]["value"]["share"])
        return DriftPage(html, snapshot.json().encode(), share, _columns(told[1:]), left_out)


def _columns(told: Sequence[Mapping[str, Any]]) -> tuple[PageColumn, ...]:
    found = [
        PageColumn(
            name=metric["config"]["column"],
            method=metric["config"]["method"],
            value=float(metric["value"]),
            threshold=float(metric["config"]["threshold"]),
        )
        for metric in told
    ]
    return tuple(sorted(found, key=lambda column: (-column.value, column.name)))


def store_page(blobs: Blobs, use_case: str, day: str, page: DriftPage) -> dict[str, str]:
    """Keep the report beside the day's drift record; the keys of its two files."""
    folder = report_folder(use_case, day)
    files = {"evidently_html": "evidently.html", "evidently_json": "evidently.json"}
    blobs.put(f"{folder}/{files['evidently_html']}", page.html)
    blobs.put(f"{folder}/{files['evidently_json']}", page.json)
    return {name: f"{folder}/{file}" for name, file in files.items()}
