"""A lake of daily facts to measure increments on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench.orders import generate
from ibook_assets.core.arrow import nulls
from ibook_assets.core.features.spec import SOURCES
from ibook_assets.core.tables import TableSpec
from ibook_assets.core.times import DAY_US, day_of
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.local_blobs import LocalBlobs


def _complete(table: pa.Table, spec: TableSpec) -> pa.Table:
    """`table` with every column of `spec`; what it lacks is null, or 0 where null may not be."""
    columns: list[Any] = []
    for column in spec.columns:
        if column.name in table.column_names:
            columns.append(table[column.name])
        elif column.nullable:
            columns.append(nulls(table.num_rows, column.type))
        else:
            columns.append(pa.array(np.zeros(table.num_rows, np.int64)))
    return pa.table(columns, schema=spec.schema)


def write_days(folder: Path, rows: int) -> Lake:
    """The tables of `generate` as daily facts below `folder`."""
    lake = Lake(LocalBlobs(folder))
    for name, table in generate(rows).items():
        days = np.asarray(table["known_ts"]) // DAY_US
        for day in np.unique(days):
            first, end = np.searchsorted(days, [day, day + 1])
            rows_of_day = _complete(table.slice(first, end - first), SOURCES[name])
            lake.write(f"facts/{name}", day_of(int(day) * DAY_US).isoformat(), rows_of_day)
    return lake
