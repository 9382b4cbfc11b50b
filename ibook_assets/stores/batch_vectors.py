"""Vectors of logged predictions as batch computes them, out of the lake's facts as of then."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ibook_assets.core.arrow import array
from ibook_assets.core.fact_rules import build_transactions
from ibook_assets.core.features.catalog import view as view_named
from ibook_assets.core.features.engine import compute_view, required_sources
from ibook_assets.core.predictions import Trace
from ibook_assets.core.tables import EVENTS, TRANSACTIONS
from ibook_assets.core.times import day_of
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.lookback import day_sources, lookback_days

NO_HISTORY: Final = "it was scored without history"


class BatchFeatures:
    """Computes some features for logged requests, as of what their servers had read."""

    def __init__(self, blobs: Blobs, features: Sequence[str]) -> None:
        self.features = tuple(features)
        self._lake = Lake(blobs)
        self._views = {
            name: view_named(name)
            for name in dict.fromkeys(name.partition(":")[0] for name in features)
        }
        self._days: dict[str, set[str]] = {}

    def of(self, traces: Sequence[Trace]) -> tuple[npt.NDArray[np.float32], list[str | None]]:
        """The vectors, (n, f), and per trace why it has none, None where it has."""
        vectors = np.full((len(traces), len(self.features)), np.nan, np.float32)
        reasons: list[str | None] = [None] * len(traces)
        days: dict[str, list[int]] = {}
        for at, trace in enumerate(traces):
            reasons[at] = self._missing(trace)
            if reasons[at] is None:
                assert trace.features_as_of is not None
                days.setdefault(day_of(trace.features_as_of).isoformat(), []).append(at)
        for day, places in days.items():
            vectors[places] = self._of_day(day, [traces[at] for at in places])
        return vectors, reasons

    def _missing(self, trace: Trace) -> str | None:
        """Why the facts that `trace` was served from are not all in the lake; None when they are.

        A day is complete once it has been materialised, which happens when it is over.
        """
        if trace.features_as_of is None:
            return NO_HISTORY
        last = day_of(trace.features_as_of - 1)
        for view in self._views.values():
            for source in required_sources(view):
                if source not in self._days:
                    self._days[source] = set(self._lake.partitions(f"facts/{source}"))
                there = self._days[source]
                first, _ = lookback_days(view, source, last.isoformat())
                # Before the platform's first day there is nothing to miss.
                begun = min(there, default=last.isoformat())
                missing = _first_missing(max(first, begun), last.isoformat(), there)
                if missing:
                    return f"facts/{source} of {missing} are not in the lake"
        return None

    def _of_day(self, day: str, traces: Sequence[Trace]) -> npt.NDArray[np.float32]:
        as_of = [trace.features_as_of for trace in traces]
        windows = self._orders(traces, as_of)
        # What a request says of its own time is about its own time, not about the store's.
        alone = self._orders(traces, [trace.request.get("known_ts") for trace in traces])
        values = np.empty((len(traces), len(self.features)), np.float32)
        for name, view in self._views.items():
            asked = windows if required_sources(view) else alone
            computed = compute_view(view, day_sources(self._lake, view, day, asked), asked)
            rows = computed.sort_by("transaction_id")
            for column, feature in enumerate(self.features):
                owner, _, short = feature.partition(":")
                if owner == name:
                    values[:, column] = rows[short].to_numpy()
        return values

    def _orders(self, traces: Sequence[Trace], known_ts: Sequence[Any]) -> pa.Table:
        """The requests as facts, numbered by `transaction_id`, known at the given times."""
        rows = [
            {**trace.request, "transaction_id": number, "known_ts": known}
            for number, (trace, known) in enumerate(zip(traces, known_ts, strict=True))
        ]
        raw = pa.Table.from_pylist(rows, schema=TRANSACTIONS.schema)
        events = self._lake.read("raw/events", spec=EVENTS)
        none = array([], pa.int64())
        return build_transactions(raw, earlier_ids=none, events=events).table


def _first_missing(first: str, last: str, there: set[str]) -> str | None:
    """The first of the days `first` to `last` that is not in `there`."""
    day = date.fromisoformat(first)
    while day.isoformat() <= last:
        if day.isoformat() not in there:
            return day.isoformat()
        day += timedelta(days=1)
    return None
