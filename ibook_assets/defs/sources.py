"""Where raw events come from: the simulator, or somebody's files. A setting chooses."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import dagster as dg
import pyarrow as pa
from pydantic import Field

from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import EVENTS, OUTCOMES, TRANSACTIONS, TableSpec
from ibook_assets.stores.contracts import Mapping
from ibook_sim.world import World, WorldConfig


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a source has for one table and day, not yet held against the contract."""

    rows: pa.Table
    rejected: pa.Table | None = None
    """Quarantine rows of what could not even be typed."""


class RawSource(Protocol):
    """Gives the rows that became known on one day."""

    @property
    def label(self) -> str:
        """Name of the source in errors and quarantine rows."""
        ...

    def delivery(self, spec: TableSpec, day: date) -> Delivery:
        """Rows of the raw table `spec` that became known on `day`."""
        ...

    def catalogue(self) -> pa.Table:
        """The ticketed events, in the schema of EVENTS."""
        ...

    def truth(self, days: Sequence[date]) -> pa.Table:
        """Ground truth of the orders known on `days`, in the schema of TRUTH_ORDERS."""
        ...
