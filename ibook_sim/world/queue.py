"""The queue of fraudulent orders to come: which of them fall due on a day, and by which account."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from ibook_sim.world.config import WorldConfig
from ibook_sim.world.fraud import Attempts, Takeovers, abusers, takeovers
from ibook_sim.world.randomness import Floats, Ints
from ibook_sim.world.register import Register

_NOBODY: Final = -1


@dataclass(frozen=True, slots=True)
class Due:
    """Attempts in time order, the account behind each, and its age (days) if it is an abuser."""

    attempts: Attempts
    account: Ints
    slot: Ints
    age_days: Floats

    def take(self, rows: Ints) -> Due:
        """The chosen attempts."""
        return Due(
            self.attempts.take(rows), self.account[rows], self.slot[rows], self.age_days[rows]
        )


@dataclass(slots=True)
class _Starting:
    """A block of takeovers, of which the first `done` have started or failed."""

    takeovers: Takeovers
    victim: Ints
    done: int = 0


class FraudQueue:
    """Fraudulent orders in operational time, fed block by block as days are planned."""

    def __init__(self, config: WorldConfig, register: Register) -> None:
        self._config = config
        self._register = register
        self._block = 0
        self._starting: list[_Starting] = []
        self._taken_until = np.zeros(config.users)
        none, no = np.empty(0), np.empty(0, np.int64)
        empty = Attempts(none, no, no, np.empty(0, np.bool_), none, none)
        self._waiting = Due(empty, no, no, none)

    def renewed(self, slots: Ints) -> None:
        """New accounts in `slots`: whatever was taken over there is gone."""
        self._taken_until[slots] = 0.0

    def due(self, before: float) -> Due:
        """Attempts earlier than operational time `before` and not returned yet."""
        while self._block - 1 < before:
            self._load()
        for block in self._starting:
            self._start(block, before)
        self._starting = [b for b in self._starting if b.done < b.takeovers.start.size]
        due = self._waiting.attempts.time < before
        now = np.flatnonzero(due)
        now = now[np.argsort(self._waiting.attempts.time[now], kind="stable")]
        ready = self._waiting.take(now)
        self._waiting = self._waiting.take(np.flatnonzero(~due))
        alive = (ready.slot < 0) | (self._register.tenant[ready.slot] == ready.account)
        return ready.take(np.flatnonzero(alive))

    def _load(self) -> None:
        group = abusers(self._config, self._block)
        owner = group.attempts.owner
        first = self._register.open_abusers(group)
        nowhere = np.full(owner.size, _NOBODY)
        self._add(Due(group.attempts, first + owner, nowhere, group.age_days[owner]))
        block = takeovers(self._config, self._block)
        self._starting.append(_Starting(block, np.full(block.slot.size, _NOBODY)))
        self._block += 1

    def _start(self, block: _Starting, before: float) -> None:
        """Start the takeovers of `block` that are due; one of an account already taken fails."""
        stop = int(np.searchsorted(block.takeovers.start, before))
        for i in range(block.done, stop):
            slot, start = block.takeovers.slot[i], block.takeovers.start[i]
            if self._taken_until[slot] <= start:
                self._taken_until[slot] = block.takeovers.end[i]
                block.victim[i] = self._register.tenant[slot]
        owner = block.takeovers.attempts.owner
        rows = np.flatnonzero(
            (owner >= block.done) & (owner < stop) & (block.victim[owner] != _NOBODY)
        )
        chosen = owner[rows]
        self._add(
            Due(
                block.takeovers.attempts.take(rows),
                block.victim[chosen],
                block.takeovers.slot[chosen],
                np.zeros(rows.size),
            )
        )
        block.done = stop

    def _add(self, more: Due) -> None:
        old = self._waiting
        self._waiting = Due(
            Attempts.join([old.attempts, more.attempts]),
            np.concatenate([old.account, more.account]),
            np.concatenate([old.slot, more.slot]),
            np.concatenate([old.age_days, more.age_days]),
        )
