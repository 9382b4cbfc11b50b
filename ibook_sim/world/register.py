"""The register of accounts: one row for every account ever opened, and who lives where when."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from ibook_assets.core.times import DAY_US
from ibook_sim.world.accounts import Slots
from ibook_sim.world.config import WorldConfig
from ibook_sim.world.fraud import Abusers
from ibook_sim.world.randomness import Floats, Ints

UNKNOWN_TIME: Final = np.iinfo(np.int64).min
_FAR: Final = np.iinfo(np.int64).max


class Register:
    """Accounts by number, in the order they were opened.

    Attributes hold one row an account, and spare rows behind `size`.
    """

    def __init__(self, config: WorldConfig, slots: Slots) -> None:
        users = config.users
        self._slots = slots
        self.size = users
        self.archetype = np.zeros(users, np.int64)
        """0, or the abuser's archetype; an account taken over stays 0."""
        self.activity: Floats = slots.activity.copy()
        self.taste: Floats = slots.taste.copy()
        self.created_us: Ints = slots.created_us.copy()
        self.known_day: Ints = np.zeros(users, np.int64)
        """First day the account belongs in the list of accounts."""
        self.tenant: Ints = np.arange(users)
        """Account in each slot on the last planned day."""
        self._moves: list[tuple[int, Ints, Ints]] = []

    def _grow(self, more: int) -> slice:
        first, self.size = self.size, self.size + more
        if self.size > self.archetype.size:
            room = max(self.size, self.archetype.size * 5 // 4)
            for name in ("archetype", "activity", "taste", "created_us", "known_day"):
                setattr(self, name, _padded(getattr(self, name), room))
        return slice(first, self.size)

    def renew(self, day: int) -> Ints:
        """Close and replace accounts as `day` begins; returns their slots."""
        slots, opened_us = self._slots.renewed(day)
        rows = self._grow(slots.size)
        self.archetype[rows] = 0
        self.activity[rows] = self._slots.activity[slots]
        self.taste[rows] = self._slots.taste[slots]
        self.created_us[rows] = opened_us
        self.known_day[rows] = day
        accounts = np.arange(rows.start, rows.stop)
        self.tenant[slots] = accounts
        self._moves.append((day, slots, accounts))
        return slots

    def open_abusers(self, group: Abusers) -> int:
        """Add the accounts of `group`; returns the number of the first."""
        rows = self._grow(group.archetype.size)
        self.archetype[rows] = group.archetype
        self.activity[rows] = group.activity
        self.taste[rows] = group.taste
        self.created_us[rows] = UNKNOWN_TIME
        self.known_day[rows] = _FAR
        return int(rows.start)

    def date_abusers(self, day: int, accounts: Ints, first_us: Ints, age_days: Floats) -> None:
        """Set the opening time of abusers' accounts from their first order, on `day`, and age."""
        self.known_day[accounts] = day
        self.created_us[accounts] = first_us - (age_days * DAY_US).astype(np.int64)

    def tenants(self, day: int) -> Ints:
        """Account in each slot on `day`, which must be planned."""
        tenant = np.arange(self.tenant.size)
        for moved, slots, accounts in self._moves:
            if moved > day:
                break
            tenant[slots] = accounts
        return tenant


def _padded(rows: npt.NDArray[np.generic], size: int) -> npt.NDArray[np.generic]:
    out = np.zeros((size, *rows.shape[1:]), rows.dtype)
    out[: rows.shape[0]] = rows
    return out
