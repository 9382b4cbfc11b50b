"""Gradient-boosted trees as every part of training fits them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xgboost as xgb

VALIDATION: Final = "validation"
METRIC: Final = "aucpr"
BASE_RATE: Final = "base rate"


@dataclass(frozen=True, slots=True)
class TreeParameters:
    """Hyperparameters of one model; the defaults are where the search starts."""

    eta: float = 0.1
    max_depth: int = 5
    min_child_weight: float = 2.0
    subsample: float = 0.9
    colsample_bytree: float = 0.7
    reg_lambda: float = 2.0
    scale_pos_weight: float = 1.0
    max_bin: int = 1024
    base_score: float | None = 0.5

    def as_xgboost(self, *, seed: int, threads: int) -> dict[str, Any]:
        """Arguments of `xgboost.train`; `nthread` is pinned, as results may depend on it."""
        given = {k: v for k, v in asdict(self).items() if v is not None}
        return {
            **given,
            "objective": "binary:logistic",
            "eval_metric": METRIC,
            "tree_method": "hist",
            "seed": seed,
            "nthread": threads,
            "verbosity": 0,
        }

    def as_plain(self) -> dict[str, float | int | str]:
        """For records and studies: `base_score` None is spelt `base rate`."""
        return {k: BASE_RATE if v is None else v for k, v in asdict(self).items()}

    @classmethod
    def from_plain(cls, given: Mapping[str, Any]) -> TreeParameters:
        """The inverse of `as_plain`."""
        plain: dict[str, Any] = {k: None if v == BASE_RATE else v for k, v in given.items()}
        return cls(**plain)


def training_matrix(
    x: npt.NDArray[np.float32],
    labels: npt.NDArray[Any],
    *,
    max_bin: int,
    threads: int,
    weights: npt.NDArray[np.float64] | None = None,
    ref: xgb.DMatrix | None = None,
) -> xgb.QuantileDMatrix:
    """Binned rows; `ref` makes validation rows share the bins of the rows trees grow on."""
    return xgb.QuantileDMatrix(
        x, label=labels, weight=weights, max_bin=max_bin, nthread=threads, ref=ref
    )


def margins(booster: xgb.Booster, matrix: xgb.DMatrix, *, rounds: int) -> npt.NDArray[np.float32]:
    """Log-odds by the first `rounds` trees."""
    predicted = booster.predict(matrix, output_margin=True, iteration_range=(0, rounds))
    return np.asarray(predicted, dtype=np.float32)
