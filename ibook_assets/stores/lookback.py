"""The facts one day's features need, read out of the lake: their look-back, for their keys only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from typing import Final, Protocol

import numpy as np
import pyarrow as pa

from ibook_assets.core.arrow import Mask
from ibook_assets.core.facts import ENTITY_COLUMNS, FACT_TRANSACTIONS
from ibook_assets.core.features.engine import required_columns, required_sources
from ibook_assets.core.features.kernel import Ints, find_keys, number_keys
from ibook_assets.core.features.packing import column_integers
from ibook_assets.core.features.plan import Layout, layouts_of
from ibook_assets.core.features.spec import SOURCES, FeatureView
from ibook_assets.core.tables import TableSpec
from ibook_assets.core.times import day_of, day_start_us

_DAYS_AT_ONCE: Final = 8
"""Partitions read together: enough to keep the readers busy, few enough to filter early."""


class Facts(Protocol):
    """What is needed of a lake."""

    def partitions(self, table: str) -> list[str]:
        """Days that exist."""
        ...

    def read(
        self,
        table: str,
        partitions: Sequence[str] | None = None,
        *,
        columns: Sequence[str] | None = None,
        spec: TableSpec | None = None,
    ) -> pa.Table:
        """Rows of the days in order."""
        ...


def lookback_days(view: FeatureView, source: str, day: str) -> tuple[str, str]:
    """First and last day of `source` that features of `day` can count."""
    horizon = max(x.horizon_us for x in layouts_of([view]) if x.source == source)
    start = day_start_us(date.fromisoformat(day))
    return day_of(max(start - horizon, 0)).isoformat(), day


def day_sources(
    lake: Facts, view: FeatureView, day: str, queries: pa.Table, *, prefix: str = "facts/"
) -> dict[str, pa.Table]:
    """The sources that `compute_view` needs for the `queries` of `day`.

    Reads only the look-back's partitions and the view's columns, and keeps only rows about an
    entity that some query asks for; a few days are read at a time, so memory holds what is kept
    and those. Days that do not exist are empty.
    """
    sources = {}
    for source in required_sources(view):
        first, last = lookback_days(view, source, day)
        days = [d for d in lake.partitions(f"{prefix}{source}") if first <= d <= last]
        columns = required_columns(view, source)
        keys = list(_asked_keys(view, source, queries))
        kept = [SOURCES[source].schema.empty_table().select(list(columns))]
        for at in range(0, len(days), _DAYS_AT_ONCE):
            some = days[at : at + _DAYS_AT_ONCE]
            rows = lake.read(f"{prefix}{source}", some, columns=columns, spec=SOURCES[source])
            kept.append(_about(keys, rows, source))
        sources[source] = pa.concat_tables(kept)
    return sources


def _asked_keys(view: FeatureView, source: str, queries: pa.Table) -> Iterator[tuple[str, Ints]]:
    """Per entity column of the source, the hash table of the queries' ids."""
    for column in dict.fromkeys(_entity(x) for x in layouts_of([view]) if x.source == source):
        ids = column_integers(queries, FACT_TRANSACTIONS, column)
        yield column, number_keys(ids, np.empty(len(ids), np.int64))[0]


def _entity(layout: Layout) -> str:
    return ENTITY_COLUMNS[layout.entity]


def _about(keys: Sequence[tuple[str, Ints]], rows: pa.Table, source: str) -> pa.Table:
    wanted: Mask = np.zeros(rows.num_rows, np.bool_)
    for column, table in keys:
        numbers = np.empty(rows.num_rows, np.int64)
        find_keys(table, column_integers(rows, SOURCES[source], column), numbers)
        wanted |= numbers >= 0
    return rows.filter(pa.array(wanted))
