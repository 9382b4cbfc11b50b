"""Days of orders kept as files, to be played again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ibook_assets.core.errors import ContractError, NotFoundError
from ibook_assets.core.tables import EVENTS, TRANSACTIONS, TRUTH_ORDERS
from ibook_sim.datasets.export import (
    TRUTH_FOLDER,
    day_path,
    write_catalogue,
    write_days,
    write_truth,
)
from ibook_sim.world import World, WorldConfig


@dataclass(frozen=True, slots=True)
class Recording:
    """Days of orders in a folder, as `world` writes them."""

    folder: Path
    days: tuple[date, ...]
    digest: str | None = None
    """Of the orders when they were recorded, where that is known."""

    def transactions(self) -> pa.Table:
        """The orders, by the time they became known."""
        return _read(self.folder, TRANSACTIONS.name, self.days)

    def truth(self) -> pa.Table | None:
        """The truth beside the orders; None when it was not recorded."""
        folder = self.folder / TRUTH_FOLDER
        return _read(folder, TRUTH_ORDERS.name, self.days) if folder.exists() else None

    def events(self) -> pa.Table:
        """The catalogue of events.

        Raises:
            NotFoundError: it was not recorded.
        """
        path = self.folder / EVENTS.name / "part.parquet"
        if not path.exists():
            msg = f"{path} does not exist; record days with `world --days N --out {self.folder}`"
            raise NotFoundError(msg)
        return pq.ParquetFile(path).read()


def record(config: WorldConfig, days: Sequence[date], folder: Path) -> Recording:
    """Write `days` of the world to `folder`."""
    world = World(config)
    write_days(config, days, folder)
    write_truth(world, days, folder)
    write_catalogue(world, days[-1], folder)
    orders = pa.concat_tables([world.transactions(day) for day in days])
    return Recording(folder, tuple(days), rows_digest(orders))


def recording_in(folder: Path, first: date | None = None, days: int | None = None) -> Recording:
    """The recorded days in `folder`, all of them or `days` (1) from `first` on.

    Raises:
        NotFoundError: there are none, or one is missing.
        ContractError: a number of days without the first one.
    """
    if first is not None:
        wanted = tuple(first + timedelta(days=number) for number in range(days or 1))
        return Recording(folder, wanted)
    if days is not None:
        msg = f"{days} days from when on? Give --day YYYY-MM-DD, or leave --days out to play all"
        raise ContractError(msg)
    found = sorted((folder / TRANSACTIONS.name).glob("dt=*/part.parquet"))
    if not found:
        msg = f"{folder} holds no recorded days; record some with `world --days N --out {folder}`"
        raise NotFoundError(msg)
    names = [path.parent.name.removeprefix("dt=") for path in found]
    return Recording(folder, tuple(date.fromisoformat(name) for name in names))


def rows_digest(rows: pa.Table) -> str:
    """SHA-256 of the values of `rows`, however they are cut into chunks."""
    digest = hashlib.sha256()
    for name in rows.column_names:
        column = rows[name].combine_chunks()
        # What is under a null is not part of the value.
        present: Any = column.drop_null()
        digest.update(name.encode())
        digest.update(column.is_valid().to_numpy(zero_copy_only=False).tobytes())
        if pa.types.is_string(present.type):
            digest.update("\0".join(present.to_pylist()).encode())
        else:
            digest.update(present.to_numpy(zero_copy_only=False).tobytes())
    return digest.hexdigest()


def _read(folder: Path, table: str, days: Sequence[date]) -> pa.Table:
    return pa.concat_tables([_read_day(folder, table, day) for day in days])


def _read_day(folder: Path, table: str, day: date) -> pa.Table:
    path = day_path(folder, table, day)
    if not path.exists():
        msg = f"{path} does not exist; record days with `world --days N --out {folder}`"
        raise NotFoundError(msg)
    return pq.ParquetFile(path).read()
