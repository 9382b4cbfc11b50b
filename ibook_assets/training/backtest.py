"""The platform's own features, training and metrics on somebody's own file, week by week.

A start day s gives one test: train on [s, s + train), wait `delay` days for the labels, test on
the `test` days after. Entities known as defrauded since s are left out of each test day, because
an analyst has them already. Hyperparameters are searched once, on the same protocol moved into the
weeks whose labels were known before the first test day: no test row takes part in any choice.

Source: Fraud Detection Handbook, chapters 3 (protocol) and 5 (prequential validation).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ibook_assets.core.arrow import Column, array, one_chunk, pc
from ibook_assets.core.errors import ContractError
from ibook_assets.core.fact_rules import ORDER_COLUMNS, build_outcomes, build_transactions
from ibook_assets.core.features.catalog import view
from ibook_assets.core.features.engine import compute_view
from ibook_assets.core.maturity import TimeSplit, labels_as_of, split_by_time
from ibook_assets.core.metrics import average_precision, card_precision, roc_auc
from ibook_assets.core.tables import EVENTS
from ibook_assets.core.times import DAY_US, day_of, day_start_us
from ibook_assets.core.use_cases import Span, TreeSpace, UseCase
from ibook_assets.training.examples import Examples
from ibook_assets.training.fit import fit
from ibook_assets.training.protocol import BacktestResult, BacktestWeek, Protocol
from ibook_assets.training.trees import TreeParameters
from ibook_assets.training.tune import Fold, Tuning, tune

Positions = npt.NDArray[np.intp]

FOLDS: Final = 3
"""Earlier weeks the search is judged on."""

SPACE: Final = TreeSpace(
    eta=Span(0.05, 0.15, log=True),
    max_depth=Span(2, 5),
    subsample=Span(0.8, 1.0),
    colsample_bytree=Span(0.5, 1.0),
    max_bin=(4_096,),
    max_rounds=300,
)
"""A week of one shop is small: fine bins cost little there and shallow trees suffice."""

STARTS: Final = (
    TreeParameters(),
    TreeParameters(
        max_depth=3, min_child_weight=1.0, subsample=1.0, colsample_bytree=1.0, reg_lambda=1.0
    ),
)
"""Where the search starts: the platform's defaults and the handbook's published parameters."""

_FOLD_ROWS: Final = 150_000
_HINDSIGHT_US: Final = 2**62
"""Later than every outcome."""


@dataclass(frozen=True, slots=True)
class _Facts:
    transactions: pa.Table
    outcomes: pa.Table

    @property
    def first_day(self) -> date:
        return day_of(int(self.transactions["known_ts"][0].as_py()))

    @property
    def last_day(self) -> date:
        return day_of(int(self.transactions["known_ts"][-1].as_py()))


def backtest(
    transactions: pa.Table,
    outcomes: pa.Table,
    use_case: UseCase,
    *,
    train_start: Sequence[date],
    protocol: Protocol,
    study: Path,
    trials: int,
    threads: int,
    ids: Column | None = None,
    space: TreeSpace = SPACE,
) -> BacktestResult:
    """Train and test for every start day.

    Args:
        transactions: columns of TRANSACTIONS.
        outcomes: columns of OUTCOMES; `known_ts` says when a label arrived.
        use_case: features, label, entity, costs and seed.
        train_start: first training days (UTC).
        protocol: lengths of the windows.
        study: SQLite file of the search; running again continues it.
        trials: of the search.
        threads: XGBoost's.
        ids: the file's own id of each row of `transactions`; `transaction_id` unless given.
        space: bounds of the search.

    Raises:
        ContractError: no start day, or one whose windows the file does not cover.
    """
    facts = _facts(transactions, outcomes)
    starts = sorted(set(train_start))
    _require_covered(facts, starts, protocol)
    fold_starts = _fold_starts(facts, starts, protocol)
    examples = _examples(
        facts, use_case, from_day=_first_needed(facts, starts, fold_starts, protocol)
    )
    examples = _informative(examples, until_us=day_start_us(protocol.trained_until(starts[0])))
    folds = _folds(facts, examples, fold_starts, starts[0], protocol)
    tuning = tune(
        examples,
        folds,
        space,
        study_name=_study_name(examples, folds, space, use_case),
        storage=study,
        trials=trials,
        seed=use_case.seed,
        threads=threads,
        max_rows=_FOLD_ROWS,
        starts=STARTS,
    )
    tuned = replace(use_case, space=space)
    tested = [
        _week(facts, examples, tuned, start, protocol=protocol, tuning=tuning, threads=threads)
        for start in starts
    ]
    scores = pa.concat_tables([scored for _, scored in tested])
    if ids is not None:
        rows = pc.index_in(scores["id"], value_set=one_chunk(transactions["transaction_id"]))
        scores = scores.set_column(0, "id", ids.take(one_chunk(rows)))
    return BacktestResult(
        weeks=tuple(week for week, _ in tested),
        scores=scores,
        features=examples.feature_names,
        parameters=tuning.parameters,
        rounds=tuning.rounds,
        search=(
            f"{tuning.trials} trials on {len(folds)} earlier validation windows, "
            f"mean average precision there {tuning.average_precision:.4f}"
        ),
    )


def _facts(transactions: pa.Table, outcomes: pa.Table) -> _Facts:
    none_earlier = array([], pa.int64())
    facts = build_transactions(
        transactions, earlier_ids=none_earlier, events=EVENTS.schema.empty_table()
    ).table
    orders = facts.select(list(ORDER_COLUMNS))
    return _Facts(facts, build_outcomes(outcomes, orders=orders).table)


def _require_covered(facts: _Facts, starts: Sequence[date], protocol: Protocol) -> None:
    if not starts:
        msg = "a backtest needs at least one training start day"
        raise ContractError(msg)
    latest = protocol.tested_until(starts[-1]) - timedelta(days=1)
    if starts[0] < facts.first_day or latest > facts.last_day:
        msg = (
            f"start days {starts[0]}..{starts[-1]} need transactions from {starts[0]} to {latest}, "
            f"the file has {facts.first_day} to {facts.last_day}"
        )
        raise ContractError(msg)


def _fold_starts(facts: _Facts, starts: Sequence[date], protocol: Protocol) -> list[date]:
    """Start days whose whole protocol was over and labelled before the first test day."""
    step = timedelta(days=protocol.test_days)
    latest = starts[0] - timedelta(days=protocol.delay_days + protocol.test_days)
    candidates = [latest - k * step for k in range(FOLDS)]
    return sorted(day for day in candidates if day >= facts.first_day)


def _first_needed(
    facts: _Facts, starts: Sequence[date], fold_starts: Sequence[date], protocol: Protocol
) -> date:
    return facts.first_day if protocol.all_history else min([*starts, *fold_starts])


def _examples(facts: _Facts, use_case: UseCase, *, from_day: date) -> Examples:
    """Rows from `from_day` on with their features; labels as known in hindsight."""
    known_ts = facts.transactions["known_ts"].to_numpy()
    queries = facts.transactions.slice(int(np.searchsorted(known_ts, day_start_us(from_day))))
    sources = {
        "transactions": facts.transactions,
        "outcomes": facts.outcomes,
        "views": None,
        "refunds": None,
    }
    table = queries
    for name in use_case.views:
        values = compute_view(view(name), sources, queries)
        for feature, qualified in zip(
            view(name).feature_names, view(name).qualified_names, strict=True
        ):
            table = table.append_column(qualified, values[feature])
    labels = labels_as_of(
        queries["transaction_id"].to_numpy(), facts.outcomes, as_of_us=_HINDSIGHT_US
    )
    return Examples.from_table(table.append_column(use_case.label, array(labels)), use_case)


def _informative(examples: Examples, *, until_us: int) -> Examples:
    """Without features that never vary before `until_us`: their inputs are not in the file."""
    past = examples.x[examples.known_ts < until_us]
    # NaN in either comparison is no variation; a feature that is sometimes NaN varies.
    some = np.isnan(past).any(axis=0) & ~np.isnan(past).all(axis=0)
    low, high = np.fmin.reduce(past, axis=0), np.fmax.reduce(past, axis=0)
    kept = np.flatnonzero(some | (high > low))
    names = tuple(examples.feature_names[j] for j in kept)
    return replace(examples, feature_names=names, x=np.ascontiguousarray(examples.x[:, kept]))


def _train_rows(examples: Examples, start: date, protocol: Protocol) -> npt.NDArray[np.bool_]:
    # These are exactly the rows whose label had `delay_days` to arrive before the first test day.
    mature = examples.known_ts < day_start_us(protocol.trained_until(start))
    if protocol.all_history:
        return mature
    return mature & (examples.known_ts >= day_start_us(start))


def _test_rows(facts: _Facts, examples: Examples, start: date, protocol: Protocol) -> Positions:
    """Rows of the test days without the users that were known as defrauded by then."""
    since = facts.transactions["known_ts"].to_numpy() >= day_start_us(start)
    recent = facts.transactions["transaction_id"].to_numpy()[since]
    counted = (facts.outcomes["is_fraud"].to_numpy() == 1) & np.isin(
        facts.outcomes["transaction_id"].to_numpy(), recent
    )
    frauds = facts.outcomes.filter(array(counted))
    fraud_ts, fraud_users = frauds["known_ts"].to_numpy(), frauds["user_id"].to_numpy()
    kept: list[Positions] = []
    first = day_start_us(protocol.test_from(start))
    for day_us in range(first, first + protocol.test_days * DAY_US, DAY_US):
        low, high = np.searchsorted(examples.known_ts, [day_us, day_us + DAY_US])
        rows = np.arange(low, high)
        known = fraud_users[fraud_ts < day_us]
        kept.append(rows[~np.isin(examples.entity_ids[rows], known)])
    return np.concatenate(kept)


def _folds(
    facts: _Facts,
    examples: Examples,
    fold_starts: Sequence[date],
    first_start: date,
    protocol: Protocol,
) -> list[Fold]:
    if not fold_starts:
        rows = np.flatnonzero(_train_rows(examples, first_start, protocol))
        split = split_by_time(examples.known_ts[rows])
        validate = split.evaluation(examples.known_ts[rows])
        return [Fold(rows[~validate], rows[validate])]
    return [
        Fold(
            np.flatnonzero(_train_rows(examples, start, protocol)),
            _test_rows(facts, examples, start, protocol),
        )
        for start in fold_starts
    ]


def _week(
    facts: _Facts,
    examples: Examples,
    use_case: UseCase,
    start: date,
    *,
    protocol: Protocol,
    tuning: Tuning,
    threads: int,
) -> tuple[BacktestWeek, pa.Table]:
    as_of_us = day_start_us(protocol.test_from(start))
    training = examples.take(_train_rows(examples, start, protocol))
    known = labels_as_of(training.transaction_ids, facts.outcomes, as_of_us=as_of_us)
    training = replace(training, labels=known)
    latest = split_by_time(training.known_ts, evaluation_share=use_case.calibration_share)
    fitted = fit(
        training,
        TimeSplit(latest.evaluation_from_us, as_of_us, protocol.delay_days * DAY_US),
        use_case,
        tuning.parameters,
        training_snapshot=f"backtest-{start}",
        threads=threads,
        rounds=tuning.rounds,
    )
    test = examples.take(_test_rows(facts, examples, start, protocol))
    scores = fitted.bundle.score(test.x)
    week = BacktestWeek(
        train_start=start,
        roc_auc=roc_auc(test.labels, scores),
        average_precision=average_precision(test.labels, scores),
        card_precision=card_precision(
            test.labels, scores, day=test.known_ts // DAY_US, entity=test.entity_ids
        ),
        train_rows=training.rows,
        train_frauds=training.frauds,
        test_rows=test.rows,
        test_frauds=test.frauds,
    )
    scored = pa.table(
        {
            "id": array(test.transaction_ids),
            "score": array(scores),
            "train_start": array([start] * test.rows, pa.date32()),
            "label": array(test.labels),
        }
    )
    return week, scored


def _study_name(
    examples: Examples, folds: Sequence[Fold], space: TreeSpace, use_case: UseCase
) -> str:
    digest = hashlib.sha256(repr((examples.feature_names, space, use_case.spec_hashes)).encode())
    for fold in folds:
        for rows in (fold.fit, fold.validate):
            digest.update(examples.x[rows].tobytes())
            digest.update(examples.labels[rows].tobytes())
    return f"backtest-{use_case.name}-{digest.hexdigest()[:16]}"
