"""The facts that the online store must hold, read out of the lake."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import pyarrow as pa

from ibook_assets.core.errors import ContractError
from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.features.engine import required_columns
from ibook_assets.core.features.plan import layouts_of
from ibook_assets.core.features.spec import SOURCES
from ibook_assets.core.tables import EVENTS
from ibook_assets.core.times import DAY_US, day_start_us
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.training_data import unbroken_days


@dataclass(frozen=True, slots=True)
class OnlineFacts:
    """Fact tables by name, the catalogue, and the moment they are complete up to."""

    sources: Mapping[str, pa.Table]
    events: pa.Table
    as_of_us: int


def read_online_facts(lake: Lake) -> OnlineFacts:
    """Everything within the longest window before the end of the last day of all facts."""
    days = complete_days(lake)
    as_of_us = day_start_us(date.fromisoformat(days[-1])) + DAY_US
    sources = {
        name: lake.read(
            f"facts/{name}", days[-horizon_days:], columns=_columns(name), spec=SOURCES[name]
        )
        for name, horizon_days in _horizons().items()
    }
    return OnlineFacts(sources, lake.read("raw/events", spec=EVENTS), as_of_us)


def complete_days(lake: Lake) -> list[str]:
    """Days of facts/transactions up to the last one that every other fact table has too.

    Raises:
        ContractError: there is none, or one between is missing.
    """
    days = unbroken_days(lake, "facts/transactions")
    there = set(days).intersection(*(lake.partitions(f"facts/{name}") for name in SOURCES))
    while days and days[-1] not in there:
        days.pop()
    if not days:
        msg = f"no day has all of {sorted(SOURCES)} among its facts; materialise them"
        raise ContractError(msg)
    return days


def _horizons() -> dict[str, int]:
    """Fact table to the days of it that the longest window over it reaches."""
    horizons: dict[str, int] = {}
    for layout in layouts_of(FEATURE_VIEWS):
        days = -(-layout.horizon_us // DAY_US)
        horizons[layout.source] = max(days, horizons.get(layout.source, 0))
    return horizons


def _columns(source: str) -> list[str]:
    needed = {name for view in FEATURE_VIEWS for name in required_columns(view, source)}
    return [name for name in SOURCES[source].column_names if name in needed]
