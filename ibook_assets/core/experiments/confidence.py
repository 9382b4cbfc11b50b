"""A confidence sequence: an interval that holds at every moment at once, however often one looks.

A Beta mixture of alternatives over both arms' rates, divided by the likelihood of the most likely
pair of rates that are `d` apart, is at most a martingale of mean 1 when the true difference is
`d`: it ever exceeds 1/alpha with probability alpha at most (Ville). No approximation is involved,
so it holds for rare events and from the first user on.

Source: Robbins (1970), "Statistical methods related to the law of the iterated logarithm"; Howard,
Ramdas, McAuliffe, Sekhon (2021), "Time-uniform, nonparametric, nonasymptotic confidence
sequences"; Wasserman, Ramdas, Balakrishnan (2020), "Universal inference", for the nuisance rate.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from scipy.special import betaln, xlog1py, xlogy

from ibook_assets.core.experiments.proportions import (
    Counts,
    Floats,
    Numbers,
    interval_around,
    restricted_rates,
)

_PRIOR: Final = 0.5
"""Both parameters of each rate's Beta mixture (Jeffreys'): it adapts to rare events."""


def log_evidence(
    control_events: Numbers,
    control_users: Numbers,
    treatment_events: Numbers,
    treatment_users: Numbers,
    difference: Numbers,
) -> Floats:
    """Log of the evidence against treatment's rate being control's plus `difference`.

    Users > 0; numbers or arrays of one shape.
    """
    at_control, at_treatment = restricted_rates(
        control_events, control_users, treatment_events, treatment_users, difference
    )
    found: Floats = (
        _mixture(control_events, control_users)
        + _mixture(treatment_events, treatment_users)
        - _likelihood(control_events, control_users, at_control)
        - _likelihood(treatment_events, treatment_users, at_treatment)
    )
    return found


def confidence_sequence(control: Counts, treatment: Counts, *, alpha: float) -> tuple[float, float]:
    """Differences (treatment minus control) that are not refuted at `alpha`; -1 to 1 at first."""
    if not control.users or not treatment.users:
        return -1.0, 1.0
    counts = (control.events, control.users, treatment.events, treatment.users)

    def beyond(difference: float) -> float:
        return float(log_evidence(*counts, difference)) + math.log(alpha)

    return interval_around(treatment.rate - control.rate, beyond)


def _mixture(events: Numbers, users: Numbers) -> Floats:
    x, n = np.asarray(events, np.float64), np.asarray(users, np.float64)
    found: Floats = betaln(_PRIOR + x, _PRIOR + n - x) - betaln(_PRIOR, _PRIOR)
    return found


def _likelihood(events: Numbers, users: Numbers, rate: Floats) -> Floats:
    x, n = np.asarray(events, np.float64), np.asarray(users, np.float64)
    found: Floats = xlogy(x, rate) + xlog1py(n - x, -rate)
    return found
