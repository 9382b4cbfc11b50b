"""What arms are compared on: one order a user, and requests between two looks at the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ibook_assets.core.analysis.eprocess import Counts

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """How often an event was seen, by window."""

    times_us: tuple[int, ...]
    """Ends of the windows, ascending."""
    hits: Counts
    """Shape (m, 2): units with the event, the champion's first."""
    units: Counts
    """Shape (m, 2): all units."""

    @property
    def misses(self) -> Windows:
        """The same of the event not happening."""
        return Windows(self.times_us, self.units - self.hits, self.units)


@dataclass(frozen=True, slots=True, eq=False)
class Users:
    """The first order of each user in a step: who is in which arm is a draw of its own for each.

    Later orders of a user are left out, because a user's orders resemble each other: counted one
    by one, a single busy bot would pass for a worse model.
    """

    known_us: Counts
    """Shape (n,): when each was scored, ascending."""
    challenged: Mask
    """Whether the challenger answered."""
    scores: npt.NDArray[np.float64]
    held: Mask
    mature: Mask
    """Whether the order's label had time to arrive."""
    fraud: Mask
    """What the label says; False where it is not mature."""

    def windows(self, event: Mask, window_us: int, of: Mask | None = None) -> Windows:
        """`event`, shape (n,), by window and arm, of all users or those in `of`."""
        return by_window(
            self.known_us if of is None else self.known_us[of],
            self.challenged if of is None else self.challenged[of],
            event if of is None else event[of],
            window_us,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """Requests between looks at the server's metrics; first column the champion's."""

    times_us: tuple[int, ...]
    answered: Counts
    """Shape (m, 2)."""
    errors: Counts
    """Shape (m, 2): server errors, counted in `answered` too."""
    slower: Mapping[float, Counts]
    """By latency (seconds), shape (m, 2) each: requests that took longer."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """The first order of each user that a shadow was to score beside the champion."""

    known_us: Counts
    champion_scores: npt.NDArray[np.float64]
    champion_held: Mask
    shadow_scores: npt.NDArray[np.float64]
    """NaN where the shadow said nothing."""
    shadow_held: Mask

    def scored(self, said: Mask) -> Pairs:
        """Those that the shadow `said` something of."""
        return Pairs(
            self.known_us[said],
            self.champion_scores[said],
            self.champion_held[said],
            self.shadow_scores[said],
            self.shadow_held[said],
        )


def by_window(known_us: Counts, challenged: Mask, event: Mask, window_us: int) -> Windows:
    """Counts of windows of `window_us` on the clock that hold anything; `known_us` ascends."""
    place = known_us // window_us
    new = np.diff(place, prepend=-1) != 0
    ends, at = place[new], np.cumsum(new) - 1
    cell = 2 * at + challenged.astype(np.int64)
    units = np.bincount(cell, minlength=2 * len(ends)).reshape(-1, 2)
    hits = np.bincount(cell[event], minlength=2 * len(ends)).reshape(-1, 2)
    return Windows(tuple(int(end + 1) * window_us for end in ends), hits, units)
