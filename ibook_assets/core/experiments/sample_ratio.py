"""Sample ratio mismatch: whether arms have the users that their shares say, tested all the time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import betaln, chdtrc

from ibook_assets.core.experiments.proportions import Floats

_CONCENTRATION: Final = 1_000.0
"""Weight of the alternatives around the share itself: mismatches worth finding are small."""


@dataclass(frozen=True, slots=True)
class SampleRatio:
    """The split as it is, and two tests of it."""

    control: int
    treatment: int
    chi_square_p: float
    """Pearson's test of the present counts, for one look; NaN without users."""
    anytime_p: float
    """Smallest p-value of a test that may be looked at after every user."""

    def mismatch(self, alpha: float) -> bool:
        """Whether the split is not what was asked for, at a level that holds at any time."""
        return self.anytime_p < alpha


def log_evidence_path(treated: npt.NDArray[np.bool_], share: float) -> Floats:
    """Log of the evidence, after each user, against the share of treatment being `share`.

    Args:
        treated: shape (..., n), users in the order they came, True for treatment.
        share: probability of treatment, 0 < share < 1.

    Source: Lindon and Malek (2022), "Anytime-Valid Inference for Multinomial Count Data", NeurIPS:
        a Beta mixture around `share` over the likelihood of `share`.
    """
    treatment = np.cumsum(treated, axis=-1, dtype=np.float64)
    control = np.arange(1, treated.shape[-1] + 1) - treatment
    a, b = _CONCENTRATION * share, _CONCENTRATION * (1 - share)
    found: Floats = (
        betaln(a + treatment, b + control)
        - betaln(a, b)
        - treatment * math.log(share)
        - control * math.log1p(-share)
    )
    return found


def sample_ratio(treated: npt.NDArray[np.bool_], share: float) -> SampleRatio:
    """The split of users, in the order they came, against the `share` of treatment."""
    users = treated.size
    treatment = int(treated.sum())
    if not users:
        return SampleRatio(0, 0, math.nan, 1.0)
    strongest = float(log_evidence_path(treated, share).max())
    expected = users * share
    statistic = (treatment - expected) ** 2 / (expected * (1 - share))
    return SampleRatio(
        users - treatment,
        treatment,
        float(chdtrc(1, statistic)),
        math.exp(-max(0.0, strongest)),
    )
