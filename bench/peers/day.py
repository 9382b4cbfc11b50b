"""The newest day's features from a lake of days: our increment, or DuckDB's windows over it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from bench.measured import measure
from bench.views import VIEWS
from ibook_assets.core.facts import ENTITY_COLUMNS
from ibook_assets.core.features.engine import required_sources
from ibook_assets.core.features.spec import FeatureView
from ibook_assets.core.features.sql import window_sql
from ibook_assets.core.times import DAY_US
from ibook_assets.stores.feature_days import feature_days
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.local_blobs import LocalBlobs
from ibook_assets.stores.lookback import lookback_days


def ours(view: FeatureView, lake: Lake, day: str) -> pa.Table:
    """What the feature asset computes."""
    ((_, values),) = feature_days(lake, view, [day])
    return values


def sql(view: FeatureView, lake: Lake, day: str, *, semi_join: bool) -> pa.Table:
    """The same by RANGE windows over the look-back; with `semi_join`, of the day's keys only."""
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET threads = 1")
        columns = {}
        asked = lake.paths("facts/transactions", [day])
        key = f"{ENTITY_COLUMNS[view.entity or 'user']}"
        for source in {*required_sources(view), "transactions"}:
            reach = source if source in required_sources(view) else required_sources(view)[0]
            first, _ = lookback_days(view, reach, day)
            days = [d for d in lake.partitions(f"facts/{source}") if first <= d <= day]
            if source not in required_sources(view):
                days = [day]
            paths = lake.paths(f"facts/{source}", days)
            keep = f" WHERE {key} IN (SELECT {key} FROM read_parquet({asked}))" if semi_join else ""
            connection.execute(f"CREATE VIEW {source} AS FROM read_parquet({paths}){keep}")
            columns[source] = pq.read_schema(paths[0]).names
        connection.execute(
            "CREATE VIEW queries AS SELECT *, transaction_id AS query_row FROM transactions"
        )
        columns["queries"] = columns["transactions"]
        start = pq.read_table(asked[0], columns=["known_ts"])["known_ts"][0].as_py() // DAY_US
        text = f"FROM ({window_sql(view, columns)}) WHERE known_ts >= {start * DAY_US}"
        found: pa.Table = connection.sql(text).to_arrow_table()
        return found


def main() -> None:
    """Measure one contender on one view."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contender", choices=["ibook", "sql", "sql-semi-join"])
    parser.add_argument("view", choices=VIEWS)
    parser.add_argument("lake", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    view, lake = VIEWS[asked.view], Lake(LocalBlobs(asked.lake))
    days = lake.partitions("facts/transactions")
    contenders: dict[str, Callable[[str], pa.Table]] = {
        "ibook": lambda day: ours(view, lake, day),
        "sql": lambda day: sql(view, lake, day, semi_join=False),
        "sql-semi-join": lambda day: sql(view, lake, day, semi_join=True),
    }
    work = contenders[asked.contender]
    # The eighth day has little to look back on, but some outcomes: it warms everybody up.
    work(days[8])
    what = f"one day of {view.name}"
    measure(lambda: work(days[-1]), contender=asked.contender, what=what, out=asked.out)


if __name__ == "__main__":
    main()
