"""Where raw events come from: the simulator, somebody's file, the event log. Settings choose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final, Protocol

import dagster as dg
import pyarrow as pa
from pydantic import Field

from ibook_assets.core.errors import ContractError
from ibook_assets.core.mapping import ColumnMapping
from ibook_assets.core.messages import topic_of
from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import EVENTS, OUTCOMES, TRANSACTIONS, TRUTH_ORDERS, TableSpec
from ibook_assets.stores.blobs import Blobs, open_blobs
from ibook_assets.stores.files import FileTables, read_file
from ibook_assets.stores.log_files import LogFiles
from ibook_sim.drift import Drift, DriftedWorld
from ibook_sim.world import DayTables, World, WorldConfig


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a source has for one table and day, not yet held against the contract."""

    rows: pa.Table
    rejected: pa.Table | None = None
    """Quarantine rows of what could not even be typed."""
    streamed: bool = False
    """Each row came by itself and was judged when it came. No clock of a later moment judges it
    again, and refused rows say nothing about the others, as they do in a file."""


class Deliveries(Protocol):
    """Gives the rows that became known on one day."""

    @property
    def label(self) -> str:
        """Name of the source in errors and quarantine rows."""
        ...

    def delivery(self, spec: TableSpec, day: date) -> Delivery:
        """Rows of the raw table `spec` that became known on `day`."""
        ...


class RawSource(Deliveries, Protocol):
    """Feeds the raw tables."""

    def catalogue(self) -> pa.Table:
        """The ticketed events, in the schema of EVENTS."""
        ...

    def truth(self, days: Sequence[date]) -> Mapping[date, pa.Table]:
        """Ground truth of the orders known on each of `days`; empty where nobody knows it."""
        ...


class SimulatedSource(dg.ConfigurableResource["SimulatedSource"]):
    """The simulated world: the same settings give the same bytes."""

    world: dict[str, Any] = Field(description="Fields of WorldConfig that are set")
    drift: dict[str, Any] | None = Field(default=None, description="Fields of its Drift, if any")

    @property
    def label(self) -> str:
        """Name of the source in errors and quarantine rows."""
        return f"simulated world, seed {self.world.get('seed')}"

    def delivery(self, spec: TableSpec, day: date) -> Delivery:
        """Rows of the raw table `spec` that became known on `day`."""
        tables = dict(_day_of(self._config, self._drift, day).items())
        return Delivery(tables[spec.name])

    def catalogue(self) -> pa.Table:
        """The ticketed events, in the schema of EVENTS."""
        return self._world.catalogue(datetime.now(UTC).date()).events

    def truth(self, days: Sequence[date]) -> Mapping[date, pa.Table]:
        """Ground truth of the orders known on each of `days`."""
        return self._world.truth(days)

    @property
    def _config(self) -> WorldConfig:
        return WorldConfig.model_validate(self.world)

    @property
    def _drift(self) -> Drift | None:
        return None if self.drift is None else Drift.model_validate(self.drift)

    @property
    def _world(self) -> World:
        return _world_of(self._config, self._drift)


@lru_cache(maxsize=2)
def _world_of(config: WorldConfig, drift: Drift | None) -> World:
    # One world a process: its plan is shared by every asset and day.
    return World(config) if drift is None else DriftedWorld(config, drift)


@lru_cache(maxsize=1)
def _day_of(config: WorldConfig, drift: Drift | None, day: date) -> DayTables:
    # The tables of a day are landed one after the other.
    return _world_of(config, drift).day(day)


class FileSource(dg.ConfigurableResource["FileSource"]):
    """A CSV or Parquet file of transactions through a declared column mapping."""

    path: str = Field(description="The file")
    mapping: str = Field(description="user=A,event=B,amount=C,time=D,label=E[,id=F…]")
    timezone: str = Field(default="UTC", description="Zone of times that carry none")
    label_delay_days: float = Field(description="Days until a label is known")
    start_date: str = Field(description="First daily partition")

    @property
    def label(self) -> str:
        """Name of the source in errors and quarantine rows."""
        return self.path

    def delivery(self, spec: TableSpec, day: date) -> Delivery:
        """The file's transactions of `day`, or the labels that became known on it."""
        found = self._tables.day(day)
        if spec is TRANSACTIONS:
            return Delivery(found.transactions, found.rejected)
        return Delivery(found.outcomes if spec is OUTCOMES else spec.schema.empty_table())

    def catalogue(self) -> pa.Table:
        """No events: a file of transactions does not describe them."""
        return EVENTS.schema.empty_table()

    def truth(self, days: Sequence[date]) -> Mapping[date, pa.Table]:
        """No truth: nobody knows it."""
        return {day: TRUTH_ORDERS.schema.empty_table() for day in days}

    @property
    def _tables(self) -> FileTables:
        found = read_file(
            Path(self.path),
            ColumnMapping.parse(self.mapping),
            timezone=self.timezone,
            label_delay_days=self.label_delay_days,
        )
        first = found.days()[0].isoformat()
        if first < self.start_date:
            msg = (
                f"{self.path} begins on {first}, the first partition is {self.start_date}: its "
                f"earlier rows would be lost. Set IBOOK_START_DATE={first}"
            )
            raise ContractError(msg)
        return found


class LandedLog:
    """The event log's files in the lake."""

    label: Final = "event log"

    def __init__(self, blobs: Blobs) -> None:
        self.files = LogFiles(blobs)

    def delivery(self, spec: TableSpec, day: date) -> Delivery:
        """Rows of the table `spec` that became known on `day`, and the refused ones of that day."""
        rows, refused = self.files.day(topic_of(spec.name), spec, day)
        return Delivery(rows, refused, streamed=True)


@dataclass(frozen=True)
class LogSource:
    """Days from `since` on out of the event log's landed files, earlier ones out of `before`."""

    before: RawSource
    since: date
    lake: str
    """Folder or `s3://bucket/prefix` that the sink lands the log in."""
    endpoint_url: str | None = None

    @property
    def label(self) -> str:
        """Name of the source in errors and quarantine rows."""
        return f"{self.before.label}; from {self.since.isoformat()} on the event log"

    def delivery(self, spec: TableSpec, day: date) -> Delivery:
        """Rows of the raw table `spec` that became known on `day`."""
        source = self.before if day < self.since else self._log
        return source.delivery(spec, day)

    def catalogue(self) -> pa.Table:
        """The ticketed events; what the log said last of one counts."""
        return latest_of(self.before.catalogue(), self._log.files.rows(topic_of(EVENTS.name)))

    def truth(self, days: Sequence[date]) -> Mapping[date, pa.Table]:
        """Ground truth as far as the source before the log knows it."""
        return self.before.truth(days)

    @cached_property
    def _log(self) -> LandedLog:
        return LandedLog(open_blobs(self.lake, endpoint_url=self.endpoint_url))


def latest_of(catalogue: pa.Table, said: pa.Table) -> pa.Table:
    """`catalogue` with the rows of `said`, which are in the order they were said, put over it."""
    rows = pa.concat_tables([catalogue, said.select(catalogue.column_names)])
    (key,) = EVENTS.key
    last = rows.append_column("at", pa.array(range(rows.num_rows))).group_by(key)
    return rows.take(last.aggregate([("at", "max")])["at_max"].combine_chunks().sort())


def source_of(settings: Settings) -> RawSource:
    """The source that `settings` choose."""
    source = _configured(settings)
    if settings.log_from is None:
        return source
    return LogSource(source, settings.log_from, settings.lake, settings.s3_endpoint_url)


def _configured(settings: Settings) -> RawSource:
    if settings.source == "files":
        return FileSource(
            path=str(settings.files_transactions),
            mapping=settings.files_map or "",
            timezone=settings.files_timezone,
            label_delay_days=settings.label_maturity_days,
            start_date=settings.start_date.isoformat(),
        )
    drift = Drift.from_settings(settings)
    return SimulatedSource(
        world=WorldConfig.from_settings(settings).model_dump(mode="json"),
        drift=None if drift is None else drift.model_dump(mode="json"),
    )
