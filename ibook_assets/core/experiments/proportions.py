"""Two rates compared once: score test, its interval, sample size, and ratios clustered by user.

All of it holds for one look at a size fixed beforehand; `sequential` and `confidence` are for more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from ibook_assets.core.errors import ContractError

Floats: TypeAlias = npt.NDArray[np.float64]
Numbers: TypeAlias = Any
"""A float or an array of them; arrays of one shape go together."""

_FLAT: Final = 1e-12
"""Below it a difference of rates, or what a cubic's root divides by, is rounding."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Users of one arm, and how many of them had the event."""

    events: int
    users: int

    def __post_init__(self) -> None:
        if not 0 <= self.events <= self.users:
            msg = f"{self.events} of {self.users} users had the event: that cannot be"
            raise ContractError(msg)

    @property
    def rate(self) -> float:
        """Share of users with the event; NaN without users."""
        return self.events / self.users if self.users else math.nan


@dataclass(frozen=True, slots=True)
class Comparison:
    """What one look says; every field is NaN while an arm has no users."""

    difference: float
    """Treatment's rate minus control's."""
    low: float
    high: float
    z: float
    p_value: float
    """Two-sided."""


def normal_quantile(probability: float) -> float:
    """The standard normal's quantile."""
    return float(ndtri(probability))


def z_score(control: Counts, treatment: Counts) -> float:
    """The pooled two-proportion statistic, positive where treatment's rate is the higher one.

    0 when nobody or everybody had the event, NaN while an arm has no users.
    """
    if not control.users or not treatment.users:
        return math.nan
    pooled = (control.events + treatment.events) / (control.users + treatment.users)
    variance = pooled * (1 - pooled) * (1 / control.users + 1 / treatment.users)
    difference = treatment.rate - control.rate
    return difference / math.sqrt(variance) if variance > 0 else 0.0


def compare(control: Counts, treatment: Counts, *, critical: float) -> Comparison:
    """The two-proportion z-test, and the interval of differences that it does not reject.

    Args:
        control: users and events of the control arm.
        treatment: the same of the treatment arm.
        critical: bound of |z|, 1.96 for a fixed-horizon test at 5 %.

    Source: Mee (1984), "Confidence bounds for the difference between two probabilities",
        Biometrics 40; at a difference of 0 its statistic is the pooled z-test's.
    """
    z = z_score(control, treatment)
    if math.isnan(z):
        return Comparison(math.nan, math.nan, math.nan, math.nan, math.nan)
    difference = treatment.rate - control.rate

    def beyond(hypothesis: float) -> float:
        arms = ((control.events, control.users), (treatment.events, treatment.users))
        return abs(float(scores(*arms, hypothesis))) - critical

    low, high = _interval_around(difference, beyond)
    return Comparison(difference, low, high, z, float(2 * ndtr(-abs(z))))


def _interval_around(difference: float, beyond: Callable[[float], float]) -> tuple[float, float]:
    """Both ends of the differences around `difference` at which `beyond` is negative."""
    ends = []
    for limit in (-1.0, 1.0):
        # The very end has probability 0 or 1 in an arm; just inside says whether it is rejected.
        outer = limit * (1 - 1e-9)
        if (limit - difference) * limit <= 1e-9 or beyond(outer) <= 0:
            ends.append(limit)
        else:
            ends.append(float(brentq(beyond, difference, outer, xtol=1e-10)))
    return ends[0], ends[1]


def scores(
    control: tuple[Numbers, Numbers], treatment: tuple[Numbers, Numbers], difference: Numbers
) -> Floats:
    """How far observed differences are from `difference`, in standard errors under it.

    Args:
        control: events and users > 0 of the control arm, numbers or arrays of one shape.
        treatment: the same of the treatment arm.
        difference: treatment's rate minus control's under the hypothesis, -1 < d < 1.
    """
    x0, n0, x1, n1 = (np.asarray(v, np.float64) for v in (*control, *treatment))
    at_control, at_treatment = restricted_rates(x0, n0, x1, n1, difference)
    variance = at_control * (1 - at_control) / n0 + at_treatment * (1 - at_treatment) / n1
    gap = x1 / n1 - x0 / n0 - difference
    # Without variance both rates are 0 or 1 under the hypothesis: any gap refutes it.
    sure = np.where(np.abs(gap) < _FLAT, 0.0, np.copysign(np.inf, gap))
    found: Floats = np.divide(gap, np.sqrt(variance), out=sure, where=variance > _FLAT**2)
    return found


def restricted_rates(
    control_events: Numbers,
    control_users: Numbers,
    treatment_events: Numbers,
    treatment_users: Numbers,
    difference: Numbers,
) -> tuple[Floats, Floats]:
    """Most likely rates of both arms among those that are `difference` apart.

    Args:
        control_events: events of the control arm, a number or an array as all others.
        control_users: users of the control arm, > 0.
        treatment_events: events of the treatment arm.
        treatment_users: users of the treatment arm, > 0.
        difference: treatment's rate minus control's, -1..1.

    Source: Miettinen and Nurminen (1985), "Comparative analysis of two rates", Statistics in
        Medicine 4, appendix I: the root of a cubic in closed form.
    """
    x0, n0, x1, n1, d = (
        np.asarray(value, np.float64)
        for value in (control_events, control_users, treatment_events, treatment_users, difference)
    )
    total, events = n0 + n1, x0 + x1
    b = ((n1 + 2 * n0) * d - total - events) / total
    c = (n0 * d * d - (total + 2 * x0) * d + events) / total
    e = x0 * d * (1 - d) / total
    q = b**3 / 27 - b * c / 6 + e / 2
    p = np.where(q < 0, -1.0, 1.0) * np.sqrt(np.maximum(b * b / 9 - c / 3, 0.0))
    cosine = np.divide(q, p**3, out=np.ones_like(p), where=np.abs(p) ** 3 > _FLAT**1.5)
    angle = (np.pi + np.arccos(np.clip(cosine, -1.0, 1.0))) / 3
    rate = 2 * p * np.cos(angle) - b / 3
    low, high = np.maximum(0.0, -d), np.minimum(1.0, 1.0 - d)
    control = np.clip(rate, low, high)
    return control, np.clip(control + d, 0.0, 1.0)


def power_of(
    *, rate: float, effect: float, users: float, treatment_share: float, alpha: float
) -> float:
    """Probability that one two-sided z-test at `users` finds a true `effect`, either way.

    Args:
        rate: the control arm's true rate.
        effect: treatment's rate minus it.
        users: of both arms together.
        treatment_share: share of users in treatment.
        alpha: level of the test.
    """
    under_null, under_effect = _deviations(rate, effect, treatment_share)
    critical = normal_quantile(1 - alpha / 2) * under_null
    shift = effect * math.sqrt(users)
    return float(ndtr((shift - critical) / under_effect) + ndtr((-shift - critical) / under_effect))


def users_for(
    *, rate: float, effect: float, treatment_share: float, alpha: float, power: float
) -> float:
    """Users of both arms at which `power_of` reaches `power`, the far tail left out.

    Source: Fleiss, Levin, Paik (2003), "Statistical Methods for Rates and Proportions", 4.14,
        without its continuity correction.
    """
    under_null, under_effect = _deviations(rate, effect, treatment_share)
    needed = normal_quantile(1 - alpha / 2) * under_null + normal_quantile(power) * under_effect
    return (needed / effect) ** 2


def _deviations(rate: float, effect: float, treatment_share: float) -> tuple[float, float]:
    """Standard deviations of one user's part in the difference, without and with the effect."""
    control_share, treated = 1 - treatment_share, rate + effect
    pooled = control_share * rate + treatment_share * treated
    under_null = pooled * (1 - pooled) / (control_share * treatment_share)
    under_effect = rate * (1 - rate) / control_share + treated * (1 - treated) / treatment_share
    return math.sqrt(under_null), math.sqrt(under_effect)


@dataclass(frozen=True, slots=True)
class Ratio:
    """Events a row of one arm, rows of one user standing or falling together."""

    value: float
    standard_error: float
    rows: int


def clustered_ratio(events: Floats, rows: Floats) -> Ratio | None:
    """Sum of `events` over sum of `rows`, one entry a user; None for fewer than two users.

    Source: Deng, Knoblich, Lu (2018), "Applying the Delta Method in Metric Analytics", KDD.
    """
    users, total = events.size, float(rows.sum())
    if users < 2 or total == 0:
        return None
    value = float(events.sum()) / total
    residuals = events - value * rows
    variance = float(np.dot(residuals, residuals)) * users / (users - 1)
    return Ratio(value, math.sqrt(variance) / total, int(total))
