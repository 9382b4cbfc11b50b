"""Features and a champion of a simulated world, for the signals that need no labels.

As in service: the champion reads every feature, the reference is the last 28 days of its training
set, which it did not learn from, and the judged days come once the labels of those are mature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bench.drift_tables import Run
from bench.drift_worlds import (
    MATURITY_DAYS,
    NO_DRIFT,
    Ints,
    Matrix,
    day_numbers,
    facts_of,
    feature_matrix,
    fraud_labels,
    true_frauds,
)
from ibook_assets.core.arrow import integers
from ibook_assets.core.maturity import TimeSplit
from ibook_assets.core.metrics import average_precision
from ibook_assets.core.monitoring import DRIFT_SCORE_THRESHOLD, Reference
from ibook_assets.core.monitoring.feature_columns import feature_columns
from ibook_assets.core.monitoring.quality import SoundDays
from ibook_assets.core.monitoring.signals import of_scores
from ibook_assets.core.times import DAY_US, day_start_us
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.models.bundle import ModelBundle
from ibook_assets.stores.drift_days import REFERENCE_DAYS
from ibook_assets.stores.feature_windows import FeatureWindows
from ibook_assets.training.attribution import attribution_drift, attributions_by_day
from ibook_assets.training.domain import domain_drift, undrifted_days
from ibook_assets.training.examples import Examples
from ibook_assets.training.fit import fit
from ibook_assets.training.trees import TreeParameters
from ibook_sim.drift import Drift, DriftedWorld
from ibook_sim.world import WorldConfig

WARM_UP, LEARNT_DAYS = 30, 28
"""Days until windows of 30 days are full, and days the champion learns from."""
REFERENCE_FROM = WARM_UP + LEARNT_DAYS
REFERENCE_END = REFERENCE_FROM + REFERENCE_DAYS
FIRST_JUDGED = REFERENCE_END + MATURITY_DAYS

EVIDENTLY_DEFAULT: Final = 0.50
"""Share of drifted columns from which Evidently calls a data set drifted unless told otherwise."""
SHARE_030 = "Evidently, share >= 0.30"
SHARE_050 = "Evidently's default, share >= 0.50"

NAMES: Final = tuple(FRAUD.features)
COMPARED: Final = feature_columns(NAMES, reference_days=REFERENCE_DAYS)
_PLACES: Final = [NAMES.index(name) for name in COMPARED.kinds]
_KINDS: Final = {name: COMPARED.kinds.get(name, "numeric") for name in NAMES}

_TREES = TreeParameters(max_depth=5, max_bin=64, colsample_bytree=0.3, min_child_weight=20.0)
_ROUNDS = 60
_CALIBRATION_DAYS = 7
_NEW_CODE = 99.0


@dataclass(frozen=True)
class Rows:
    """Orders of some days with all features."""

    x: Matrix
    day: Ints
    orders: pa.Table

    def columns(self, names: Mapping[str, object]) -> dict[str, npt.NDArray[np.float32]]:
        """Feature to its rows."""
        return {name: self.x[:, NAMES.index(name)] for name in names}


class FeatureWorld:
    """A world's past, computed once, and what may follow from `FIRST_JUDGED` on."""

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self._calm = DriftedWorld(config, NO_DRIFT)
        start = config.start_date
        raw = [self._calm.day(start + timedelta(days=number)) for number in range(FIRST_JUDGED)]
        self._facts = facts_of(raw, self._events(FIRST_JUDGED - 1))

    def past(self) -> Rows:
        """Days `WARM_UP` to the last of the reference."""
        number = day_numbers(self.config, self._facts["transactions"])
        return self._rows(self._facts, (number >= WARM_UP) & (number < REFERENCE_END))

    def judged(self, days: int, drift: Drift = NO_DRIFT) -> tuple[Rows, Ints]:
        """`days` days from `FIRST_JUDGED` on, and which of their orders are frauds."""
        world = DriftedWorld(self.config, drift)
        last = FIRST_JUDGED + days - 1
        start = self.config.start_date
        raw = [world.day(start + timedelta(days=n)) for n in range(FIRST_JUDGED, last + 1)]
        facts = facts_of(raw, self._events(last), before=self._facts)
        number = day_numbers(self.config, facts["transactions"])
        rows = self._rows(facts, number >= FIRST_JUDGED)
        ids = integers(rows.orders["transaction_id"], null=-1)
        return rows, true_frauds(world, ids, rows.day)

    def _events(self, last: int) -> pa.Table:
        return self._calm.catalogue(self.config.start_date + timedelta(days=last + 1)).events

    def _rows(self, facts: Mapping[str, pa.Table], asked: npt.NDArray[np.bool_]) -> Rows:
        orders = facts["transactions"].filter(pa.array(asked))
        return Rows(feature_matrix(NAMES, facts, orders), day_numbers(self.config, orders), orders)


def champion(config: WorldConfig, past: Rows) -> ModelBundle:
    """A model that has learnt from every second order before the reference."""
    kept = np.flatnonzero(past.day < REFERENCE_FROM)[::2]
    orders = past.orders.take(kept)
    ids = integers(orders["transaction_id"], null=-1)
    examples = Examples(
        feature_names=NAMES,
        x=past.x[kept],
        labels=fraud_labels(config, ids, past.day[kept]).astype(np.int8),
        known_ts=integers(orders["known_ts"], null=0),
        transaction_ids=ids,
        entity_ids=integers(orders["user_id"], null=-1),
        amount_cents=integers(orders["amount_cents"], null=0),
        attributes={},
    )
    end_us = day_start_us(config.start_date) + REFERENCE_FROM * DAY_US
    split = TimeSplit(
        calibration_from_us=end_us - _CALIBRATION_DAYS * DAY_US, evaluation_from_us=end_us
    )
    fitted = fit(
        examples, split, FRAUD, _TREES, training_snapshot="0" * 64, threads=1, rounds=_ROUNDS
    )
    return fitted.bundle


class FeatureJudge:
    """Every signal without labels and Evidently's rule, the reference prepared once."""

    def __init__(self, bundle: ModelBundle, past: Rows) -> None:
        kept = past.day >= REFERENCE_FROM
        self._bundle = bundle
        self._past = Rows(past.x[kept], past.day[kept], past.orders.filter(pa.array(kept)))
        days = self._past.day
        self._columns = Reference(self._past.columns(COMPARED.kinds), COMPARED.kinds, days=days)
        self._quality = SoundDays(
            self._past.columns(_KINDS), _KINDS, days, uncalibrated=COMPARED.left_out
        )
        margins = {"score": bundle.margins(self._past.x)}
        self._scores = Reference(margins, {"score": "numeric"}, days=days)
        nothing = self._past.x[:0], days[:0]
        self._undrifted = undrifted_days(self._windows(_PLACES, *nothing))
        everything = range(len(NAMES))
        self._attributions = attributions_by_day(self._windows(everything, *nothing), bundle)

    def verdicts(self, rows: Rows, frauds: Ints, usual: float | None) -> dict[str, Run]:
        """What each says day by day; `usual` is the average precision on undrifted days."""
        loss = None if usual is None else 1 - self.precision(rows, frauds) / usual
        told: dict[str, list[bool]] = {}
        for day in np.unique(rows.day):
            now = rows.day == day
            today = Rows(np.ascontiguousarray(rows.x[now]), rows.day[now], rows.orders)
            for name, said in self._of(today).items():
                told.setdefault(name, []).append(said)
        return {name: Run(tuple(said), tuple(said), loss=loss) for name, said in told.items()}

    def precision(self, rows: Rows, frauds: Ints) -> float:
        """Average precision of the champion, by the truth."""
        return average_precision(frauds, self._bundle.score(rows.x))

    def _of(self, today: Rows) -> dict[str, bool]:
        decision = self._columns.judged(today.columns(COMPARED.kinds), days=today.day)
        share = decision.distance_share or 0.0
        margins = {"score": self._bundle.margins(today.x)}
        signals = [
            self._quality.judged(today.columns(_KINDS)),
            of_scores(self._scores.judged(margins, days=today.day)),
            domain_drift(self._windows(_PLACES, today.x, today.day), undrifted=self._undrifted),
            attribution_drift(
                self._windows(range(len(NAMES)), today.x, today.day),
                self._bundle,
                undrifted=self._attributions,
            ),
        ]
        return {
            "feature_drift": decision.drifted or decision.score_fires,
            **{str(signal.name): signal.acts for signal in signals},
            SHARE_030: share >= DRIFT_SCORE_THRESHOLD,
            SHARE_050: share >= EVIDENTLY_DEFAULT,
        }

    def _windows(self, places: list[int] | range, x: Matrix, day: Ints) -> FeatureWindows:
        return FeatureWindows(
            tuple(NAMES[i] for i in places),
            self._past.x[:, places],
            self._past.day,
            integers(self._past.orders["known_ts"], null=0),
            np.ascontiguousarray(x[:, places]),
            day,
        )


def more_fraud(
    rows: Rows, frauds: Ints, level: float, rng: np.random.Generator
) -> tuple[Rows, Ints]:
    """Every fraud comes again with probability `level`, as at the prior axis of that level.

    A world of another fraud share has other accounts from its first day on: in features, what would
    be seen is the seam between the two.
    """
    again = np.flatnonzero((frauds == 1) & (rng.random(frauds.size) < level))
    kept = np.r_[np.arange(frauds.size), again]
    return Rows(rows.x[kept], rows.day[kept], rows.orders.take(kept)), frauds[kept]


Harm = Callable[[Matrix, float, np.random.Generator], Matrix]
"""Spoils a share of a day's rows."""


def harms(bundle: ModelBundle) -> dict[str, Harm]:
    """Faults of data that no axis of the simulator makes, by the features the model reads most."""
    gains = bundle.booster.get_score(importance_type="total_gain")
    top = [int(name[1:]) for name in sorted(gains, key=lambda name: -float(np.max(gains[name])))]
    code = next(i for i in top if COMPARED.kinds.get(NAMES[i]) == "categorical")
    unread = next(i for i in _PLACES if i not in top and _KINDS[NAMES[i]] == "numeric")
    compared = [i for i in top if i in _PLACES]
    return {
        "nulls in the top feature": replaced([top[0]], lambda values, _: values * np.nan),
        "eight top features joined wrongly": replaced(top[:8], shuffled),
        "eight top compared ones joined wrongly": replaced(compared[:8], shuffled),
        "a new code in the top code": replaced([code], lambda v, _: np.full_like(v, _NEW_CODE)),
        "harmless: an unread feature x 10": replaced([unread], lambda values, _: values * 10),
    }


def shuffled(values: Matrix, rng: np.random.Generator) -> Matrix:
    """The same values in other rows."""
    return rng.permutation(values)


def replaced(columns: list[int], by: Callable[[Matrix, np.random.Generator], Matrix]) -> Harm:
    """In a share of the rows each of `columns` gets other values."""

    def harm(x: Matrix, share: float, rng: np.random.Generator) -> Matrix:
        spoilt = x.copy()
        rows = np.flatnonzero(rng.random(x.shape[0]) < share)
        for column in columns:
            spoilt[rows, column] = by(x[rows, column], rng)
        return spoilt

    return harm


def spoilt(rows: Rows, harm: Harm, share: float, rng: np.random.Generator) -> Rows:
    """`rows` with `harm` done to each of their days."""
    x = rows.x.copy()
    for day in np.unique(rows.day):
        now = rows.day == day
        x[now] = harm(x[now], share, rng)
    return Rows(x, rows.day, rows.orders)
