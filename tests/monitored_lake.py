"""A lake of made-up orders with a champion that serves, for tests of monitoring.

Two features tell fraud; the others are noise. What happens to the days after the training set is
up to the test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from ibook_assets.core.arrow import Column
from ibook_assets.core.canonical import canonical_json
from ibook_assets.core.features.catalog import view
from ibook_assets.core.manifest import SnapshotManifest
from ibook_assets.core.maturity import TimeSplit
from ibook_assets.core.monitoring.columns import Floats, Ints
from ibook_assets.core.promotion import PromotionRecord
from ibook_assets.core.times import DAY_US, day_start_us
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.stores.artefacts import publish_artefact
from ibook_assets.stores.feature_days import feature_table
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.local_blobs import LocalBlobs
from ibook_assets.stores.promotions import PromotionLog
from ibook_assets.training.examples import Examples
from ibook_assets.training.fit import fit
from ibook_assets.training.trees import TreeParameters
from tests.promotion_drafts import a_draft

START = date(2026, 1, 1)
MATURITY_DAYS = 5
TRAINED_DAYS, LEARNT_DAYS = 60, 30
"""Days until the training set is made, and those of them that the champion learns from."""
ORDERS = 300
ORDER_CONTEXT = replace(FRAUD, views=("order_context",))
"""The fraud use case with the one view that this lake has."""
TELLING = ("amount", "checkout_duration")
CODES = ("tier_code", "channel_code", "category")
_NAMES = view("order_context").feature_names


def day_name(number: int) -> str:
    """Partition key of a day; 0 is the first."""
    return (START + timedelta(days=number)).isoformat()


@dataclass(frozen=True)
class Day:
    """Orders of a day; row by row."""

    ids: Ints
    known_ts: Ints
    x: Floats
    frauds: Ints


Change = Callable[[Day, np.random.Generator], Day]


def an_ordinary_day(number: int, *, fraud_share: float = 0.10) -> Day:
    """Day `number` as it is when nothing has happened."""
    rng = np.random.default_rng(number)
    x = rng.normal(size=(ORDERS, len(_NAMES)))
    for name in CODES:
        x[:, _NAMES.index(name)] = rng.integers(0, 3, ORDERS)
    frauds = (rng.random(ORDERS) < fraud_share).astype(np.int64)
    for name in TELLING:
        x[:, _NAMES.index(name)] += 1.6 * frauds
    times = day_start_us(START) + number * DAY_US + np.sort(rng.integers(0, DAY_US, ORDERS))
    return Day(number * 10_000 + np.arange(ORDERS), times, x, frauds)


class MonitoredLake:
    """The lake, its days, and its champion."""

    def __init__(self, root: Path) -> None:
        self.lake = Lake(LocalBlobs(str(root)))

    @property
    def champion(self) -> PromotionRecord:
        """The promoted model."""
        return PromotionLog(self.lake.blobs).require_current(FRAUD.name)

    def write_day(self, number: int, day: Day) -> None:
        """Land the orders of a day, their features, and their outcomes, known two days later."""
        name = day_name(number)
        keys: dict[str, Column] = {"transaction_id": day.ids, "known_ts": day.known_ts}
        self.lake.write("facts/transactions", name, pa.table(keys))
        features: dict[str, Column] = {
            feature: day.x[:, i].astype(np.float32) for i, feature in enumerate(_NAMES)
        }
        self.lake.write(feature_table("order_context"), name, pa.table({**keys, **features}))
        fraud = day.frauds == 1
        outcomes = {
            "transaction_id": pa.array(day.ids[fraud], pa.int64()),
            "known_ts": pa.array(day.known_ts[fraud] + 2 * DAY_US, pa.int64()),
            "is_fraud": pa.array(np.ones(fraud.sum()), pa.int64()),
        }
        self.lake.write("facts/outcomes", day_name(number + 2), pa.table(outcomes))

    def train(self) -> None:
        """A training set of the mature days, and a champion that learnt from its first half."""
        days = [an_ordinary_day(n) for n in range(TRAINED_DAYS)]
        for number, day in enumerate(days):
            self.write_day(number, day)
        mature = days[: TRAINED_DAYS - MATURITY_DAYS]
        x = np.concatenate([day.x for day in mature]).astype(np.float32)
        ids = np.concatenate([day.ids for day in mature])
        known_ts = np.concatenate([day.known_ts for day in mature])
        labels = np.concatenate([day.frauds for day in mature]).astype(np.int8)
        names = ORDER_CONTEXT.features
        columns: dict[str, Column] = {name: x[:, i] for i, name in enumerate(names)}
        keys: dict[str, Column] = {"transaction_id": ids, "known_ts": known_ts, "is_fraud": labels}
        table = pa.table({**keys, **columns})
        end_us = day_start_us(START) + TRAINED_DAYS * DAY_US
        manifest = SnapshotManifest(entries=(), parameters={"as_of_us": end_us})
        snapshot = manifest.snapshot_id
        self.lake.blobs.put(f"manifests/{snapshot}.json", canonical_json(manifest))
        self.lake.write("fraud/training_set", snapshot, table)
        learnt_us = day_start_us(START) + LEARNT_DAYS * DAY_US
        bundle = fit(
            Examples(names, x, labels, known_ts, ids, ids, np.full(ids.size, 5_000), {}),
            TimeSplit(learnt_us - 8 * DAY_US, learnt_us),
            ORDER_CONTEXT,
            TreeParameters(max_depth=3, max_bin=32),
            training_snapshot=snapshot,
            threads=1,
            rounds=15,
        ).bundle
        artefact = publish_artefact(
            self.lake.blobs, FRAUD.name, bundle.files(), sha256=bundle.sha256()
        )
        draft = a_draft(bundle.version, artefact=artefact)
        info = bundle.info
        model = draft.model.model_copy(
            update={
                "feature_names": info.feature_names,
                "spec_hashes": info.spec_hashes,
                "threshold": info.threshold,
                "training_snapshot": snapshot,
            }
        )
        draft = draft.model_copy(update={"model": model})
        PromotionLog(self.lake.blobs).promote(draft, expected_parent=None)

    def follow(self, days: int, change: Change | None = None, *, changed_from: int = 0) -> str:
        """The `days` that come after the training set, `change`d from one on; the last one's name.

        Days that were placed but had not matured when the training set was made are among them.
        """
        rng = np.random.default_rng(99)
        first = TRAINED_DAYS - MATURITY_DAYS
        for number in range(first, TRAINED_DAYS + days):
            day = an_ordinary_day(number)
            if change is not None and number >= first + changed_from:
                day = change(day, rng)
            self.write_day(number, day)
        return day_name(TRAINED_DAYS + days - 1)


def column(name: str) -> int:
    """Position of a feature of the view."""
    return _NAMES.index(name)
