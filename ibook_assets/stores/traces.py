"""The trace store: predictions and outcomes of one machine's servers, on their way to the lake."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ibook_assets.core.predictions import Trace, sealed, unsealed
from ibook_assets.core.settings import Settings
from ibook_assets.stores.outbox import Entry, Outbox, Stored, open_environment


class TraceStore:
    """Traces by request id, and the outboxes they are shipped from."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        """Open it in the process that uses it; StoreUnavailableError when that fails."""
        self.environment = open_environment(folder, max_bytes)
        self.predictions = Outbox(self.environment, "traces")
        self.outcomes = Outbox(self.environment, "outcomes")

    def append(self, traces: Sequence[Trace]) -> None:
        """Seal and keep all of `traces`, durably, or none."""
        self.predictions.append([Entry(t.request_id, t.known_ts, sealed(t)) for t in traces])

    def find(self, request_id: str) -> list[Trace]:
        """Every trace of that request, one a variant, oldest first; empty when there is none.

        Raises:
            IntegrityError: one is not what was written.
        """
        return [self.trace_of(stored) for stored in self.predictions.find(request_id)]

    def trace_of(self, stored: Stored) -> Trace:
        """The trace in a message of `predictions`; IntegrityError when it was changed."""
        where = f"trace {stored.key} (number {stored.number}) in {self.environment.folder}"
        return unsealed(stored.message, where=where)


def open_traces(settings: Settings) -> TraceStore:
    """The trace store of this machine's servers."""
    return TraceStore(settings.trace_path, max_bytes=settings.trace_store_bytes)
