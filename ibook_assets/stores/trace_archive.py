"""Traces wherever they are: on this machine, in the log's files, in landed days."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Final

import pyarrow as pa

from ibook_assets.core.arrow import Column, pc
from ibook_assets.core.messages import topic_of
from ibook_assets.core.predictions import Trace, of_row, verify
from ibook_assets.core.tables import PREDICTIONS
from ibook_assets.core.times import day_of
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.log_files import LogFiles
from ibook_assets.stores.traces import TraceStore

LANDED: Final = f"raw/{PREDICTIONS.name}"
"""Table of the landed days."""

LOOK_BACK_DAYS: Final = 31
"""Days of the lake that a look-up searches, newest first."""

_TOPIC: Final = topic_of(PREDICTIONS.name)


class TraceArchive:
    """All traces of a lake, and those that are still in a machine's trace store."""

    def __init__(self, blobs: Blobs, store: TraceStore | None = None) -> None:
        self._lake = Lake(blobs)
        self._files = LogFiles(blobs)
        self._store = store

    def find(self, request_id: str, *, days: int = LOOK_BACK_DAYS) -> list[Trace]:
        """The traces of a request, one a variant, oldest first; empty when none is found.

        Args:
            request_id: what to look for.
            days: how many days of the lake are searched.

        Raises:
            IntegrityError: one is not what was written.
        """
        found = self._store.find(request_id) if self._store else []
        return found or self.find_in_lake(request_id, days=days)

    def find_in_lake(self, request_id: str, *, days: int = LOOK_BACK_DAYS) -> list[Trace]:
        """The same without the trace store."""
        wanted = pc.field("request_id") == request_id
        for day in self.days()[::-1][:days] if days else ():
            found = _traces(self._day(day, wanted))
            for trace in found:
                verify(trace, where=f"{trace.name} of {day}")
            if found:
                return found
        return []

    def days(self) -> list[str]:
        """Days that have traces in the lake, sorted."""
        landed = self._lake.partitions(LANDED)
        return sorted({*landed, *self._unlanded_days(landed)})

    def day(self, day: str) -> Iterator[Trace]:
        """The traces of a day in the lake, in the order they were made; checksums not verified."""
        yield from _traces(self._day(day))

    def recent(self) -> Iterator[Trace]:
        """Every trace there is, newest day first; checksums not verified."""
        seen: set[tuple[str, str, int]] = set()
        for day in self.days()[::-1]:
            for trace in self.day(day):
                seen.add((trace.request_id, trace.variant, trace.known_ts))
                yield trace
        if self._store is None:
            return
        for stored in self._store.predictions.unshipped(self._store.predictions.backlog()):
            trace = self._store.trace_of(stored)
            if (trace.request_id, trace.variant, trace.known_ts) not in seen:
                yield trace

    def counts(self) -> pa.Table:
        """Predictions by `artefact` and `variant`: `rows`, and the request ids `first`, `last`."""
        columns = ["artefact", "variant", "request_id"]
        parts = [self._day(day).select(columns) for day in self.days()]
        found = pa.concat_tables([PREDICTIONS.schema.empty_table().select(columns), *parts])
        grouped = found.group_by(["artefact", "variant"], use_threads=False)
        counted = grouped.aggregate([("request_id", how) for how in ("count", "first", "last")])
        return counted.rename_columns(["artefact", "variant", "rows", "first", "last"])

    def _day(self, day: str, wanted: Column | None = None) -> pa.Table:
        """The rows of a day, each once, landed or not; those that are `wanted`, or all."""
        parts = []
        landed = self._lake.partitions(LANDED)
        if day in landed:
            parts.append(self._lake.read(LANDED, [day], filters=wanted, spec=PREDICTIONS))
        if day in self._unlanded_days(landed):
            rows, _ = self._files.day(_TOPIC, PREDICTIONS, date.fromisoformat(day))
            parts.append(rows if wanted is None else rows.filter(wanted))
        return _once(pa.concat_tables([PREDICTIONS.schema.empty_table(), *parts]))

    def _unlanded_days(self, landed: list[str]) -> list[str]:
        """Days of the log's files from the newest landed one on, which may have got more since."""
        spans = [
            (day_of(file.first_known_ts), day_of(file.last_known_ts))
            for file in self._files.files(_TOPIC)
            if file.first_known_ts is not None and file.last_known_ts is not None
        ]
        newest = landed[-1] if landed else ""
        days = {day for first, last in spans for day in _between(first, last)}
        return sorted(day for day in days if day >= newest)


def _between(first: date, last: date) -> list[str]:
    count = (last - first).days
    return [(first + timedelta(days=n)).isoformat() for n in range(count + 1)]


def _once(rows: pa.Table) -> pa.Table:
    """`rows` in the order of their time, repetitions of a key left out."""
    keys = list(PREDICTIONS.key)
    at = rows.select(keys).append_column("at", pa.array(range(rows.num_rows), pa.int64()))
    first = at.group_by(keys, use_threads=False).aggregate([("at", "min")])["at_min"]
    return rows.take(first.combine_chunks()).sort_by("known_ts")


def _traces(rows: pa.Table) -> list[Trace]:
    return [of_row(row) for row in rows.to_pylist()]
