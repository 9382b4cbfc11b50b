"""What the server needs from models, features and a prediction log; anything that fits will do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ibook_serving.api import Refusal
from ibook_serving.http.decode import Row
from ibook_serving.scoring.breaker import Breaker
from ibook_serving.scoring.reasons import ReasonWriter

Matrix = npt.NDArray[np.float32]

LaneStage = Literal["champion", "canary", "treatment", "shadow"]
"""What a model is for: answering, answering some, being compared in an experiment, watching."""

APPROVE: Final = "approve"
REVIEW: Final = "review"


class Model(Protocol):
    """A loaded, verified model."""

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Qualified names, in column order."""
        ...

    @property
    def threshold(self) -> float:
        """Scores at or above it go to review."""
        ...

    def score(self, x: Matrix) -> npt.NDArray[np.floating]:
        """Shape (n,): the probability of each row of `x`, shape (n, f)."""
        ...

    def explain(self, x: Matrix) -> npt.NDArray[np.floating]:
        """Shape (n, f + 1): what each feature adds to each row's log-odds, the bias last."""
        ...


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class LoadedModel:
    """A model out of the promotion record, ready to score and to explain."""

    version: str
    artefact: str
    """Identity of its promoted files: the last part of the artefact's address."""
    training_snapshot: str
    model: Model
    reasons: ReasonWriter


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """One model's place in a deployment."""

    variant: str
    """What answers, traces and metrics call it."""
    stage: LaneStage
    share: float
    """Share of the users it answers, or of those it is shown in the shadow."""
    loaded: LoadedModel

    def decision(self, score: float) -> str:
        """What becomes of an order with that score."""
        return REVIEW if score >= self.loaded.model.threshold else APPROVE


@dataclass(frozen=True, eq=False)
class Deployment:
    """What one promotion record says: replaced as a whole, never changed."""

    sequence: int
    since_us: int
    """When the champion was promoted (microseconds, UTC)."""
    champion: Lane
    challengers: tuple[Lane, ...] = ()
    experiment: str | None = None
    assign: Callable[[int], Lane] | None = None
    """The lane that answers a user; None: always the champion's."""
    mirror: Callable[[int], Sequence[Lane]] | None = None
    """The shadows that look at a user's orders; None: there are none."""

    def lane_of(self, user_id: int) -> Lane:
        """The lane that answers the orders of `user_id`."""
        return self.champion if self.assign is None else self.assign(user_id)

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """Every model, the champion's first."""
        return (self.champion, *self.challengers)

    @cached_property
    def features(self) -> tuple[str, ...]:
        """Features that any lane reads, the champion's first and in its order."""
        names = (name for lane in self.lanes for name in lane.loaded.model.feature_names)
        return tuple(dict.fromkeys(names))

    def seen_by(self, lane: Lane, values: Matrix) -> Matrix:
        """The columns of `values`, (n, f) or (f,) in the order of `features`, that `lane` reads."""
        return values[..., self._columns[lane]]

    @cached_property
    def _columns(self) -> dict[Lane, list[int] | slice]:
        at = {name: column for column, name in enumerate(self.features)}
        columns = {lane: [at[n] for n in lane.loaded.model.feature_names] for lane in self.lanes}
        # A slice is a view: the usual deployment copies nothing.
        everything = list(range(len(at)))
        return {k: slice(None) if found == everything else found for k, found in columns.items()}


@dataclass(frozen=True, slots=True)
class Fetched:
    """Features of some rows, all of one moment of one store."""

    values: Matrix
    """Shape (n, f); NaN where unknown."""
    unknown: Sequence[tuple[str, ...]]
    """Each row's entities that were sent but have no history."""
    as_of_us: int | None
    """Time up to which history is known; None without any."""
    store: str | None
    """What was read: a snapshot, or generation and version of a live store; None: nothing."""
    positions: bytes = b""
    """How far the log was applied to a live store, as it stores it (JSON); empty otherwise."""
    degraded: tuple[str, ...] = ()
    """Labels of what was missing; empty when all is well."""


class FeatureSource(Protocol):
    """Where the features of orders come from."""

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """What it would not read, and why."""
        ...

    @property
    def as_of_us(self) -> int | None:
        """Time up to which history was known when it was last looked at."""
        ...

    @property
    def store(self) -> str | None:
        """What is read at present; None while there is only the order itself."""
        ...

    @property
    def breakers(self) -> Mapping[str, Breaker]:
        """Circuit breakers of what it depends on, by name."""
        ...

    async def refresh(self, executor: Executor, *, force: bool) -> None:
        """Catch up with what is published; slow work happens in `executor`."""
        ...

    async def fetch(self, features: Sequence[str], rows: Sequence[Row]) -> Fetched:
        """The `features` (qualified names) of each row; degraded rather than an error."""
        ...

    async def close(self) -> None:
        """Let go of files and connections."""
        ...


class Served(NamedTuple):
    """One prediction as it was made, for the prediction log."""

    request_id: str
    row: Row
    transaction_id: int | str | None
    """As the client sent it."""
    lane: Lane
    sequence: int
    experiment: str | None
    values: Matrix
    """Shape (f,): the features scored, in the model's order."""
    score: float
    decision: str
    fetched: Fetched
    unknown: tuple[str, ...]
    served_us: int
    """When it was made (microseconds, UTC)."""
    latency_us: int
    """From the request's first byte read to the score."""
    answered: bool
    """Whether the client saw it; False for a shadow's."""


class Recorder(Protocol):
    """The prediction log's end in the process that answers."""

    @property
    def dropped(self) -> int:
        """Predictions that could not be taken or kept since the start."""
        ...

    def start(self) -> None:
        """Begin; call in the process that serves."""
        ...

    def record(self, predictions: Sequence[Served]) -> None:
        """Take predictions along; never waits, and counts what it cannot take."""
        ...

    def stop(self) -> None:
        """Bring to safety what was taken; call after the last answer."""
        ...


class NoRecorder:
    """Keeps nothing, and was meant to."""

    dropped: int = 0

    def start(self) -> None:
        """Nothing to begin."""

    def record(self, predictions: Sequence[Served]) -> None:
        """Forget them."""

    def stop(self) -> None:
        """Nothing to bring to safety."""
