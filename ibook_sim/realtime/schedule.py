"""When each request is due, decided before the first one is sent."""

from __future__ import annotations

from typing import Final

import numpy as np

from ibook_assets.core.errors import ContractError
from ibook_sim.world.randomness import Floats, Stream, generator

MAX_REQUESTS: Final = 5_000_000
"""Requests of one run; their payloads are held in memory."""


def arrivals(rps: float, seconds: float, *, seed: int, shape: Floats | None = None) -> Floats:
    """Due times of a Poisson stream given its count, ascending, in [0, seconds).

    Args:
        rps: mean requests a second; exactly round(rps * seconds) of them come, at least one.
        seconds: length of the run.
        seed: same seed, same times.
        shape: relative rate in each of its equal parts of the run; even when left out.

    Raises:
        ContractError: the rate or length is not positive, or the run is too large to hold.
    """
    if not (rps > 0.0 and seconds > 0.0):
        msg = f"{rps:g} requests a second for {seconds:g} s cannot be run; both must be above 0"
        raise ContractError(msg)
    count = max(1, round(rps * seconds))
    if count > MAX_REQUESTS:
        msg = (
            f"{rps:g} requests a second for {seconds:g} s are {count:,} requests; one run holds "
            f"{MAX_REQUESTS:,}: shorten it, lower the rate, or start it again with another seed"
        )
        raise ContractError(msg)
    shares = np.sort(generator(seed, Stream.LOAD).random(count))
    return _spread(shares, shape) * seconds


def _spread(shares: Floats, shape: Floats | None) -> Floats:
    if shape is None:
        return shares
    if shape.size == 0 or (shape < 0).any() or not 0.0 < shape.sum() < np.inf:
        msg = f"a traffic shape needs relative rates >= 0 that are not all 0, got {shape.tolist()}"
        raise ContractError(msg)
    # Inverse of the cumulative rate; parts without traffic are left out, as nothing is due there.
    busy = np.flatnonzero(shape)
    ends = np.cumsum(shape[busy]) / shape.sum()
    part = np.minimum(np.searchsorted(ends, shares, side="right"), busy.size - 1)
    begins = np.concatenate([[0.0], ends[:-1]])
    within = (shares - begins[part]) / (ends[part] - begins[part])
    spread = (busy[part] + np.clip(within, 0.0, 1.0 - 1e-12)) / shape.size
    return np.asarray(np.maximum.accumulate(spread))
