"""What a run found: one shape for offline and real-time runs, which is judged and reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

import numpy as np

from ibook_assets.core.monitoring import DriftDecision
from ibook_sim.drift import Divergence, Drift, DriftedShare
from ibook_sim.scenarios import Scenario
from ibook_sim.world.randomness import Bools, Floats, Ints

Mode = Literal["offline", "realtime"]

UNKNOWN_TRUTH = -1
"""Archetype of an order whose truth was not recorded."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Orders of a run, one element each."""

    sent_seconds: Floats
    """When it was sent; in real time, when it was due."""
    archetype: Ints
    amount_cents: Ints
    posterior: Floats
    """The exact probability of fraud: the bound."""
    score: Floats
    """NaN where no score came back."""
    dropped: Bools
    """Lost on the way, or without an answer in time."""
    refused: Bools
    """Turned away for what it holds."""
    failed: Bools
    """Answered with an error."""
    delay_ms: Floats
    """Added by the network."""
    freshness_seconds: Floats
    """Event time to arrival; NaN for an order that did not arrive."""
    latency_ms: Floats
    """Sent (in real time: due) to answered; offline NaN for an order without an answer."""
    account: Ints
    """Whose order it is."""
    flagged: Bools | None = None
    """Whether the answer held the order; None: what its score makes the cheaper choice."""

    def take(self, rows: Ints) -> Self:
        """The chosen orders."""
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        taken: dict[str, Any] = {n: None if c is None else c[rows] for n, c in columns.items()}
        return type(self)(**taken)

    @classmethod
    def joined(cls, parts: list[Self]) -> Self:
        """The orders of all `parts`, none of which has decisions of its own."""
        names = [f.name for f in fields(cls) if f.name != "flagged"]
        return cls(**{n: np.concatenate([getattr(part, n) for part in parts]) for n in names})

    @property
    def answered(self) -> Bools:
        """Orders that got an answer."""
        return ~(self.dropped | self.refused | self.failed)

    @property
    def truth_known(self) -> bool:
        """Whether it is known of every order what it was."""
        return bool((self.archetype != UNKNOWN_TRUTH).all())


@dataclass(frozen=True, slots=True)
class Books:
    """What must add up."""

    oversold_events: int
    wrong_amounts: int
    sent: int
    dropped: int
    duplicated: int
    arrived: int


@dataclass(frozen=True, slots=True)
class Labels:
    """When the outcomes of the orders became known, against the world without faults."""

    in_time_share: float
    """Share of orders whose label was known by `labels.GRACE_DAYS` after it matures."""
    delay_p95_days: float
    """95th percentile of the delay; infinite when more than a twentieth never came."""


@dataclass(frozen=True, slots=True)
class PartFound:
    """One world's share of a run; a run that is no mix has one."""

    scenario: Scenario
    orders: int
    books: Books
    divergences: tuple[Divergence, ...]
    """Of each column from the undrifted twin; empty for recorded days, which have none."""
    drifted: tuple[DriftedShare, ...]
    platform: DriftDecision | None
    """What the platform's monitoring says of them; None without a twin."""
    labels: Labels | None = None
    recording: tuple[str, str] | None = None
    """Digests of the orders when they were recorded and when they were read back."""

    @property
    def index(self) -> float | None:
        """Stability index of the most moved column."""
        return max((d.stability_index for d in self.divergences), default=None)


@dataclass(frozen=True, slots=True)
class Pace:
    """How a real-time run kept its schedule."""

    target: str
    """Who was asked."""
    room: bool
    """Whether a waiting room slowed the requests down on purpose."""
    rate_share: float
    """Kept share of the asked rate."""
    logged: bool
    """Whether the orders went into the event log too."""
    figures: Mapping[str, Any]
    """All that was measured, as JSON."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """Everything a run has to show."""

    scenario: Scenario
    seed: int
    duration_seconds: float
    """As played."""
    scorer: str
    seen: Seen
    parts: tuple[PartFound, ...]
    digest: str
    """SHA-256 of all that was seen (in real time: of what was to be sent)."""
    interrupted: bool = False
    pace: Pace | None = None
    """None for an offline run, whose latency is imagined."""

    @property
    def mode(self) -> Mode:
        """Whether requests were really sent."""
        return "offline" if self.pace is None else "realtime"

    @property
    def drift(self) -> Drift:
        """The drift that was asked for; parts of a mix have their own."""
        return self.scenario.drift

    @property
    def moved(self) -> PartFound:
        """The part whose columns moved most."""
        return max(self.parts, key=lambda part: part.index or 0.0)
