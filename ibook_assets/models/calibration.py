"""From XGBoost's margin to a probability: three plain numbers, monotone, equal for any batch."""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from scipy.special import expit

from ibook_assets.core.errors import ContractError

Floats = npt.NDArray[np.float64]

_ITERATIONS: Final = 100
_TOLERANCE: Final = 1e-10
_RIDGE: Final = 1e-6


class BetaCalibration(BaseModel):
    """`logit p = a * ln s - b * ln(1 - s) + c` with `s` the model's own probability.

    With a = b = 1 and c = 0 it changes nothing, with a = b it is Platt scaling. It is
    monotone, so it never turns a ranking round.

    Source: Kull, Silva Filho and Flach (2017), "Beta calibration", section 4.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["beta"] = "beta"
    a: float = Field(default=1.0, ge=0.0)
    b: float = Field(default=1.0, ge=0.0)
    c: float = 0.0

    def apply(self, margins: npt.NDArray[Any]) -> Floats:
        """Probabilities of `margins` (log-odds), float64 of the same shape.

        `logaddexp` and `expit` work value by value: unlike `np.exp`, whose vector and scalar paths
        may differ, they give a row the same bits alone and in any batch.
        """
        wide = margins.astype(np.float64)
        return np.asarray(
            expit(self.b * np.logaddexp(0, wide) - self.a * np.logaddexp(0, -wide) + self.c),
            dtype=np.float64,
        )


def fit_beta(margins: npt.NDArray[Any], labels: npt.NDArray[Any]) -> BetaCalibration:
    """Maximum-likelihood beta calibration of `margins`, with a and b kept >= 0.

    Args:
        margins: shape (n,), log-odds of rows that the model was not fitted on.
        labels: shape (n,), 0 or 1, both present.

    Raises:
        ContractError: a class is missing, so that no probability can be learnt.
    """
    frauds = int(labels.sum())
    if frauds in {0, labels.size}:
        msg = (
            f"calibration needs both classes, found {frauds} frauds in {labels.size} rows; "
            "use a longer calibration slice"
        )
        raise ContractError(msg)
    wide = margins.astype(np.float64)
    design = np.column_stack([-np.logaddexp(0, -wide), np.logaddexp(0, wide), np.ones(wide.size)])
    free = _logistic(design, labels.astype(np.float64), start=np.array([1.0, 1.0, 0.0]))
    if (free[:2] >= 0).all() and free[:2].sum() > 0:
        return BetaCalibration(a=float(free[0]), b=float(free[1]), c=float(free[2]))
    # A negative slope would turn part of the ranking round; Platt's single slope cannot.
    platt = np.column_stack([wide, np.ones(wide.size)])
    slope, offset = _logistic(platt, labels.astype(np.float64), start=np.array([1.0, 0.0]))
    if slope <= 0:
        msg = (
            f"scores rank calibration rows the wrong way round (slope {slope:.3g}); do not use them"
        )
        raise ContractError(msg)
    return BetaCalibration(a=float(slope), b=float(slope), c=float(offset))


def _logistic(design: Floats, labels: Floats, *, start: Floats) -> Floats:
    # Newton with step halving; the tiny ridge keeps separable slices finite.
    weights = start
    loss = _loss(design, labels, weights)
    for _ in range(_ITERATIONS):
        probability = expit(design @ weights)
        gradient = design.T @ (probability - labels) + _RIDGE * weights
        curvature = design.T @ (design * (probability * (1 - probability))[:, None])
        step = np.linalg.solve(curvature + _RIDGE * np.eye(weights.size), gradient)
        scale = 1.0
        while (new := _loss(design, labels, weights - scale * step)) > loss and scale > 1e-6:
            scale /= 2
        if loss - new <= _TOLERANCE * max(1.0, abs(loss)):
            return weights
        weights, loss = weights - scale * step, new
    return weights


def _loss(design: Floats, labels: Floats, weights: Floats) -> float:
    logits = design @ weights
    penalty = 0.5 * _RIDGE * float(weights @ weights)
    return float(np.sum(np.logaddexp(0, logits) - labels * logits)) + penalty
