"""Answers without a server: the truth's own score of each order, after a plausible wait."""

from __future__ import annotations

import asyncio
from typing import Final

import numpy as np

from ibook_sim.chaos import RequestFaults
from ibook_sim.realtime.recording import INJECTED, Answer
from ibook_sim.world.randomness import Bools, Floats, Stream, generator

MEDIAN_SECONDS: Final = 0.008
"""Middle of the synthetic service times, which are log-normal."""
SPREAD: Final = 0.35
"""Their standard deviation (natural logarithm of seconds)."""
OK: Final = 200


class OfflineTarget:
    """Answers every request by itself; what is drawn depends on the seed and the number alone."""

    def __init__(self, flagged: Bools, score: Floats, *, seed: int, faults: RequestFaults) -> None:
        self._flagged = flagged
        self._score = score
        draws = generator(seed, Stream.LOAD, 1).standard_normal(flagged.size)
        self._seconds = MEDIAN_SECONDS * np.exp(SPREAD * draws) + faults.delay_seconds
        self._fails = faults.fails

    async def send(self, number: int) -> Answer:
        """The answer to request `number`."""
        sent_at = asyncio.get_running_loop().time()
        await asyncio.sleep(float(self._seconds[number]))
        if self._fails[number]:
            return Answer(INJECTED, sent_at)
        return Answer(OK, sent_at, bool(self._flagged[number]), float(self._score[number]))
