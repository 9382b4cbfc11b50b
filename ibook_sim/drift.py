"""Drift of an exact size: a world whose law is (1 - level) of one world and `level` of another.

Three axes, each leaving alone what the others change:

covariate  Prices rise to `DRIFTED_PRICE_PERCENT`. P(x) changes; the exact P(fraud | x) reads no
           amounts and so stays as it is.
prior      Fraud becomes `DRIFTED_FRAUD_FACTOR` times as frequent. P(fraud) changes, and
           P(x | archetype) stays.
concept    Fraudsters' orders look like everybody's. P(fraud | x) changes; P(x) moves by less than
           the share of fraud, because all other orders stay.

Covariate and concept toss a keyed coin for each order: it is the drifted world's with probability
`level`. A higher level drifts a superset of the orders. A mixture of two fraud shares is the
world with the mean share, so the prior axis sets that share (what is reached is a little less:
fraudsters who find no seat go away, see `DayPlan.unserved`). At level 0 nothing is drawn and no
byte changes. `since` lets covariate and concept begin on a later day: every byte before it is the
undrifted world's. The prior cannot: one fraud share holds for a world's whole plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated, Final, Literal, Self, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ibook_assets.core.errors import ContractError
from ibook_assets.core.settings import Settings
from ibook_assets.core.times import day_start_us
from ibook_sim.world import World, WorldConfig
from ibook_sim.world.aftermath import Aftermath
from ibook_sim.world.emissions import QUANTITY
from ibook_sim.world.oracle import Oracle
from ibook_sim.world.orders import Orders, OrderSource
from ibook_sim.world.plan import Plan
from ibook_sim.world.randomness import (
    Bools,
    Floats,
    Ints,
    Stream,
    Words,
    jit,
    philox,
    row_key,
    unit,
)
from ibook_sim.world.sessions import SessionSource

Axis = Literal["covariate", "prior", "concept"]
AXES: Final[tuple[Axis, ...]] = get_args(Axis)
LATER_AXES: Final[tuple[Axis, ...]] = ("covariate", "concept")
"""Axes that can begin to drift on a later day than the world's first."""

DRIFTED_PRICE_PERCENT: Final = 250
"""Prices of the drifted world in percent of the undrifted one's."""
DRIFTED_FRAUD_FACTOR: Final = 2.0
"""Fraud share of the drifted world over the undrifted one's."""
DRIFT_THRESHOLD: Final = 0.30
"""Population stability index from which a column counts as drifted."""

_BINS: Final = 10
_EMPTY_SHARE: Final = 1e-6
_COVARIATE_WORD: Final = 0
_CONCEPT_WORD: Final = 1


class Drift(BaseModel):
    """How far the world has moved, and along which axes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """Weight of the drifted world; 0 is the world as it is."""
    axes: tuple[Axis, ...] = AXES
    """What moves."""
    seed: Annotated[int, Field(ge=0)] = 42
    """Root of the coins; independent of the world's seed."""
    since: date | None = None
    """First UTC day that drifts; None is the world's first."""

    @model_validator(mode="after")
    def _axes_can_begin_then(self) -> Self:
        wrong = [axis for axis in self.axes if axis not in LATER_AXES]
        if self.since is not None and wrong:
            msg = (
                f"{wrong[0]} drift cannot begin on {self.since}: it is of a world's whole plan. "
                f"Name axes out of {LATER_AXES}, or no day"
            )
            raise ValueError(msg)
        return self

    @classmethod
    def from_settings(cls, settings: Settings) -> Drift | None:
        """The drift that the platform's `IBOOK_SIM_DRIFT_*` settings describe; None for none.

        Raises:
            ContractError: they name no axis, or one that cannot begin on that day.
        """
        if settings.sim_drift_level == 0.0:
            return None
        axes = tuple(axis.strip() for axis in settings.sim_drift_axes.split(","))
        told = {"level": settings.sim_drift_level, "axes": axes, "since": settings.sim_drift_from}
        try:
            return cls.model_validate(told)
        except ValidationError as error:
            msg = f"IBOOK_SIM_DRIFT_AXES={settings.sim_drift_axes}: {error.errors()[0]['msg']}"
            raise ContractError(msg) from error

    def level_of(self, axis: Axis) -> float:
        """The level along `axis`."""
        return self.level if axis in self.axes else 0.0

    def applied(self, config: WorldConfig) -> WorldConfig:
        """`config` with the mixture's fraud share."""
        level = self.level_of("prior")
        if level == 0.0:
            return config
        share = config.fraud_share * (1.0 + level * (DRIFTED_FRAUD_FACTOR - 1.0))
        return WorldConfig.model_validate(config.model_dump() | {"fraud_share": share})


@jit
def _coins(rows: Ints, key: Words, word: int) -> Floats:
    out = np.empty(rows.size)
    for i in range(rows.size):
        out[i] = unit(philox(rows[i], 0, key[0], key[1])[word])
    return out


class _DriftedOrders(OrderSource):
    def __init__(self, config: WorldConfig, plan: Plan, drift: Drift) -> None:
        super().__init__(config, plan)
        self._drift = drift

    def rows(self, day: int, rows: Ints | None = None) -> Orders:
        """Orders `rows` (all if None) of `day`, each from the world its coin says."""
        orders = super().rows(day, rows)
        hidden = self.hidden(day, orders)
        if hidden.any():
            disguise = np.where(hidden, 0, orders.archetype).astype(np.int8)
            orders = self.disguised(day, orders, disguise)
        dear = self.dear(day, orders)
        if dear.any():
            unit_price = orders.amount_cents // orders.quantity * DRIFTED_PRICE_PERCENT // 100
            amount = np.where(dear, unit_price * orders.quantity, orders.amount_cents)
            orders = orders._replace(amount_cents=amount)
        return orders

    def dear(self, day: int, orders: Orders) -> Bools:
        """Orders that pay the drifted world's price."""
        return self._tossed(day, orders.row, "covariate", _COVARIATE_WORD)

    def hidden(self, day: int, orders: Orders) -> Bools:
        """Fraudulent orders that look like everybody's."""
        if self._drift.level_of("concept") == 0.0:
            return np.zeros(orders.row.size, np.bool_)
        tossed = self._tossed(day, orders.row, "concept", _CONCEPT_WORD)
        return tossed & (orders.archetype > 0)

    def _tossed(self, day: int, rows: Ints, axis: Axis, word: int) -> Bools:
        level, since = self._drift.level_of(axis), self._drift.since
        today = self._config.start_date + timedelta(days=day)
        if level == 0.0 or (since is not None and today < since):
            return np.zeros(rows.size, np.bool_)
        coins = _coins(rows, row_key(self._drift.seed, Stream.DRIFT, day), word)
        return np.asarray(coins < level)


class _DriftedOracle(Oracle):
    """Exact for the mixture: it knows the level and since when, not the coins."""

    def __init__(self, config: WorldConfig, plan: Plan, orders: OrderSource, drift: Drift) -> None:
        super().__init__(config, plan, orders)
        self._level = drift.level_of("concept")
        self._since_us = 0 if drift.since is None else day_start_us(drift.since)

    def look(self, orders: Orders) -> Floats:
        """Shape (n, 5): P(columns | archetype) in the mixture, up to a common factor."""
        own = super().look(orders)
        if self._level == 0.0:
            return own
        size = QUANTITY.T[orders.quantity - 1]
        rest = own / size
        mixed = size * ((1.0 - self._level) * rest + self._level * rest[:, :1])
        return np.where((orders.known_ts >= self._since_us)[:, None], mixed, own)


@dataclass(frozen=True, slots=True)
class DriftedShare:
    """How many orders the coins drifted along one axis."""

    axis: Axis
    drifted: int
    eligible: int

    @property
    def share(self) -> float:
        """The level reached; NaN when no order could drift."""
        return self.drifted / self.eligible if self.eligible else float("nan")


class DriftedWorld(World):
    """A world that has drifted, with the truth that goes with it."""

    def __init__(self, config: WorldConfig, drift: Drift) -> None:
        super().__init__(drift.applied(config))
        self.drift = drift
        now = self.config
        self._drifting = _DriftedOrders(now, self._plan, drift)
        self._orders = self._drifting
        self._sessions = SessionSource(now, self._plan, self._drifting)
        self._aftermath = Aftermath(now, self._plan, self._drifting)
        self._oracle = _DriftedOracle(now, self._plan, self._drifting, drift)
        self._unaware = Oracle(config, self._plan, self._drifting)

    def unaware_posterior(self, number: int) -> Floats:
        """`row_posterior` of a judge that knows the world before the drift only, in row order.

        Args:
            number: the day, 0 is the world's first.
        """
        return self._unaware.row_posterior(number)

    def drifted(self, number: int) -> tuple[DriftedShare, DriftedShare]:
        """Orders of day `number` that the coins drifted: covariate, concept."""
        orders = self._drifting.rows(number)
        dear = int(self._drifting.dear(number, orders).sum())
        hidden = int(self._drifting.hidden(number, orders).sum())
        frauds = int((orders.archetype > 0).sum())
        return (
            DriftedShare("covariate", dear, orders.row.size),
            DriftedShare("concept", hidden, frauds),
        )


@dataclass(frozen=True, slots=True)
class Divergence:
    """How far apart two windows of one column are; both 0 when they are alike."""

    column: str
    stability_index: float
    """Population stability index, >= 0."""
    total_variation: float
    """Half the summed difference of bin shares, 0..1."""


def divergence(column: str, reference: Floats, current: Floats) -> Divergence:
    """Divergence of `current` from `reference` on the reference's quantile bins.

    A column with at most ten distinct values is binned by value.

    Raises:
        ContractError: a window is empty or holds NaN.

    Source: Yurdakul (2018), "Statistical Properties of Population Stability Index", eq. 1.1.
    """
    for name, window in (("reference", reference), ("current", current)):
        if window.size == 0 or np.isnan(window).any():
            msg = f"the {name} window of {column} needs values and no NaN, got {window.size} values"
            raise ContractError(msg)
    values = np.unique(reference)
    if values.size <= _BINS:
        edges = (values[1:] + values[:-1]) / 2
    else:
        edges = np.unique(np.quantile(reference, np.linspace(0, 1, _BINS + 1)[1:-1]))
    before, after = _shares(reference, edges), _shares(current, edges)
    safe_before, safe_after = np.maximum(before, _EMPTY_SHARE), np.maximum(after, _EMPTY_SHARE)
    index = np.sum((safe_after - safe_before) * np.log(safe_after / safe_before))
    return Divergence(column, float(index), float(np.abs(after - before).sum() / 2))


def _shares(window: Floats, edges: Floats) -> Floats:
    counts = np.bincount(np.searchsorted(edges, window, side="right"), minlength=edges.size + 1)
    return np.asarray(counts / window.size)
