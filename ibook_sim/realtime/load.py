"""Orders with the moment each is due: made by the world, or recorded before."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pyarrow as pa

from ibook_assets.core.arrow import integers
from ibook_assets.core.errors import ContractError
from ibook_assets.core.tables import TRANSACTIONS
from ibook_assets.core.times import SECOND_US
from ibook_sim.chaos import Chaos, deliver
from ibook_sim.judging.books import delivered
from ibook_sim.judging.validators import cheaper_held
from ibook_sim.orders.placed import Orders, of_recording, of_world
from ibook_sim.orders.recordings import Recording
from ibook_sim.realtime.schedule import MAX_REQUESTS, arrivals
from ibook_sim.scenarios import Scenario, scenario
from ibook_sim.world.randomness import Bools, Floats

_SPARE: Final = (1.05, 100)
"""More orders are played than arrive on average (factor, summand): chance drops some."""


@dataclass(frozen=True, slots=True)
class Load:
    """Orders to send, as they arrive; shape (n,) each."""

    orders: Orders
    due: Floats
    seconds: float
    seed: int

    @property
    def scenario(self) -> Scenario:
        """Whose orders they are."""
        return self.orders.found.scenario

    @property
    def name(self) -> str:
        """The scenario's."""
        return self.scenario.name

    @property
    def chaos(self) -> Chaos:
        """What goes wrong on the way."""
        return self.scenario.chaos

    @property
    def rows(self) -> pa.Table:
        """Columns of `TRANSACTIONS`."""
        return self.orders.sent

    @property
    def fraud(self) -> Bools | None:
        """Ground truth, where it is known."""
        return self.orders.archetype > 0 if self.orders.truth_known else None

    @property
    def flagged(self) -> Bools:
        """What an offline answer says: held where the row posterior makes that cheaper."""
        amount = integers(self.rows["amount_cents"], null=0)
        return cheaper_held(np.nan_to_num(self.orders.score), amount)


def simulated(asked: Scenario, *, seed: int, rps: float, seconds: float) -> Load:
    """The first orders of the scenario's world, as they arrive, on its schedule.

    Raises:
        ContractError: the schedule cannot be, the scenario is a mix or plays recorded days, or
            its world has too few orders.
    """
    if asked.parts:
        msg = f"{asked.name} mixes scenarios; realtime plays one world: choose one of its parts"
        raise ContractError(msg)
    if asked.recorded:
        msg = f"{asked.name} plays recorded days: use `replay FOLDER --day YYYY-MM-DD`"
        raise ContractError(msg)
    due = arrivals(rps, seconds, seed=seed, traffic=asked.traffic)
    kept = (1.0 - asked.chaos.drop_share) * (1.0 + asked.chaos.duplicate_share)
    if kept == 0.0:
        msg = f"{asked.name} loses every order, so there is nothing to send"
        raise ContractError(msg)
    factor, summand = _SPARE
    orders = of_world(asked, math.ceil(due.size / kept * factor) + summand, seed=seed)
    return Load(_arriving(orders, due.size, seed=seed), due, seconds, seed)


def recorded(recording: Recording, *, speed: float, seed: int) -> Load:
    """Recorded orders, spread as they became known, `speed` times as fast.

    Raises:
        NotFoundError: a day or the catalogue was not recorded.
        ContractError: the days hold no orders, or more than one run may.
    """
    count = recording.transactions().num_rows
    if not 0 < count <= MAX_REQUESTS:
        msg = (
            f"{len(recording.days)} days from {recording.days[0]} hold {count:,} orders; "
            f"1 to {MAX_REQUESTS:,} can run"
        )
        raise ContractError(msg)
    orders = of_recording(scenario("replay"), recording)
    known = integers(orders.sent["known_ts"], null=0)
    due = (known - known[0]) / SECOND_US / speed
    return Load(orders, due, float(due[-1]) + 1e-3, seed)


def _arriving(orders: Orders, count: int, *, seed: int) -> Orders:
    """The first `count` of `orders` that arrive, doubled and spoilt as they do."""
    delivery = deliver(orders.sent, TRANSACTIONS, orders.found.scenario.chaos, seed=seed)
    rows = delivery.origin[:count]
    return replace(
        orders.take(rows),
        sent=delivery.rows.slice(0, count),
        found=delivered(orders.found, delivery),
    )
