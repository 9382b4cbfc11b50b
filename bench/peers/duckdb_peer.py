"""DuckDB's windows over the benchmark's files, from the same specs."""

from __future__ import annotations

import argparse
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from bench.measured import measure
from bench.views import VIEWS
from ibook_assets.core.features.spec import FeatureView
from ibook_assets.core.features.sql import window_sql


def compute(view: FeatureView, data: Path) -> pa.Table:
    """The features of `view` for every order in `data`."""
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET threads = 1")
        columns = {}
        for path in sorted(data.glob("*.parquet")):
            connection.execute(f"CREATE VIEW {path.stem} AS FROM read_parquet('{path}')")
            columns[path.stem] = pq.read_schema(path).names
        connection.execute(
            "CREATE VIEW queries AS SELECT *, transaction_id AS query_row FROM transactions"
        )
        columns["queries"] = columns["transactions"]
        found: pa.Table = connection.sql(window_sql(view, columns)).to_arrow_table()
        return found


def main() -> None:
    """Measure one view."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("view", choices=VIEWS)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    view = VIEWS[asked.view]
    measure(
        lambda: compute(view, asked.data), contender="DuckDB SQL", what=view.name, out=asked.out
    )


if __name__ == "__main__":
    main()
