"""Rows that servers wrote, wherever they are: in landed days, and in the log's files since."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date, timedelta

import pyarrow as pa

from ibook_assets.core.arrow import Column
from ibook_assets.core.messages import topic_of
from ibook_assets.core.tables import TableSpec
from ibook_assets.core.times import day_of, day_start_us
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.log_files import LogFile, LogFiles


class ServedDays:
    """One table that servers write through the log, by day of knowledge time."""

    def __init__(self, blobs: Blobs, spec: TableSpec) -> None:
        self._lake = Lake(blobs)
        self._files = LogFiles(blobs)
        self._spec = spec
        self._topic = topic_of(spec.name)

    @property
    def landed_table(self) -> str:
        """Table of the landed days."""
        return f"raw/{self._spec.name}"

    def landed(self) -> list[str]:
        """Days that have landed, sorted."""
        return self._lake.partitions(self.landed_table)

    def days(self) -> list[str]:
        """Days that have rows, landed or not, sorted."""
        landed = self.landed()
        return sorted({*landed, *_days(self._unlanded(landed), landed)})

    def day(self, day: str, *, wanted: Column | None = None) -> pa.Table:
        """The rows of a day, each once, in the order of their time; all when `wanted` is None."""
        return self.rows(lambda known: known == day, wanted=wanted)

    def rows(
        self,
        of_day: Callable[[str], bool],
        *,
        columns: Sequence[str] | None = None,
        wanted: Column | None = None,
        landed_only: bool = False,
    ) -> pa.Table:
        """The rows of some days, each once, in the order of their time.

        Args:
            of_day: which of the days that have rows.
            columns: all when None; those of the table's key and `known_ts` are among them.
            wanted: which rows; all when None.
            landed_only: leave out what has not landed yet.
        """
        names = list(columns or self._spec.column_names)
        landed = self.landed()
        files = [] if landed_only else self._unlanded(landed)
        growing = [day for day in _days(files, landed) if of_day(day)]
        settled = [day for day in landed if of_day(day) and day not in growing]
        parts = [self._landed(settled, names, wanted)]
        for day in growing:
            rows, _ = self._files.day(self._topic, self._spec, date.fromisoformat(day), among=files)
            shipped = (rows if wanted is None else rows.filter(wanted)).select(names)
            before = self._landed([day] if day in landed else [], names, wanted)
            parts.append(self._once(pa.concat_tables([before, shipped])))
        return pa.concat_tables(parts).sort_by("known_ts")

    def _landed(self, days: Sequence[str], names: Sequence[str], wanted: Column | None) -> pa.Table:
        """The rows of landed days; landing has left repetitions out."""
        return self._lake.read(
            self.landed_table, days, columns=names, filters=wanted, spec=self._spec
        )

    def _unlanded(self, landed: Sequence[str]) -> list[LogFile]:
        """The log's files from the newest landed day on, which may have got more since."""
        newest = date.fromisoformat(landed[-1]) if landed else date.min
        return self._files.latest(self._topic, from_us=day_start_us(newest))

    def _once(self, rows: pa.Table) -> pa.Table:
        """`rows` without repetitions of a key."""
        keys = list(self._spec.key)
        at = rows.select(keys).append_column("at", pa.array(range(rows.num_rows), pa.int64()))
        first = at.group_by(keys, use_threads=False).aggregate([("at", "min")])["at_min"]
        return rows.take(first.combine_chunks())


def _days(files: Iterable[LogFile], landed: Sequence[str]) -> list[str]:
    """Days that sound rows of `files` belong to, from the newest landed one on, sorted."""
    spans = [
        (day_of(file.first_known_ts), day_of(file.last_known_ts))
        for file in files
        if file.first_known_ts is not None and file.last_known_ts is not None
    ]
    newest = landed[-1] if landed else ""
    days = {day for first, last in spans for day in _between(first, last)}
    return sorted(day for day in days if day >= newest)


def _between(first: date, last: date) -> Iterable[str]:
    count = (last - first).days
    return ((first + timedelta(days=n)).isoformat() for n in range(count + 1))
