"""What the comparison of online and batch features reads from the lake."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from ibook_assets.core.arrow import integers, one_chunk
from ibook_assets.core.errors import ContractError
from ibook_assets.core.ids import MISSING_ID
from ibook_assets.core.skew import FEATURE_SKEW, BatchVectors, Skew, compare
from ibook_assets.core.tables import FEATURE_LOG
from ibook_assets.stores.feature_days import feature_table
from ibook_assets.stores.lake import Lake

FEATURE_LOG_TABLE: Final = f"raw/{FEATURE_LOG.name}"
SKEW_TABLE: Final = f"monitoring/{FEATURE_SKEW.name}"


def batch_vectors(lake: Lake, features: Sequence[str], day: str) -> BatchVectors:
    """Batch values of `features` (`view:feature` each) for the orders of `day`.

    Raises:
        NotFoundError: a view has not been materialised for the day.
        ContractError: the views were materialised for different orders.
    """
    columns: dict[str, list[int]] = {}
    for position, name in enumerate(features):
        columns.setdefault(name.partition(":")[0], []).append(position)
    found: BatchVectors | None = None
    for view, positions in columns.items():
        names = [features[position].partition(":")[2] for position in positions]
        table = lake.read(
            feature_table(view), [day], columns=["transaction_id", "known_ts", *names]
        )
        ids = integers(table["transaction_id"], null=MISSING_ID)
        if found is None:
            values = np.empty((table.num_rows, len(features)), dtype=np.float32)
            found = BatchVectors(ids, integers(table["known_ts"], null=0), values)
        elif not np.array_equal(ids, found.transaction_ids):
            msg = (
                f"features/{view} of {day} has {len(ids):,} orders, another view has "
                f"{len(found.transaction_ids):,} or others: materialise all views of the day again"
            )
            raise ContractError(msg)
        for position, name in zip(positions, names, strict=True):
            found.values[:, position] = one_chunk(table[name]).to_numpy(zero_copy_only=False)
    if found is None:
        msg = "no feature to compare: a use case reads at least one"
        raise ContractError(msg)
    return found


def compare_days(
    lake: Lake, features: Sequence[str], days: Sequence[str], *, share: float
) -> Iterator[tuple[str, Skew]]:
    """What `compare` finds on each of `days`; a day without logged vectors needs no features."""
    for day in days:
        logged = lake.read(FEATURE_LOG_TABLE, [day], spec=FEATURE_LOG)
        batch = batch_vectors(lake, features, day) if logged.num_rows else _no_orders(features)
        yield day, compare(logged, batch, features=features, share=share)


def recorded_counts(lake: Lake, *, until: str, days: int) -> dict[str, dict[str, int]]:
    """The three counts as recorded for the last `days` days up to `until`, by day."""
    recorded = [day for day in lake.partitions(SKEW_TABLE) if day <= until][-days:]
    return {
        day: Skew(vectors=0, rows=lake.read(SKEW_TABLE, [day], spec=FEATURE_SKEW)).counts
        for day in recorded
    }


def _no_orders(features: Sequence[str]) -> BatchVectors:
    none = np.empty(0, dtype=np.int64)
    return BatchVectors(none, none, np.empty((0, len(features)), dtype=np.float32))
