"""The fraud use case for tests whose models learn from little, and soon."""

from __future__ import annotations

import dataclasses
from typing import Final

from ibook_assets.core.gate import GateSpec
from ibook_assets.core.use_cases import FRAUD

QUICK: Final = dataclasses.replace(
    FRAUD,
    gate=GateSpec(
        min_rows=10,
        min_frauds=1,
        min_lift=0.0,
        max_calibration_error=1.0,
        max_fpr=0.01,
        min_recall=0.0,
        non_inferiority_margin=1.0,
        min_oracle_share=0.0,
    ),
    space=dataclasses.replace(FRAUD.space, max_rounds=30, patience=10),
    bootstrap_replicates=50,
)
"""A gate that a model of few orders can pass, few trees and few resamplings."""
