"""E-processes for counts: evidence that may be looked at after every window, and acted upon.

An e-process starts at 1 and, while its null hypothesis holds, has an expectation of at most 1 at
any time one chooses to stop. So it ever reaches 1/alpha with a probability of at most alpha
(Ville's inequality), however often it is looked at. Several are combined by their mean, which is
an e-process again.

Source: Ramdas, Grünwald, Vovk, Shafer (2023), "Game-theoretic statistics and safe anytime-valid
inference"; Howard, Ramdas, McAuliffe, Sekhon (2021), "Time-uniform, nonparametric, nonasymptotic
confidence sequences".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, logsumexp

Counts = npt.NDArray[np.int64]
Logs = npt.NDArray[np.float64]

HARMS: Final = (1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
"""Odds ratios beyond the tolerated one that the mixture is prepared for, with equal weights."""
BETS: Final = (0.002, 0.005, 0.01, 0.03, 0.1, 0.3, 0.6)
"""Shares of the greatest possible bet that the mixture holds, with equal weights."""

_LARGEST_POWER: Final = 500.0
"""Log of a power up to which sums are made of floats themselves."""
_CELLS: Final = 2_000_000
"""Terms computed at once (rows of windows times outcomes of one), a bound on memory."""


def two_sample(
    hits: Counts, units: Counts, *, tolerated: float = 1.0, harms: Sequence[float] = HARMS
) -> Logs:
    """Log e-process against "the second arm's odds are at most `tolerated` times the first's".

    Given how many units and hits a window has in both arms together, the second arm's hits follow
    Fisher's noncentral hypergeometric distribution, whatever the window's own rate is: what moves
    both arms alike, be it the time of day or an attack, is no evidence. Each window multiplies the
    likelihood ratio of an odds ratio beyond `tolerated` to `tolerated` itself; for any true ratio
    below, its expectation is below 1, because the ratio grows with the hits.

    Args:
        hits: shape (m, 2), units with the event by window, first arm and second arm.
        units: shape (m, 2), all units; independent of each other within a window.
        tolerated: odds ratio up to which nothing is wrong, > 0. For "at least 1/`tolerated`" hand
            over `units - hits` as hits.
        harms: odds ratios, in multiples of `tolerated`, that the mixture is made of; each > 1.

    Returns:
        Shape (m,): the log of the e-value after each window.

    Source: Fisher (1935) for the conditional test; the mixture over its odds ratio is the exact
    form of the beta-binomial e-process, to which it tends for rare events.
    """
    ratios = tolerated * np.concatenate([[1.0], harms])
    steps = np.empty((len(hits), len(ratios)))
    for rows in _chunks(hits, units):
        steps[rows] = _normaliser(hits[rows], units[rows], np.log(ratios))
    gained = hits[:, 1:] * np.log(ratios[1:] / tolerated) - steps[:, 1:] + steps[:, :1]
    return mixed(np.cumsum(gained, axis=0))


def bounded_mean(counts: Counts, values: Sequence[float], *, bets: Sequence[float] = BETS) -> Logs:
    """Log e-process against "the mean is at most 0", for observations that take few values.

    Args:
        counts: shape (m, k), how often each value was seen, by window.
        values: the k values; one at least is negative.
        bets: shares of the greatest bet without ruin, each in (0, 1).

    Returns:
        Shape (m,): the log of the e-value after each window.

    Source: Waudby-Smith and Ramdas (2024), "Estimating means of bounded random variables by
    betting", section 4.
    """
    stakes = np.asarray(bets) / -min(values)
    return mixed(np.cumsum(counts @ np.log1p(np.outer(values, stakes)), axis=0))


def rate(hits: Counts, units: Counts, *, limit: float) -> Logs:
    """Log e-process, shape (m,), against "the rate of hits is at most `limit`", in (0, 1)."""
    return bounded_mean(np.stack([hits, units - hits], axis=1), (1 - limit, -limit))


def mixed(logs: Logs) -> Logs:
    """The log of the mean of e-processes, shape (m, k) to (m,)."""
    found: Logs = logsumexp(logs, axis=1) - np.log(logs.shape[1])
    return found


def _chunks(hits: Counts, units: Counts) -> list[slice]:
    if not len(hits):
        return []
    widest = int(np.minimum(hits.sum(axis=1), units[:, 1]).max()) + 1
    rows = max(1, _CELLS // widest)
    return [slice(start, start + rows) for start in range(0, len(hits), rows)]


def _normaliser(hits: Counts, units: Counts, log_ratios: Logs) -> Logs:
    """Shape (m, k): log of the sum over outcomes of C(n1, K-j) C(n2, j) ratio^j, by window."""
    total = hits.sum(axis=1)
    least = np.maximum(0, total - units[:, 0])
    most = np.minimum(total, units[:, 1])
    outcome = least[:, None] + np.arange(int((most - least).max()) + 1)[None, :]
    inside = outcome <= most[:, None]
    outcome = np.minimum(outcome, most[:, None])
    ways = _log_choose(units[:, :1], total[:, None] - outcome) + _log_choose(units[:, 1:], outcome)
    ways[~inside] = -np.inf
    sums: Logs = least[:, None] * log_ratios + _log_sums(ways, log_ratios)
    return sums


def _log_sums(ways: Logs, log_ratios: Logs) -> Logs:
    """Shape (m, k): log of the sum over j of exp(ways[:, j]) ratio^j."""
    powers = np.arange(ways.shape[1])[:, None] * log_ratios
    found: Logs
    if np.abs(powers).max() > _LARGEST_POWER:
        found = np.stack([logsumexp(ways + power, axis=1) for power in powers.T], axis=1)
    else:
        # One product of matrices: what underflows here is nothing beside the greatest term.
        top = ways.max(axis=1, keepdims=True)
        found = top + np.log(np.exp(ways - top) @ np.exp(powers))
    return found


def _log_choose(units: Counts, chosen: Counts) -> Logs:
    table = gammaln(np.arange(1, int(units.max()) + 2))
    found: Logs = table[units] - table[chosen] - table[units - chosen]
    return found
