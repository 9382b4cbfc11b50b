"""Landing raw rows: validated by their contract, refused ones kept in quarantine."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from ibook_assets.core.quarantine import quarantine_spec
from ibook_assets.core.tables import TableSpec
from ibook_assets.defs.sources import Deliveries
from ibook_assets.stores.bulk import Write, write_all
from ibook_assets.stores.lake import Lake, Receipt


@dataclass(frozen=True, slots=True)
class Landed:
    """One table and day that was landed."""

    day: str
    receipt: Receipt
    refused: Mapping[str, int]
    """Quarantined rows by reason."""
    repeated: int
    """Rows left out because they repeat another."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the lake tables are landed."""

    accepted: str
    quarantine: str
    within: str = ""
    """Part of each table that is landed, where a table has parts."""

    def table(self, spec: TableSpec) -> str:
        """The table of accepted rows."""
        return f"{self.accepted}/{spec.name}{self._part}"

    def refused(self, spec: TableSpec) -> str:
        """The table of refused rows."""
        return f"{self.quarantine}/{spec.name}{self._part}"

    @property
    def _part(self) -> str:
        return f"/{self.within}" if self.within else ""


PLATFORM: Final = Place("raw", "quarantine")
"""What the platform learns from and serves."""


class Landing:
    """Lands some tables of some days; a day is asked of the source once, for all tables."""

    def __init__(
        self,
        source: Deliveries,
        specs: Sequence[TableSpec],
        days: Sequence[str],
        *,
        place: Place = PLATFORM,
    ) -> None:
        self._source = source
        self._place = place
        self._specs = specs
        self._days = days
        self._counts: dict[tuple[str, str], tuple[Mapping[str, int], int]] = {}
        self._receipts: list[Receipt] = []

    def run(self, lake: Lake, *, precommit: Callable[[], None]) -> None:
        """Validate and write everything; ContractError when a delivery is unusable as a whole."""
        there = {spec.name: set(lake.partitions(self._place.refused(spec))) for spec in self._specs}
        self._receipts = list(write_all(lake, self._writes(there), precommit=precommit))

    def of(self, spec: TableSpec) -> list[Landed]:
        """What was landed of `spec`, day by day."""
        return [
            Landed(str(r.partition), r, *self._counts[spec.name, str(r.partition)])
            for r in self._receipts
            if r.table == self._place.table(spec)
        ]

    def _writes(self, quarantined: Mapping[str, set[str]]) -> Iterator[Write]:
        from ibook_assets.stores.contracts import validate

        for day in self._days:
            for spec in self._specs:
                delivery = self._source.delivery(spec, date.fromisoformat(day))
                checked = validate(
                    delivery.rows,
                    spec,
                    source=f"{self._source.label}, {day}",
                    day=date.fromisoformat(day),
                    now_us=None if delivery.streamed else time.time_ns() // 1_000,
                    rejected=delivery.rejected,
                    one_delivery=not delivery.streamed,
                )
                self._counts[spec.name, day] = checked.counts, checked.repeated
                # A day that was clean and stays clean needs no empty quarantine file.
                if checked.quarantined.num_rows or day in quarantined[spec.name]:
                    refused = quarantine_spec(spec)
                    yield Write(self._place.refused(spec), day, checked.quarantined, refused)
                yield Write(self._place.table(spec), day, checked.accepted, spec)
