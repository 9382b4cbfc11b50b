"""A scenario: a world, the traffic it makes, what goes wrong on the way, and what must hold."""

from __future__ import annotations

from typing import Annotated, Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ibook_sim.chaos import Chaos
from ibook_sim.drift import Drift
from ibook_sim.world import WorldConfig
from ibook_sim.world.randomness import Floats, Stream, generator

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Burst(_Frozen):
    """Orders that come all at once."""

    at: Share
    """When it begins, as a share of the run."""
    width: Annotated[float, Field(gt=0.0, le=1.0)]
    """How long it lasts, as a share of the run."""
    share: Share
    """Share of the run's orders in it."""

    @model_validator(mode="after")
    def _ends_in_time(self) -> Self:
        if self.at + self.width > 1.0 + 1e-9:
            msg = f"a burst from {self.at:g} of width {self.width:g} ends after the run (1)"
            raise ValueError(msg)
        return self


class Traffic(_Frozen):
    """When the orders of a run are sent: bursts over an even stream, Poisson within each."""

    orders_per_second: Positive = 20.0
    """Mean over the run."""
    duration_seconds: Positive = 600.0
    """Length of a run when none is asked for."""
    bursts: tuple[Burst, ...] = ()

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        total = sum(burst.share for burst in self.bursts)
        if total > 1.0 + 1e-9:
            msg = f"the bursts hold {total:g} of the orders; at most 1"
            raise ValueError(msg)
        return self

    def orders(self, duration_seconds: float) -> int:
        """Orders of a run that lasts so long; at least 1."""
        return max(1, round(self.orders_per_second * duration_seconds))

    def offsets(self, count: int, duration_seconds: float, *, seed: int) -> Floats:
        """Shape (count,): seconds from the run's start at which each order is sent, rising."""
        g = generator(seed, Stream.TRAFFIC)
        shares = [burst.share for burst in self.bursts]
        which = np.searchsorted(np.cumsum(shares), g.random(count), side="right")
        starts = np.array([*(burst.at for burst in self.bursts), 0.0])
        widths = np.array([*(burst.width for burst in self.bursts), 1.0])
        return np.asarray(np.sort(starts[which] + widths[which] * g.random(count))) * (
            duration_seconds
        )


class Service(_Frozen):
    """The scoring service that an offline run imagines: workers that take one order at a time."""

    workers: Annotated[int, Field(ge=1, le=64)] = 4
    service_ms: Positive = 6.0
    """Mean time for one order; exponential."""


class Objectives(_Frozen):
    """What must hold; None is not judged. Conservation and the drift's size always are.

    In a mix the parts' own objectives judge their labels and drift.
    """

    latency_p99_ms: Positive | None = 250.0
    error_share: Share | None = 0.001
    """Most orders without an answer: dropped, refused or failed."""
    freshness_p99_seconds: Positive | None = 5.0
    """From an order's event time to its arrival."""
    oracle_share: Share | None = 0.35
    """Least average precision, as a share of the exact posterior's."""
    labels_in_time_share: Share | None = None
    """Least share of orders whose label is known a day after it matures at the latest."""
    label_delay_p95_days: Positive | None = None
    """From when the world knows a label to when the platform does."""
    drift_index_max: Annotated[float, Field(ge=0.0)] | None = 0.1
    """Largest population stability index of any column, against the undrifted twin."""
    drift_index_min: Annotated[float, Field(ge=0.0)] | None = None
    """Least of the most moved column's index: the drift must be visible."""
    platform_rings: bool = False
    """Whether the platform's own monitoring must call the orders drifted."""
    saved_share: Annotated[float, Field(ge=-1.0, le=1.0)] | None = 0.5
    """Least money saved by holding orders, as a share of what perfect knowledge saves."""
    honest_revenue_share: Share | None = 0.65
    """Least share of honest revenue that is answered and not held."""


class Part(_Frozen):
    """One scenario's weight in a mix."""

    scenario: str
    weight: Positive


class Scenario(_Frozen):
    """Everything a run depends on besides its seed and its length."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
    description: str
    world: dict[str, Any] = {}
    """Fields of `WorldConfig` that differ from its defaults."""
    traffic: Traffic = Traffic()
    service: Service = Service()
    chaos: Chaos = Chaos()
    drift: Drift = Drift(level=0.0)
    objectives: Objectives = Objectives()
    recorded: bool = False
    """Its orders are recorded days instead of a world's, spread in time as they were."""
    parts: tuple[Part, ...] = ()
    """Scenarios that are mixed; their own worlds, chaos and bursts apply to their orders."""

    @model_validator(mode="after")
    def _world_is_possible(self) -> Self:
        self.config(0)
        return self

    def config(self, seed: int) -> WorldConfig:
        """The world of this scenario under `seed`."""
        return WorldConfig.model_validate({**self.world, "seed": seed})
