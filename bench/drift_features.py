"""Features and a champion of a simulated world, for the signals that need no labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bench.drift_worlds import NO_DRIFT, Ints, fraud_labels
from ibook_assets.core.arrow import integers
from ibook_assets.core.fact_rules import (
    ORDER_COLUMNS,
    build_outcomes,
    build_refunds,
    build_transactions,
    build_views,
)
from ibook_assets.core.features.catalog import view
from ibook_assets.core.features.engine import compute_view
from ibook_assets.core.maturity import TimeSplit
from ibook_assets.core.monitoring import DriftDecision, Kind, Windows, drift_of
from ibook_assets.core.monitoring.feature_columns import feature_columns
from ibook_assets.core.monitoring.quality import data_quality
from ibook_assets.core.monitoring.signals import Signal, of_scores
from ibook_assets.core.times import DAY_US, day_start_us
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.models.bundle import ModelBundle
from ibook_assets.stores.feature_windows import FeatureWindows
from ibook_assets.training.attribution import attribution_drift, attributions_by_day
from ibook_assets.training.domain import Undrifted, domain_drift, undrifted_days
from ibook_assets.training.examples import Examples
from ibook_assets.training.fit import fit
from ibook_assets.training.trees import TreeParameters
from ibook_sim.drift import Drift, DriftedWorld
from ibook_sim.world import WorldConfig

Matrix = npt.NDArray[np.float32]

WARM_UP = 8
"""Days until the longest window compared, of seven days, is full."""
REFERENCE_FROM, REFERENCE_DAYS = 37, 28
FIRST_JUDGED = REFERENCE_FROM + REFERENCE_DAYS
LEARNT_UNTIL = 44
"""Day from which the champion has learnt from none: scores are compared from here on."""

_NOTHING_EARLIER = pa.chunked_array([], pa.int64())
_TREES = TreeParameters(max_depth=5, max_bin=64, colsample_bytree=0.3, min_child_weight=20.0)
_ROUNDS = 60


@dataclass(frozen=True)
class Rows:
    """Orders of some days with the features that are compared."""

    x: Matrix
    day: Ints
    known_ts: Ints
    orders: pa.Table


class Features:
    """Computes features of a world's days, drifted from `FIRST_JUDGED` on or not at all."""

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self.kinds: dict[str, Kind] = feature_columns(
            FRAUD.features, reference_days=REFERENCE_DAYS
        ).kinds
        self.names = tuple(self.kinds)

    def rows(self, first: int, last: int, drift: Drift = NO_DRIFT) -> Rows:
        """Days `first` to `last`, both included."""
        calm, drifted = (DriftedWorld(self.config, d) for d in (NO_DRIFT, drift))
        start = self.config.start_date
        # From the world's first day on: a refund is its buyer's only if the order is known.
        raw = [
            (drifted if number >= FIRST_JUDGED else calm).day(start + timedelta(days=number))
            for number in range(last + 1)
        ]
        events = calm.catalogue(start + timedelta(days=last + 1)).events
        orders = pa.concat_tables(
            build_transactions(day.transactions, earlier_ids=_NOTHING_EARLIER, events=events).table
            for day in raw
        )
        known = orders.select(list(ORDER_COLUMNS))
        sources: dict[str, pa.Table | None] = {
            "transactions": orders,
            "views": pa.concat_tables(build_views(day.views).table for day in raw),
            "refunds": pa.concat_tables(
                build_refunds(day.refunds, earlier_ids=_NOTHING_EARLIER, orders=known).table
                for day in raw
            ),
            "outcomes": pa.concat_tables(
                build_outcomes(day.outcomes, orders=known).table for day in raw
            ),
        }
        start_us = day_start_us(start)
        number = (integers(orders["known_ts"], null=0) - start_us) // DAY_US
        asked = orders.filter(pa.array(number >= first))
        x = np.empty((asked.num_rows, len(self.names)), np.float32)
        for name in dict.fromkeys(feature.partition(":")[0] for feature in self.names):
            table = compute_view(view(name), sources, asked)
            for position, feature in enumerate(self.names):
                if feature.partition(":")[0] == name:
                    x[:, position] = table[feature.partition(":")[2]].to_numpy()
        known_ts = integers(asked["known_ts"], null=0)
        return Rows(x, (known_ts - start_us) // DAY_US, known_ts, asked)


def champion(features: Features, rows: Rows) -> ModelBundle:
    """A model that has learnt from the days before `LEARNT_UNTIL`."""
    start_us = day_start_us(features.config.start_date)
    ids = integers(rows.orders["transaction_id"], null=-1)
    examples = Examples(
        feature_names=features.names,
        x=rows.x,
        labels=fraud_labels(features.config, ids, rows.day).astype(np.int8),
        known_ts=rows.known_ts,
        transaction_ids=ids,
        entity_ids=integers(rows.orders["user_id"], null=-1),
        amount_cents=integers(rows.orders["amount_cents"], null=0),
        attributes={},
    )
    split = TimeSplit(
        calibration_from_us=start_us + (LEARNT_UNTIL - 8) * DAY_US,
        evaluation_from_us=start_us + LEARNT_UNTIL * DAY_US,
    )
    fitted = fit(
        examples, split, FRAUD, _TREES, training_snapshot="0" * 64, threads=1, rounds=_ROUNDS
    )
    return fitted.bundle


@dataclass(frozen=True)
class Judge:
    """Every signal without labels, its reference prepared once."""

    features: Features
    bundle: ModelBundle
    reference: Rows
    days: Undrifted
    attributions: npt.NDArray[np.float64]

    @classmethod
    def of(cls, features: Features, bundle: ModelBundle, reference: Rows) -> Judge:
        """The judge whose reference is `reference`."""
        windows = _windows(features, reference, reference.x[:0], reference.day[:0])
        unseen = windows.unseen_by(bundle)
        return cls(
            features,
            bundle,
            reference,
            undrifted_days(windows),
            attributions_by_day(unseen, bundle),
        )

    def columns(self, x: Matrix, day: int) -> DriftDecision:
        """Column drift of one day."""
        names = self.features.names
        days = np.full(x.shape[0], day)
        return drift_of(
            {name: self.reference.x[:, i] for i, name in enumerate(names)},
            {name: x[:, i] for i, name in enumerate(names)},
            self.features.kinds,
            windows=Windows(self.reference.day, days),
        )

    def signals(self, x: Matrix, day: int) -> list[Signal]:
        """All other signals of one day."""
        names = self.features.names
        windows = _windows(self.features, self.reference, x, np.full(x.shape[0], day))
        unseen = windows.unseen_by(self.bundle)
        quality = data_quality(
            {name: self.reference.x[:, i] for i, name in enumerate(names)},
            {name: x[:, i] for i, name in enumerate(names)},
            self.features.kinds,
            self.reference.day,
        )
        scores = drift_of(
            {"score": self.bundle.margins(unseen.reference)},
            {"score": self.bundle.margins(np.ascontiguousarray(x))},
            {"score": "numeric"},
            windows=Windows(unseen.days, unseen.day),
        )
        return [
            quality,
            of_scores(scores),
            domain_drift(windows, undrifted=self.days),
            attribution_drift(unseen, self.bundle, undrifted=self.attributions),
        ]


def _windows(features: Features, reference: Rows, x: Matrix, day: Ints) -> FeatureWindows:
    return FeatureWindows(
        features.names, reference.x, reference.day, reference.known_ts, np.ascontiguousarray(x), day
    )


Harm = Callable[[Matrix, np.random.Generator], Matrix]


def nulls(column: int, share: float) -> Harm:
    """`share` of the rows lose the value of `column`."""

    def harm(x: Matrix, rng: np.random.Generator) -> Matrix:
        spoilt = x.copy()
        spoilt[rng.random(x.shape[0]) < share, column] = np.nan
        return spoilt

    return harm


def other_units(column: int, factor: float) -> Harm:
    """`column` is told in other units."""

    def harm(x: Matrix, _: np.random.Generator) -> Matrix:
        spoilt = x.copy()
        spoilt[:, column] *= factor
        return spoilt

    return harm


def joined_wrongly(columns: list[int]) -> Harm:
    """Each of `columns` is of another row: every column lies as ever, together they do not."""

    def harm(x: Matrix, rng: np.random.Generator) -> Matrix:
        spoilt = x.copy()
        for column in columns:
            spoilt[:, column] = x[rng.permutation(x.shape[0]), column]
        return spoilt

    return harm
