"""Optuna search over tree parameters: stored, resumable, the same whether interrupted or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import optuna
import xgboost as xgb
from optuna.trial import TrialState

from ibook_assets.core.metrics import Ranking, weighted_average_precision
from ibook_assets.core.use_cases import Span, TreeSpace
from ibook_assets.training.examples import Examples
from ibook_assets.training.trees import (
    BASE_RATE,
    METRIC,
    VALIDATION,
    TreeParameters,
    margins,
    training_matrix,
)

_REPORT_EVERY: Final = 20
"""Rounds between two looks of the pruner."""
_STARTUP_TRIALS: Final = 5

TUNING_ROWS: Final = 15_000
"""Rows a trial grows on and is judged by; a search sees more parameters rather than more rows."""

_PRUNE_BELOW_PERCENTILE: Final = 25.0


_EvalsLog: TypeAlias = xgb.callback.TrainingCallback.EvalsLog


@dataclass(frozen=True, slots=True)
class Fold:
    """Positions of rows to fit on and of later rows to validate on."""

    fit: npt.NDArray[np.intp]
    validate: npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Tuning:
    """What a search found."""

    study_name: str
    parameters: TreeParameters
    average_precision: float
    """Mean over the folds' validation rows."""
    rounds: int
    """Mean number of trees the best trial stopped at."""
    trials: int
    pruned: int
    history: tuple[tuple[int, float], ...]
    """Trial number and value of every completed trial."""


@dataclass(frozen=True, slots=True)
class _Sample:
    x: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int8]
    weights: npt.NDArray[np.float64]


def thin(
    labels: npt.NDArray[np.int8], *, max_rows: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Positions of every fraud and of as many legitimate rows as fit, with compensating weights.

    The weights keep the base rate, so that precision means the same as on all rows.
    """
    fraud, legit = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    room = max(max_rows - fraud.size, min(fraud.size, legit.size))
    if room >= legit.size:
        return np.arange(labels.size), np.ones(labels.size)
    kept = rng.choice(legit, size=room, replace=False)
    rows = np.sort(np.concatenate([fraud, kept]))
    return rows, np.where(labels[rows] == 1, 1.0, legit.size / room)


class _Folds:
    """Thinned folds with their binned matrices, built once for each number of bins."""

    def __init__(
        self, examples: Examples, folds: Sequence[Fold], *, max_rows: int, seed: int, threads: int
    ) -> None:
        rng = np.random.default_rng(seed)
        self._threads = threads
        self._samples = [
            tuple(_sample(examples, rows, max_rows, rng) for rows in (fold.fit, fold.validate))
            for fold in folds
        ]
        self._matrices: dict[tuple[int, int], tuple[xgb.DMatrix, xgb.DMatrix]] = {}

    def __len__(self) -> int:
        return len(self._samples)

    def matrices(self, fold: int, max_bin: int) -> tuple[xgb.DMatrix, xgb.DMatrix]:
        """Rows to grow on and rows to judge by."""
        key = (fold, max_bin)
        if key not in self._matrices:
            fit, validate = self._samples[fold]
            grown = _binned(fit, max_bin=max_bin, threads=self._threads)
            judged = _binned(validate, max_bin=max_bin, threads=self._threads, ref=grown)
            self._matrices[key] = (grown, judged)
        return self._matrices[key]

    def average_precision(self, fold: int, scores: npt.NDArray[np.float32]) -> float:
        """Of validation rows, weighted back to the base rate."""
        validate = self._samples[fold][1]
        ranking = Ranking.of(validate.labels, scores.astype(np.float64))
        return float(weighted_average_precision(ranking, validate.weights[None, :])[0])


def _sample(
    examples: Examples, rows: npt.NDArray[np.intp], max_rows: int, rng: np.random.Generator
) -> _Sample:
    kept, weights = thin(examples.labels[rows], max_rows=max_rows, rng=rng)
    return _Sample(examples.x[rows[kept]], examples.labels[rows[kept]], weights)


def _binned(
    sample: _Sample, *, max_bin: int, threads: int, ref: xgb.DMatrix | None = None
) -> xgb.DMatrix:
    return training_matrix(
        sample.x,
        sample.labels,
        weights=sample.weights,
        max_bin=max_bin,
        threads=threads,
        ref=ref,
    )


class _Prune(xgb.callback.TrainingCallback):
    """Reports the validation score to the study and gives hopeless trials up."""

    def __init__(self, trial: optuna.Trial, *, first_step: int) -> None:
        super().__init__()
        self._trial = trial
        self._first_step = first_step

    def after_iteration(self, _model: object, epoch: int, evals_log: _EvalsLog) -> bool:
        """Raises TrialPruned when the study has seen much better at this point."""
        if (epoch + 1) % _REPORT_EVERY == 0:
            score = np.asarray(evals_log[VALIDATION][METRIC])[-1]
            self._trial.report(float(score), self._first_step + epoch)
            if self._trial.should_prune():
                raise optuna.TrialPruned
        return False


def tune(
    examples: Examples,
    folds: Sequence[Fold],
    space: TreeSpace,
    *,
    study_name: str,
    storage: Path,
    trials: int,
    seed: int,
    threads: int,
    max_rows: int = TUNING_ROWS,
    starts: Sequence[TreeParameters] = (TreeParameters(),),
) -> Tuning:
    """Search `space` for the highest mean average precision on the folds' later rows.

    The study is kept in a SQLite file and continued by name: finished trials count towards
    `trials`, one that was cut off is run again, and the result equals that of a search that was
    never interrupted. The first trials are always `starts`, so a search cannot do worse.

    Args:
        examples: rows the folds point into.
        folds: at least one; validation rows are later than the rows fitted on.
        space: bounds of the parameters, and how many rounds to wait and to grow.
        study_name: identity of the search; it must change when the data or the space do.
        storage: SQLite file, made when absent.
        trials: finished trials, pruned ones included, to have in the end.
        seed: of sampling, thinning and XGBoost.
        threads: XGBoost's.
        max_rows: legitimate rows are thinned to about this many rows a fold and side.
        starts: parameters to try first; moved into `space` where they lie outside.
    """
    prepared = _Folds(examples, folds, max_rows=max_rows, seed=seed, threads=threads)
    storage.parent.mkdir(parents=True, exist_ok=True)
    backend = optuna.storages.RDBStorage(f"sqlite:///{storage}")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = _open(study_name, backend)
        while (done := _finished(study)) < trials:
            # A sampler seeded by the number of finished trials knows no difference between a
            # fresh and a resumed search.
            study.sampler = optuna.samplers.TPESampler(
                seed=seed + done, n_startup_trials=_STARTUP_TRIALS
            )
            if done < len(starts):
                study.enqueue_trial(_within(space, starts[done]), skip_if_exists=True)
            study.optimize(
                lambda trial: _objective(trial, prepared, space, seed=seed, threads=threads),
                n_trials=1,
            )
        return _summary(study)
    finally:
        backend.engine.dispose()


def _open(study_name: str, backend: optuna.storages.RDBStorage) -> optuna.Study:
    study = optuna.create_study(
        study_name=study_name,
        storage=backend,
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.PercentilePruner(
            _PRUNE_BELOW_PERCENTILE,
            n_startup_trials=_STARTUP_TRIALS,
            n_warmup_steps=2 * _REPORT_EVERY,
        ),
    )
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    return study


def _finished(study: optuna.Study) -> int:
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    return len(study.get_trials(deepcopy=False, states=states))


def _within(space: TreeSpace, parameters: TreeParameters) -> dict[str, Any]:
    """`parameters`, moved into `space` where they lie outside."""
    start: dict[str, Any] = {}
    for name, value in parameters.as_plain().items():
        bounds = getattr(space, name)
        if isinstance(bounds, Span):
            start[name] = type(value)(min(max(float(value), bounds.low), bounds.high))
        else:
            choices = [BASE_RATE if choice is None else choice for choice in bounds]
            start[name] = value if value in choices else choices[0]
    return start


def suggest(trial: optuna.Trial, space: TreeSpace) -> TreeParameters:
    """Parameters of one trial within `space`."""

    def number(name: str) -> float:
        span: Span = getattr(space, name)
        return trial.suggest_float(name, span.low, span.high, log=span.log)

    bases: list[float | str] = [BASE_RATE if v is None else v for v in space.base_score]
    base_score = trial.suggest_categorical("base_score", bases)
    return TreeParameters(
        eta=number("eta"),
        max_depth=trial.suggest_int(
            "max_depth", int(space.max_depth.low), int(space.max_depth.high)
        ),
        min_child_weight=number("min_child_weight"),
        subsample=number("subsample"),
        colsample_bytree=number("colsample_bytree"),
        reg_lambda=number("reg_lambda"),
        scale_pos_weight=number("scale_pos_weight"),
        max_bin=trial.suggest_categorical("max_bin", space.max_bin),
        base_score=None if base_score == BASE_RATE else float(base_score or 0),
    )


def _objective(
    trial: optuna.Trial, folds: _Folds, space: TreeSpace, *, seed: int, threads: int
) -> float:
    parameters = suggest(trial, space)
    values: list[float] = []
    rounds: list[int] = []
    for fold in range(len(folds)):
        grown, judged = folds.matrices(fold, parameters.max_bin)
        booster = xgb.train(
            parameters.as_xgboost(seed=seed, threads=threads),
            grown,
            num_boost_round=space.max_rounds,
            evals=[(judged, VALIDATION)],
            callbacks=[
                xgb.callback.EarlyStopping(rounds=space.patience, maximize=True),
                _Prune(trial, first_step=fold * space.max_rounds),
            ],
            verbose_eval=False,
        )
        rounds.append(booster.best_iteration + 1)
        values.append(folds.average_precision(fold, margins(booster, judged, rounds=rounds[-1])))
    trial.set_user_attr("rounds", float(np.mean(rounds)))
    return float(np.mean(values))


def _summary(study: optuna.Study) -> Tuning:
    best = study.best_trial
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return Tuning(
        study_name=study.study_name,
        parameters=TreeParameters.from_plain(best.params),
        average_precision=float(study.best_value),
        rounds=round(best.user_attrs["rounds"]),
        trials=_finished(study),
        pruned=_finished(study) - len(complete),
        history=tuple((t.number, float(t.value)) for t in complete if t.value is not None),
    )
