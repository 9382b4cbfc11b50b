"""Our engine over the benchmark's files."""

from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bench.measured import measure
from bench.orders import generate
from bench.views import VIEWS
from ibook_assets.core.features.engine import (
    compute_view,
    query_columns,
    required_columns,
    required_sources,
)
from ibook_assets.core.features.spec import FeatureView


def compute(view: FeatureView, data: Path) -> pa.Table:
    """The features of `view` for every order in `data`."""
    sources = {}
    needed = set(query_columns(view))
    for name in dict.fromkeys([*required_sources(view), "transactions"]):
        path = data / f"{name}.parquet"
        columns = set(required_columns(view, name)) | (needed if name == "transactions" else set())
        present = [c for c in pq.read_schema(path).names if c in columns]
        sources[name] = pq.read_table(path, columns=present)
    return compute_view(view, sources, sources["transactions"])


def main() -> None:
    """Measure one view."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("view", choices=VIEWS)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cold", action="store_true", help="count compilation in")
    asked = parser.parse_args()
    view = VIEWS[asked.view]
    if not asked.cold:
        small = generate(1_000)
        compute_view(view, small, small["transactions"])
    measure(lambda: compute(view, asked.data), contender="ibook", what=view.name, out=asked.out)


if __name__ == "__main__":
    main()
