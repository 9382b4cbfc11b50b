"""What an order looks like, given who placed it: the distributions and their likelihood.

Rows of every table are `tables.ARCHETYPES`. The archetypes overlap on purpose: no single column
separates them. The likelihood reads the published columns, so generator and posterior share one
set of numbers.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ibook_sim.world.randomness import Floats, Ints, jit

N_TYPES: Final = 5
QUANTITIES: Final = 6
"""Most tickets in one order."""


def _pmf(rows: list[list[float]]) -> Floats:
    table = np.array(rows) + 1e-4
    return np.asarray(table / table.sum(axis=1, keepdims=True))


QUANTITY: Final = _pmf(
    [
        [0.22, 0.52, 0.11, 0.13, 0.01, 0.01],
        [0.16, 0.44, 0.13, 0.23, 0.02, 0.02],
        [0.06, 0.22, 0.12, 0.42, 0.08, 0.10],
        [0.70, 0.24, 0.03, 0.03, 0.00, 0.00],
        [0.18, 0.50, 0.12, 0.18, 0.01, 0.01],
    ]
)
TIER: Final = _pmf(
    [
        [0.40, 0.33, 0.19, 0.08],
        [0.22, 0.30, 0.29, 0.19],
        [0.25, 0.30, 0.27, 0.18],
        [0.62, 0.26, 0.09, 0.03],
        [0.32, 0.33, 0.23, 0.12],
    ]
)
DEVICE_ACCOUNTS: Final = _pmf(
    [
        [0.86, 0.10, 0.03, 0.01],
        [0.66, 0.18, 0.09, 0.07],
        [0.60, 0.20, 0.11, 0.09],
        [0.62, 0.19, 0.10, 0.09],
        [0.74, 0.17, 0.06, 0.03],
    ]
)
"""One account, two, three or four, five to twelve."""
AVS_MISMATCH: Final = _pmf([[0.965, 0.035], [0.87, 0.13], [0.92, 0.08], [0.74, 0.26], [0.96, 0.04]])
DECLINES: Final = _pmf(
    [
        [0.93, 0.05, 0.02],
        [0.84, 0.11, 0.05],
        [0.89, 0.08, 0.03],
        [0.62, 0.20, 0.18],
        [0.92, 0.06, 0.02],
    ]
)
"""None, one, two to five declined attempts."""
CHANNEL: Final = _pmf(
    [
        [0.50, 0.42, 0.08],
        [0.58, 0.34, 0.08],
        [0.60, 0.31, 0.09],
        [0.66, 0.27, 0.07],
        [0.52, 0.40, 0.08],
    ]
)
CHECKOUT: Final = np.array([[4.30, 0.55], [4.10, 0.65], [3.60, 0.80], [3.70, 0.70], [4.25, 0.55]])
"""Mean and deviation of the logarithm of checkout seconds."""
GEO: Final = np.array([[2.3, 1.1], [3.5, 1.5], [2.8, 1.4], [3.2, 1.5], [2.4, 1.1]])
"""Mean and deviation of the logarithm of the network address's distance from home (km)."""
ABUSER_AGE: Final = np.array([[4.2, 1.4], [4.0, 1.4], [4.8, 1.1]])
"""Mean and deviation of the logarithm of an abuser's account age in days at its first order."""
BOT_HYPE: Final = 0.8
"""Bots pick an event in proportion to its legitimate orders times exp(0.8 hype)."""
REFUNDED: Final = np.array([0.03, 0.03, 0.03, 0.03, 0.45])
"""Share of orders refunded at the buyer's request."""

MEAN_QUANTITY: Final = float(QUANTITY[0] @ np.arange(1, QUANTITIES + 1))
"""Mean tickets in a legitimate order."""

MAX_GEO_M: Final = 20_000_000


class Tables(NamedTuple):
    """The distributions in the form the kernels read: cumulative, and log-normal parameters."""

    tier: Floats
    devices: Floats
    avs: Floats
    declines: Floats
    channel: Floats
    checkout: Floats
    geo: Floats


TABLES: Final = Tables(
    tier=TIER.cumsum(axis=1),
    devices=DEVICE_ACCOUNTS.cumsum(axis=1),
    avs=AVS_MISMATCH.cumsum(axis=1),
    declines=DECLINES.cumsum(axis=1),
    channel=CHANNEL.cumsum(axis=1),
    checkout=CHECKOUT,
    geo=GEO,
)


@jit
def pick(cumulative: Floats, row: int, u: float) -> int:
    """Bucket of `u` in one row of a cumulative table."""
    last = cumulative.shape[1] - 1
    bucket = 0
    while bucket < last and u >= cumulative[row, bucket]:
        bucket += 1
    return bucket


def device_bucket(device_accounts: Ints) -> Ints:
    """Position in `DEVICE_ACCOUNTS` of each count."""
    return np.searchsorted(np.array([2, 3, 5]), device_accounts, side="right")


def likelihood(
    *,
    quantity: Ints,
    tier: npt.NDArray[np.int8],
    channel: npt.NDArray[np.int8],
    device_accounts: Ints,
    avs_match: npt.NDArray[np.bool_],
    declines: Ints,
    checkout_ms: Ints,
    geo_distance_m: Ints,
) -> Floats:
    """P(the order's own columns | archetype) up to a factor common to all archetypes.

    Returns:
        Shape (n, 5), each row's largest value 1. Event and account age are not in it.
    """
    log = np.log(QUANTITY.T[quantity - 1])
    log += np.log(TIER.T[tier])
    log += np.log(CHANNEL.T[channel])
    log += np.log(DEVICE_ACCOUNTS.T[device_bucket(device_accounts)])
    log += np.log(AVS_MISMATCH.T[(~avs_match).astype(np.int64)])
    log += np.log(DECLINES.T[np.minimum(declines, 2)])
    for value, (parameters, unit) in (
        (checkout_ms, (CHECKOUT, 1e3)),
        (geo_distance_m, (GEO, 1e3)),
    ):
        standard = (np.log(value / unit)[:, None] - parameters[:, 0]) / parameters[:, 1]
        log += -0.5 * standard**2 - np.log(parameters[:, 1])
    return np.asarray(np.exp(log - log.max(axis=1, keepdims=True)))


def abuser_age_density(age_days: Floats) -> Floats:
    """Shape (n, 3): density (per day) of an abuser's account age at its first order."""
    log = np.log(np.maximum(age_days, 1e-6))
    standard = (log[:, None] - ABUSER_AGE[:, 0]) / ABUSER_AGE[:, 1]
    scale = ABUSER_AGE[:, 1] * np.sqrt(2 * np.pi) * np.maximum(age_days, 1e-6)[:, None]
    return np.asarray(np.exp(-0.5 * standard**2) / scale)
