"""What every peer does with an order: 25 numbers, most of them straight out of the body."""

from __future__ import annotations

import os
from typing import Any, Final

import numpy as np
import xgboost as xgb

FEATURES: Final = 25
NUMBERS: Final = (
    *("amount", "quantity", "declines", "avs_match", "device_accounts", "checkout_seconds"),
    *("geo_distance_km", "account_age_days"),
)
"""Fields that are features as they stand; the rest of the vector is missing."""


def vector(order: dict[str, Any]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Shape (1, 25): the model's input, NaN where the body does not tell."""
    values = [order.get(name, np.nan) for name in NUMBERS]
    values += [np.nan] * (FEATURES - len(values))
    return np.array([values], np.float32)


def booster() -> xgb.Booster:
    """The benchmark's model, out of the file that `MODEL` names, on one thread."""
    return xgb.Booster({"nthread": 1}, model_file=os.environ["MODEL"])


def score(model: xgb.Booster, order: dict[str, Any]) -> float:
    """The probability of one order."""
    return float(model.inplace_predict(vector(order), validate_features=False)[0])
