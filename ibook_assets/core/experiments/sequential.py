"""Group-sequential bounds: a z-test that may be looked at several times at one level.

Scores follow a Brownian motion with drift over the information fraction t: S(t) = Z(t) * sqrt(t).
Its sub-density, of paths that crossed no bound so far, is carried from look to look by numerical
integration.

Source: Jennison and Turnbull (2000), "Group Sequential Methods", chapter 19; Lan and DeMets
(1983), "Discrete sequential boundaries for clinical trials", Biometrika 70.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from ibook_assets.core.errors import ContractError
from ibook_assets.core.experiments.proportions import Floats

MAX_LOOKS: Final = 50
"""Above it the first looks could stop for nothing that ever happens."""

_NODES: Final = 400
"""Quadrature points of one look; bounds change by less than 1e-9 with twice as many."""
_HIGHEST: Final = 37.0
"""A z beyond which a double holds no probability."""


@dataclass(frozen=True, slots=True)
class Boundary:
    """Bounds of |z| at each look."""

    fractions: tuple[float, ...]
    """Share of the planned information there is at each look."""
    spent: tuple[float, ...]
    """Probability, under no effect, to have crossed by each look."""
    bounds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Crossing:
    """Probabilities to cross first at each look."""

    upper: Floats
    lower: Floats


def obrien_fleming_spent(fraction: float, alpha: float) -> float:
    """Two-sided error that may be spent by the information `fraction`: alpha at 1, little before.

    Source: Lan and DeMets (1983), alpha-1-star, for each side at half of `alpha`.
    """
    if fraction >= 1:
        return alpha
    return float(4 * ndtr(ndtri(alpha / 4) / math.sqrt(fraction)))


@lru_cache(maxsize=64)
def boundary(fractions: tuple[float, ...], alpha: float, *, closing: bool = False) -> Boundary:
    """Symmetric bounds that spend `alpha` as O'Brien and Fleming's do.

    Args:
        fractions: ascending, of the planned information; above 1 nothing is left to spend.
        alpha: two-sided level.
        closing: whether the last look is the last one of all and spends what is left.

    Raises:
        ContractError: fractions that do not ascend, or too many.
    """
    _check(fractions)
    spent = [obrien_fleming_spent(fraction, alpha) for fraction in fractions]
    if closing:
        spent[-1] = alpha
    walk = _Walk(0.0)
    found: list[float] = []
    before = 0.0
    for fraction, by_now in zip(fractions, spent, strict=True):
        walk.go_to(fraction)
        found.append(walk.bound_for(by_now - before))
        walk.stop_beyond(found[-1])
        before = by_now
    return Boundary(fractions, tuple(spent), tuple(found))


def crossing(fractions: Sequence[float], bounds: Sequence[float], *, drift: float) -> Crossing:
    """Where paths first leave the bounds, when z at full information is `drift` on average."""
    _check(fractions)
    walk = _Walk(drift)
    upper, lower = [], []
    for fraction, bound in zip(fractions, bounds, strict=True):
        walk.go_to(fraction)
        upper.append(walk.above(bound))
        lower.append(walk.below(-bound))
        walk.stop_beyond(bound)
    return Crossing(np.array(upper), np.array(lower))


@lru_cache(maxsize=64)
def drift_for(fractions: tuple[float, ...], bounds: tuple[float, ...], power: float) -> float:
    """Mean of z at full information at which the upper bounds are crossed with `power`."""

    def missing(drift: float) -> float:
        return float(crossing(fractions, bounds, drift=drift).upper.sum()) - power

    return float(brentq(missing, 0.0, 20.0, xtol=1e-9))


def inflation(fractions: tuple[float, ...], alpha: float, power: float) -> float:
    """Users this many times a single test's, for the same power, when looking at `fractions`."""
    edges = boundary(fractions, alpha, closing=True)
    single = float(ndtri(1 - alpha / 2) + ndtri(power))
    return (drift_for(fractions, edges.bounds, power) / single) ** 2


def _check(fractions: Sequence[float]) -> None:
    ascending = all(a < b for a, b in zip((0.0, *fractions), fractions, strict=False))
    if not fractions or not ascending or len(fractions) > MAX_LOOKS:
        msg = (
            f"looks at {[f'{f:g}' for f in fractions[:5]]}… ({len(fractions)}): fractions must "
            f"ascend above 0, at most {MAX_LOOKS} of them"
        )
        raise ContractError(msg)


class _Walk:
    """The score's sub-density at the present look, as it came from the look before."""

    def __init__(self, drift: float) -> None:
        self._drift = drift
        self._points = np.zeros(1)
        self._mass = np.ones(1)
        self._at = 0.0
        self._since = 0.0

    def go_to(self, fraction: float) -> None:
        """Move on to the look at `fraction`."""
        self._since = fraction - self._at
        self._at = fraction

    def above(self, bound: float) -> float:
        """Probability to be above z = `bound` now."""
        return float(self._mass @ ndtr(-self._standardised(bound)))

    def below(self, bound: float) -> float:
        """Probability to be below z = `bound` now."""
        return float(self._mass @ ndtr(self._standardised(bound)))

    def bound_for(self, error: float) -> float:
        """The |z| beyond which there is the probability `error`."""

        def excess(bound: float) -> float:
            return self.above(bound) + self.below(-bound) - error

        if error <= 0 or excess(_HIGHEST) >= 0:
            return _HIGHEST
        return float(brentq(excess, 0.0, _HIGHEST, xtol=1e-12, rtol=1e-14, maxiter=300))

    def stop_beyond(self, bound: float) -> None:
        """Go on with paths whose |z| is at most `bound` now."""
        edge = bound * math.sqrt(self._at)
        centre, reach = self._drift * self._at, 9 * math.sqrt(self._at)
        # Nodes are spent where there is mass; what lies beyond nine deviations is below 1e-18.
        low, high = max(-edge, centre - reach), min(edge, centre + reach)
        if low >= high:
            low, high = -edge, edge
        nodes, weights = _quadrature()
        points = low + (high - low) * nodes
        steps = (points[:, None] - self._points[None, :] - self._drift * self._since) / math.sqrt(
            self._since
        )
        density = np.exp(-0.5 * steps * steps) @ self._mass / math.sqrt(2 * np.pi * self._since)
        self._points = points
        self._mass = density * weights * (high - low)

    def _standardised(self, bound: float) -> Floats:
        score = bound * math.sqrt(self._at)
        found: Floats = (score - self._points - self._drift * self._since) / math.sqrt(self._since)
        return found


@lru_cache(maxsize=1)
def _quadrature() -> tuple[Floats, Floats]:
    """Gauss-Legendre nodes and weights on 0..1."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return (nodes + 1) / 2, weights / 2
