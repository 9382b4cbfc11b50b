"""When each request is due, decided before the first one is sent."""

from __future__ import annotations

from typing import Final

from ibook_assets.core.errors import ContractError
from ibook_sim.scenarios.spec import Traffic
from ibook_sim.world.randomness import Floats

MAX_REQUESTS: Final = 5_000_000
"""Requests of one run; their payloads are held in memory."""
EVEN: Final = Traffic()


def arrivals(rps: float, seconds: float, *, seed: int, traffic: Traffic = EVEN) -> Floats:
    """Due times of a Poisson stream given its count, ascending, in [0, seconds].

    Args:
        rps: mean requests a second; exactly round(rps * seconds) of them come, at least one.
        seconds: length of the run.
        seed: same seed, same times.
        traffic: its bursts.

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
    return traffic.offsets(count, seconds, seed=seed)
