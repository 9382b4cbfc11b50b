"""A confidence sequence: an interval that holds at every moment at once, however often one looks.

It is the score interval of two rates with a critical value that grows as Robbins' normal mixture
has it: the mixture of alternatives over the likelihood of "the difference is d" is a martingale of
mean 1 when it is d, and ever exceeds 1/alpha with probability alpha at most (Ville). The score
makes it asymptotic, not exact; its critical value is so large among the first users (25 at the
first thousandth) that rare events do not mislead it, as the benchmark shows.

Source: Robbins (1970), "Statistical methods related to the law of the iterated logarithm"; Howard,
Ramdas, McAuliffe, Sekhon (2021), "Time-uniform, nonparametric, nonasymptotic confidence
sequences", Annals of Statistics 49; Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas (2024),
"Time-uniform central limit theory and asymptotic confidence sequences", Annals of Statistics 52.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from ibook_assets.core.experiments.proportions import (
    Counts,
    Floats,
    Numbers,
    compare,
    scores,
)

_AT_THE_END: Final = 10.0
"""Mixture's variance over the estimate's at the planned end: the interval is then narrowest
between half of the users and all of them."""


def anytime_critical(fraction: Numbers, alpha: float) -> Floats:
    """Bound of |z| that is ever crossed, under no difference, with probability `alpha` at most.

    Args:
        fraction: users there are of those planned, > 0; it may exceed 1.
        alpha: two-sided level.
    """
    mixed = _AT_THE_END * np.asarray(fraction, np.float64)
    found: Floats = np.sqrt((1 + mixed) / mixed * (2 * math.log(1 / alpha) + np.log1p(mixed)))
    return found


def confidence_sequence(
    control: Counts, treatment: Counts, *, planned: int, alpha: float
) -> tuple[float, float]:
    """Differences (treatment minus control) that are not refuted at `alpha`; -1 to 1 at first.

    Each end alone errs with half of `alpha`.
    """
    if not control.users or not treatment.users:
        return -1.0, 1.0
    critical = anytime_critical((control.users + treatment.users) / planned, alpha)
    found = compare(control, treatment, critical=float(critical))
    return found.low, found.high


def surely_above(
    control: tuple[Numbers, Numbers],
    treatment: tuple[Numbers, Numbers],
    limit: float,
    *,
    planned: int,
    alpha: float,
) -> np.ndarray:
    """Where the sequence lies above `limit` altogether.

    Args:
        control: events and users > 0 of the control arm, arrays of one shape.
        treatment: the same of the treatment arm.
        limit: a difference.
        planned: users of both arms at the planned end.
        alpha: two-sided level of the sequence.
    """
    fraction = (np.asarray(control[1]) + treatment[1]) / planned
    return scores(control, treatment, limit) >= anytime_critical(fraction, alpha)
