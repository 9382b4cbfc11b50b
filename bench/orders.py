"""Orders to measure on: skewed customers, shared cards and devices, outcomes a week later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ibook_assets.core.times import DAY_US

DAYS = 60
START_US = 20_454 * DAY_US
_MATURITY_US = 7 * DAY_US


def _skewed(rng: np.random.Generator, rows: int, ids: int) -> npt.NDArray[np.int64]:
    # Log-normal activity: the busiest thousandth orders a hundred times the median.
    weights = rng.lognormal(0.0, 1.2, ids).cumsum()
    return np.asarray(np.searchsorted(weights, rng.random(rows) * weights[-1]), np.int64)


def generate(rows: int, seed: int = 7) -> dict[str, pa.Table]:
    """Transactions and outcomes of `rows` orders over DAYS days, in known order."""
    rng = np.random.default_rng(seed)
    known_ts = START_US + np.sort(rng.integers(0, DAYS * DAY_US, rows))
    users = _skewed(rng, rows, max(rows // 20, 10))
    # A customer owns two cards and mostly uses one device.
    ids: dict[str, Any] = {
        "user_id": users,
        "event_id": _skewed(rng, rows, 400),
        "card_id": users * 2 + (rng.random(rows) < 0.1),
        "device_id": np.where(rng.random(rows) < 0.05, _skewed(rng, rows, rows // 30 + 1), users),
    }
    transactions: dict[str, Any] = {
        "transaction_id": np.arange(rows, dtype=np.int64),
        "known_ts": known_ts,
        **ids,
        "amount_cents": rng.integers(500, 60_000, rows),
        "quantity": rng.integers(1, 7, rows),
    }
    outcomes: dict[str, Any] = {
        "transaction_id": np.arange(rows, dtype=np.int64),
        "known_ts": known_ts + _MATURITY_US,
        "is_fraud": (rng.random(rows) < 0.03).astype(np.int64),
        **ids,
    }
    return {"transactions": pa.table(transactions), "outcomes": pa.table(outcomes)}


def write(folder: Path, rows: int) -> Path:
    """The tables of `generate` as Parquet files in `folder`; kept when they are there."""
    where = folder / str(rows)
    if not (where / "outcomes.parquet").exists():
        where.mkdir(parents=True, exist_ok=True)
        for name, table in generate(rows).items():
            pq.write_table(table, where / f"{name}.parquet", compression="zstd")
    return where
