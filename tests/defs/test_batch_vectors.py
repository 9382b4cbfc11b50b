"""Vectors of served predictions against batch: equal, differing by name, or why there is none."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from ibook_assets.core.predictions import Trace, vector_digest
from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import TRANSACTIONS
from ibook_assets.core.times import HOUR_US, day_of
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.stores.batch_vectors import NO_HISTORY, BatchFeatures
from ibook_assets.stores.online import OnlineStore, fetch_online_features
from tests.defs.conftest import run
from tests.defs.sinking import lake_of
from tests.traces import a_trace

FACTS = ("transactions", "views", "refunds", "outcomes")
DAYS = ("2026-01-01", "2026-01-06")
KEYS = [["raw", "events"], *([group, name] for group in ("raw", "facts") for name in FACTS)]


@pytest.fixture
def served(small: Settings) -> Settings:
    """Six days of facts, and the snapshot published after them."""
    run(small, KEYS, days=DAYS)
    run(small, [["serving", "online_snapshot"]])
    return small


def traces_of(settings: Settings, *, as_of_us: int | None = None) -> list[Trace]:
    """Traces of the last day's orders as a server on the snapshot would make them."""
    orders = lake_of(settings).read("raw/transactions", [DAYS[1]], spec=TRANSACTIONS).to_pylist()
    rows = [{name: value for name, value in row.items() if value is not None} for row in orders]
    for row in rows[::2]:
        # As a request that names no time and little else.
        del row["transaction_id"]
        row.pop("promoter_id", None)
    store = OnlineStore.open(settings.online_path)
    found = fetch_online_features(FRAUD.features, rows, store, as_of_us)
    return [
        a_trace(
            f"r-{number}",
            vector=values.tobytes(),
            vector_sha256=vector_digest(values.tobytes()),
            features_as_of=found.as_of_us,
            row=msgspec.json.encode(row).decode(),
        )
        for number, (row, values) in enumerate(zip(rows, found.values, strict=True))
    ]


def differing(settings: Settings, traces: Sequence[Trace]) -> set[str]:
    batch = BatchFeatures(lake_of(settings).blobs, FRAUD.features)
    vectors, reasons = batch.of(traces)
    assert reasons == [None] * len(traces)
    served = np.array([trace.features for trace in traces])
    alike = (served.view(np.int32) == vectors.view(np.int32)) | (
        np.isnan(served) & np.isnan(vectors)
    )
    return {FRAUD.features[column] for column in np.flatnonzero(~alike.all(axis=0))}


def test_what_was_served_is_what_batch_computes_as_of_then(served: Settings) -> None:
    traces = traces_of(served)
    assert len(traces) > 20
    assert np.isfinite([t.features for t in traces]).any(axis=0).mean() > 0.7
    assert differing(served, traces) == set()


def test_a_feature_that_was_served_differently_is_the_one_that_differs(served: Settings) -> None:
    traces = traces_of(served)
    wrong = FRAUD.features.index("order_context:amount")
    changed = traces[0].features.copy()
    changed[wrong] += 1
    traces[0] = msgspec.structs.replace(traces[0], vector=changed.tobytes())
    assert differing(served, traces) == {"order_context:amount"}


def test_facts_that_are_not_in_the_lake_are_named(served: Settings) -> None:
    (trace, *_) = traces_of(served)
    assert trace.features_as_of is not None
    later = msgspec.structs.replace(trace, features_as_of=trace.features_as_of + 2 * HOUR_US)
    without = msgspec.structs.replace(trace, features_as_of=None)
    batch = BatchFeatures(lake_of(served).blobs, FRAUD.features)
    vectors, reasons = batch.of([later, without])
    day = day_of(trace.features_as_of).isoformat()
    assert reasons[0] is not None
    assert reasons[0].endswith(f"of {day} are not in the lake")
    assert reasons[1] == NO_HISTORY
    assert np.isnan(vectors).all()
