"""Partitions and groups of the graph."""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Final

import dagster as dg

from ibook_assets.core.settings import Settings
from ibook_assets.core.times import DAY_US

LOG: Final = "log"
RAW: Final = "raw"
FACTS: Final = "facts"
FEATURES: Final = "features"
TRUTH: Final = "truth"
SERVING: Final = "serving"
MONITORING: Final = "monitoring"
SIMULATION: Final = "simulation"

DAY: Final = "day"
SCENARIO: Final = "scenario"

DATA_PLATFORM: Final = "team:data-platform"
ML_PLATFORM: Final = "team:ml-platform"
FRAUD_SCIENCE: Final = "team:fraud-science"

SINGLE_RUN: Final = dg.BackfillPolicy.single_run()
"""A backfill of many days is one run: the day loop is inside the asset, where caches live."""


def daily(settings: Settings) -> dg.DailyPartitionsDefinition:
    """One partition a UTC day of knowledge time, from the platform's first day on."""
    return dg.DailyPartitionsDefinition(start_date=settings.start_date.isoformat())


def by_scenario(names: Sequence[str]) -> dg.StaticPartitionsDefinition:
    """One partition a scenario of the simulator."""
    return dg.StaticPartitionsDefinition(sorted(names))


def daily_by_scenario(settings: Settings, names: Sequence[str]) -> dg.MultiPartitionsDefinition:
    """One partition a scenario and day, over the platform's own days."""
    return dg.MultiPartitionsDefinition({DAY: daily(settings), SCENARIO: by_scenario(names)})


def looking_back(horizon_us: int) -> dg.TimeWindowPartitionMapping:
    """A day reads its own partition and those that `horizon_us` before it can reach."""
    days = -(-horizon_us // DAY_US)
    return dg.TimeWindowPartitionMapping(
        start_offset=-days, end_offset=0, allow_nonexistent_upstream_partitions=True
    )


def days_between(first: date, last: date) -> list[str]:
    """Partition keys of `first` to `last`, both included."""
    return [(first + timedelta(days=n)).isoformat() for n in range((last - first).days + 1)]
