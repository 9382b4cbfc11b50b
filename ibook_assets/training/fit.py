"""From mature rows to a model bundle: trees, calibration and threshold."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import xgboost as xgb

from ibook_assets.core.costs import cost_curve
from ibook_assets.core.errors import ContractError
from ibook_assets.core.maturity import TimeSplit
from ibook_assets.core.use_cases import UseCase
from ibook_assets.models.bundle import BundleInfo, ModelBundle, model_bytes, sha256_hex
from ibook_assets.models.calibration import BetaCalibration, fit_beta
from ibook_assets.training.examples import Examples
from ibook_assets.training.trees import VALIDATION, TreeParameters, margins, training_matrix

MIN_FRAUDS: Final = 10
"""Frauds that fitting and calibration need at least, each."""

VERSION_LENGTH: Final = 16


@dataclass(frozen=True, slots=True)
class Fitted:
    """A bundle and what was seen while it was made."""

    bundle: ModelBundle
    rounds: int
    """Trees in the model."""
    validation_curve: tuple[float, ...]
    """Area under precision-recall on the calibration slice after each round."""
    calibration_probabilities: npt.NDArray[np.float64]
    """What the calibrated model says about the calibration slice, in its row order."""


def fit(
    examples: Examples,
    split: TimeSplit,
    use_case: UseCase,
    parameters: TreeParameters,
    *,
    training_snapshot: str,
    threads: int,
    rounds: int | None = None,
    metrics: Mapping[str, float | None] | None = None,
) -> Fitted:
    """Fit a model on the training part of `split`; evaluation rows are not looked at.

    Trees are grown on the fitting rows until the later calibration rows stop improving. Those rows
    then give the calibration and the threshold, and the model is grown again on both parts with
    the number of trees found, because the latest rows say most about the next ones.

    Args:
        examples: mature rows in any order.
        split: where fitting, calibration and evaluation are cut.
        use_case: costs, search space (rounds, patience) and seed.
        parameters: the trees' hyperparameters.
        training_snapshot: identity of the training set, kept in the bundle.
        threads: XGBoost's.
        rounds: trees to grow; found by early stopping unless given.
        metrics: figures to keep in the bundle, e.g. of the search.

    Raises:
        ContractError: a part has too few frauds to learn from.
    """
    early = examples.take(split.fitting(examples.known_ts))
    late = examples.take(split.calibration(examples.known_ts))
    _require_frauds(early, "fitting")
    _require_frauds(late, "calibration")
    rounds, curve, late_margins = _stop_early(
        early, late, use_case, parameters, threads=threads, rounds=rounds
    )
    calibration = fit_beta(late_margins, late.labels)
    probabilities = calibration.apply(late_margins)
    threshold = cost_curve(
        late.labels, probabilities, late.amount_cents, use_case.costs
    ).best_threshold
    training = examples.take(split.training(examples.known_ts))
    model = model_bytes(_grow(training, use_case, parameters, rounds=rounds, threads=threads))
    info = BundleInfo(
        use_case=use_case.name,
        version=version_of(training_snapshot, model, calibration, threshold),
        feature_names=examples.feature_names,
        spec_hashes={name: use_case.spec_hashes[name] for name in views_of(examples)},
        calibration=calibration,
        threshold=threshold,
        training_snapshot=training_snapshot,
        trained_until_us=split.training_until_us,
        training_rows=training.rows,
        training_frauds=training.frauds,
        parameters={**parameters.as_plain(), "rounds": rounds, "seed": use_case.seed},
        metrics=dict(metrics or {}),
        libraries={
            "python": platform.python_version(),
            "numpy": np.__version__,
            "xgboost": xgb.__version__,
        },
        model_sha256=sha256_hex(model),
    )
    return Fitted(ModelBundle(info, model), rounds, curve, probabilities)


def views_of(examples: Examples) -> list[str]:
    """Feature views that the columns of `examples` come from, in column order."""
    return list(dict.fromkeys(name.partition(":")[0] for name in examples.feature_names))


def version_of(
    training_snapshot: str, model: bytes, calibration: BetaCalibration, threshold: float
) -> str:
    """A version that follows from the content: training again on the same data gives it again."""
    decision = f"{calibration.model_dump_json()}{threshold!r}"
    digest = hashlib.sha256(f"{training_snapshot}\n{sha256_hex(model)}\n{decision}".encode())
    return digest.hexdigest()[:VERSION_LENGTH]


def _stop_early(
    early: Examples,
    late: Examples,
    use_case: UseCase,
    parameters: TreeParameters,
    *,
    threads: int,
    rounds: int | None,
) -> tuple[int, tuple[float, ...], npt.NDArray[np.float32]]:
    grown = training_matrix(early.x, early.labels, max_bin=parameters.max_bin, threads=threads)
    judged = training_matrix(
        late.x, late.labels, max_bin=parameters.max_bin, threads=threads, ref=grown
    )
    log: dict[str, dict[str, list[float]]] = {}
    stopping = xgb.callback.EarlyStopping(rounds=use_case.space.patience, maximize=True)
    booster = xgb.train(
        parameters.as_xgboost(seed=use_case.seed, threads=threads),
        grown,
        num_boost_round=rounds or use_case.space.max_rounds,
        evals=[(judged, VALIDATION)],
        callbacks=[] if rounds else [stopping],
        evals_result=log,
        verbose_eval=False,
    )
    rounds = rounds or int(booster.best_iteration) + 1
    curve = tuple(next(iter(log[VALIDATION].values())))
    return rounds, curve, margins(booster, judged, rounds=rounds)


def _grow(
    training: Examples, use_case: UseCase, parameters: TreeParameters, *, rounds: int, threads: int
) -> xgb.Booster:
    matrix = training_matrix(
        training.x, training.labels, max_bin=parameters.max_bin, threads=threads
    )
    return xgb.train(
        parameters.as_xgboost(seed=use_case.seed, threads=threads),
        matrix,
        num_boost_round=rounds,
        verbose_eval=False,
    )


def _require_frauds(part: Examples, name: str) -> None:
    if part.frauds < MIN_FRAUDS or part.frauds == part.rows:
        msg = (
            f"the {name} part has {part.frauds} frauds in {part.rows} rows and needs at least "
            f"{MIN_FRAUDS} and both classes; materialise more days or lower the label maturity"
        )
        raise ContractError(msg)
