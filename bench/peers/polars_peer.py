"""Polars' rolling windows over the benchmark's files; only what a rolling expression can say."""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl
import pyarrow as pa

from bench.measured import measure
from bench.views import COUNTS_AND_SUMS, WINDOWS


def compute(data: Path) -> pa.Table:
    """The features of COUNTS_AND_SUMS for every order in `data`."""
    orders = pl.read_parquet(
        data / "transactions.parquet",
        columns=["transaction_id", "known_ts", "user_id", "amount_cents"],
    )
    grouped = orders.sort("user_id", "known_ts", "transaction_id").with_columns(
        pl.col("known_ts").set_sorted()
    )
    columns = [grouped.select("transaction_id", "known_ts")]
    for name, window in WINDOWS.items():
        rolled = grouped.rolling(
            "known_ts", period=f"{window}i", closed="left", group_by="user_id"
        ).agg(
            pl.len().cast(pl.Float32).alias(f"count_{name}"),
            pl.col("amount_cents").sum().cast(pl.Float64).cast(pl.Float32).alias(f"sum_{name}"),
        )
        columns.append(rolled.select(f"count_{name}", f"sum_{name}"))
    return pl.concat(columns, how="horizontal").sort("transaction_id").to_arrow()


def main() -> None:
    """Measure the one view that it can say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    measure(
        lambda: compute(asked.data),
        contender="Polars",
        what=COUNTS_AND_SUMS.name,
        out=asked.out,
    )


if __name__ == "__main__":
    main()
