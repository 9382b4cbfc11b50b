"""Reads a use case's training data out of the lake and names every file it came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

import pyarrow as pa

from ibook_assets.core.canonical import canonical_json
from ibook_assets.core.errors import ContractError
from ibook_assets.core.facts import FACT_OUTCOMES, FACT_TRANSACTIONS
from ibook_assets.core.manifest import SnapshotManifest
from ibook_assets.core.times import DAY_US, day_start_us
from ibook_assets.core.training_set import assemble, training_columns
from ibook_assets.core.use_cases import UseCase
from ibook_assets.stores.feature_days import feature_table
from ibook_assets.stores.lake import Lake, Receipt

OUTCOME_COLUMNS: Final = ("transaction_id", "known_ts", "is_fraud")


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Mature rows and the manifest of the files they were read from."""

    table: pa.Table
    manifest: SnapshotManifest
    as_of_us: int


def read_training_data(lake: Lake, use_case: UseCase, *, maturity_days: int) -> TrainingData:
    """The training data of `use_case` as of the end of the last day in the lake.

    Raises:
        ContractError: a day is missing between the first and the last, or nothing is mature.
    """
    days = unbroken_days(lake, "facts/transactions")
    as_of_us = day_start_us(date.fromisoformat(days[-1])) + DAY_US
    mature = days[: len(days) - maturity_days]
    if not mature:
        msg = (
            f"{len(days)} days of orders, labels mature after {maturity_days}: materialise at "
            f"least {maturity_days + 1} days or lower IBOOK_LABEL_MATURITY_DAYS"
        )
        raise ContractError(msg)
    # Receipts are taken once: rows and manifest name the same files whatever is written meanwhile.
    orders = lake.receipts("facts/transactions", mature)
    outcomes = lake.receipts("facts/outcomes", days)
    features = {view: lake.receipts(feature_table(view), mature) for view in use_case.views}
    table = assemble(
        use_case,
        orders=lake.read_files(orders, columns=training_columns(use_case), spec=FACT_TRANSACTIONS),
        features={view: lake.read_files(files) for view, files in features.items()},
        outcomes=lake.read_files(outcomes, columns=OUTCOME_COLUMNS, spec=FACT_OUTCOMES),
        as_of_us=as_of_us,
        maturity_us=maturity_days * DAY_US,
    )
    files = [*orders, *outcomes, *(file for group in features.values() for file in group)]
    manifest = SnapshotManifest(
        entries=tuple(file.entry for file in files),
        parameters={
            "use_case": use_case.name,
            "as_of_us": as_of_us,
            "maturity_days": maturity_days,
        },
    )
    return TrainingData(table, manifest, as_of_us)


def store_training_data(
    lake: Lake, use_case: UseCase, data: TrainingData, *, precommit: Callable[[], None]
) -> Receipt:
    """Keep the rows under their snapshot's id, and make that snapshot the newest.

    Earlier snapshots stay: a model can always be traced to the very rows it learnt from.
    """
    snapshot = data.manifest.snapshot_id
    lake.blobs.put(f"manifests/{snapshot}.json", canonical_json(data.manifest))
    receipt = lake.write(_table(use_case.name), snapshot, data.table, precommit=precommit)
    lake.blobs.put(_newest(use_case.name), snapshot.encode())
    return receipt


def newest_snapshot(lake: Lake, use_case: str) -> str:
    """Id of the newest training set; NotFoundError when there is none."""
    return lake.blobs.get(_newest(use_case)).decode()


def read_training_set(
    lake: Lake,
    use_case: str,
    snapshot: str | None = None,
    *,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Rows of a training set, the newest without `snapshot`; NotFoundError when there is none."""
    found = snapshot or newest_snapshot(lake, use_case)
    return lake.read(_table(use_case), [found], columns=columns)


def _table(use_case: str) -> str:
    return f"{use_case}/training_set"


def _newest(use_case: str) -> str:
    return f"{_table(use_case)}/_newest"


def unbroken_days(lake: Lake, table: str) -> list[str]:
    """All days of `table`, sorted; ContractError when there is none or one between is missing."""
    days = lake.partitions(table)
    if not days:
        msg = f"{table} has no day yet; materialise it first"
        raise ContractError(msg)
    gaps = _gaps(days)
    if gaps:
        msg = f"{table} misses {gaps[:5]} ({len(gaps)} days) before {days[-1]}; materialise them"
        raise ContractError(msg)
    return days


def _gaps(days: Sequence[str]) -> list[str]:
    first, last = date.fromisoformat(days[0]), date.fromisoformat(days[-1])
    every = (first + timedelta(days=n) for n in range((last - first).days + 1))
    there = set(days)
    return [day.isoformat() for day in every if day.isoformat() not in there]
