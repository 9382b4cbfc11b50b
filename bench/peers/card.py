"""Our features over card payments that nobody here generated (customer: user, terminal: event)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.measured import measure
from bench.orders import generate
from ibook_assets.core.features.catalog import FEATURE_VIEWS, view
from ibook_assets.core.features.engine import compute_view
from ibook_assets.core.times import DAY_US

VIEWS = (
    "order_context",
    "user_realtime_fraud_features",
    "user_purchase_behavior",
    "event_velocity",
    "user_risk",
    "event_risk",
)
"""What user, event, amount, time and label can fill."""

LABEL_DELAY_US = 7 * DAY_US


def tables(path: Path) -> dict[str, pa.Table | None]:
    """Facts out of the Fraud Detection Handbook's columns; labels known a week later."""
    raw = pq.read_table(path)
    times = raw["TX_DATETIME"].cast(pa.timestamp("us")).cast(pa.int64())
    transactions: dict[str, Any] = {
        "transaction_id": raw["TRANSACTION_ID"],
        "known_ts": times,
        "user_id": raw["CUSTOMER_ID"].cast(pa.int64()),
        "event_id": raw["TERMINAL_ID"].cast(pa.int64()),
        "amount_cents": np.rint(np.asarray(raw["TX_AMOUNT"]) * 100).astype(np.int64),
    }
    outcomes: dict[str, Any] = {
        "transaction_id": raw["TRANSACTION_ID"],
        "known_ts": np.asarray(times) + LABEL_DELAY_US,
        "is_fraud": raw["TX_FRAUD"],
        "user_id": transactions["user_id"],
        "event_id": transactions["event_id"],
    }
    absent = {"views": None, "refunds": None}
    return {"transactions": pa.table(transactions), "outcomes": pa.table(outcomes), **absent}


def compute(sources: dict[str, pa.Table | None]) -> pa.Table:
    """Every feature of VIEWS, named `view:feature`."""
    queries = sources["transactions"]
    assert queries is not None
    columns: dict[str, Any] = {
        "transaction_id": queries["transaction_id"],
        "known_ts": queries["known_ts"],
    }
    for name in VIEWS:
        found = compute_view(view(name), sources, queries)
        columns |= {f"{name}:{f}": found[f] for f in view(name).feature_names}
    return pa.table(columns)


def main() -> None:
    """Measure, warm unless asked otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cold", action="store_true", help="count compilation in")
    asked = parser.parse_args()
    if not asked.cold:
        small: dict[str, pa.Table | None] = {"views": None, "refunds": None, **generate(1_000)}
        for one in FEATURE_VIEWS:
            compute_view(one, small, generate(1_000)["transactions"])
    measure(
        lambda: compute(tables(asked.path)),
        contender="ibook, cold" if asked.cold else "ibook",
        what="card payments",
        out=asked.out,
    )


if __name__ == "__main__":
    main()
