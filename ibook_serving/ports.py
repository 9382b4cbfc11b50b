"""What the server needs from a model and from a feature store; anything that fits will do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ibook_serving.decode import Row
from ibook_serving.reasons import ReasonWriter


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

    def score(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
        """Shape (n,): the probability of each row of `x`, shape (n, f)."""
        ...

    def explain(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
        """Shape (n, f + 1): what each feature adds to each row's log-odds, the bias last."""
        ...


@dataclass(frozen=True, slots=True)
class Fetched:
    """Features of some rows."""

    values: npt.NDArray[np.float32]
    """Shape (n, f); NaN where unknown."""
    unknown: Sequence[tuple[str, ...]]
    """Each row's entities that were sent but have no history."""


class Features(Protocol):
    """A snapshot of the history features are computed from."""

    @property
    def snapshot_id(self) -> str | None:
        """Name of the snapshot; None without one."""
        ...

    @property
    def as_of_us(self) -> int | None:
        """Time up to which history is known; None without any."""
        ...

    @property
    def degraded(self) -> tuple[str, ...]:
        """Labels of what is missing; empty when all is well."""
        ...

    def fetch(self, features: Sequence[str], rows: Sequence[Row]) -> Fetched:
        """The `features` (qualified names) of each row."""
        ...


@dataclass(frozen=True, slots=True)
class Champion:
    """The promoted model, ready to score and to explain."""

    sequence: int
    version: str
    model: Model
    reasons: ReasonWriter
