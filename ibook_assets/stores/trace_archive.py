"""Traces wherever they are: on this machine, in the log's files, in landed days."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pyarrow as pa

from ibook_assets.core.arrow import pc
from ibook_assets.core.predictions import Trace, of_row, verify
from ibook_assets.core.tables import PREDICTIONS
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.served_days import ServedDays
from ibook_assets.stores.traces import TraceStore

LOOK_BACK_DAYS: Final = 31
"""Days of the lake that a look-up searches, newest first."""


class TraceArchive:
    """All traces of a lake, and those that are still in a machine's trace store."""

    def __init__(self, blobs: Blobs, store: TraceStore | None = None) -> None:
        self._days = ServedDays(blobs, PREDICTIONS)
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
            found = _traces(self._days.day(day, wanted=wanted))
            for trace in found:
                verify(trace, where=f"{trace.name} of {day}")
            if found:
                return found
        return []

    def days(self) -> list[str]:
        """Days that have traces in the lake, sorted."""
        return self._days.days()

    def day(self, day: str) -> Iterator[Trace]:
        """The traces of a day in the lake, in the order they were made; checksums not verified."""
        yield from _traces(self._days.day(day))

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
        parts = [self._days.day(day).select(columns) for day in self.days()]
        found = pa.concat_tables([PREDICTIONS.schema.empty_table().select(columns), *parts])
        grouped = found.group_by(["artefact", "variant"], use_threads=False)
        counted = grouped.aggregate([("request_id", how) for how in ("count", "first", "last")])
        return counted.rename_columns(["artefact", "variant", "rows", "first", "last"])


def _traces(rows: pa.Table) -> list[Trace]:
    return [of_row(row) for row in rows.to_pylist()]
