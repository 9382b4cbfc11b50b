"""What experiments count: yes-or-no facts about an answer, and so about a user who got any such."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]

Better = Literal["higher", "lower"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of some answers, one entry each."""

    reviewed: Mask
    """The order went to review."""
    degraded: Mask
    """The answer was made without something."""
    fraud: Mask
    """The order is known to be fraud."""
    legitimate: Mask
    """The order is known to be legitimate; one without an outcome is neither."""


@dataclass(frozen=True, slots=True)
class Metric:
    """An event; its rate is the share of users to whom it happened at least once."""

    name: str
    description: str
    better: Better
    needs_outcomes: bool
    happened: Callable[[Facts], Mask]


METRICS: Final[Mapping[str, Metric]] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric(
                "approval_rate",
                "An order was approved: the sale goes through (conversion).",
                "higher",
                needs_outcomes=False,
                happened=lambda facts: ~facts.reviewed,
            ),
            Metric(
                "review_rate",
                "An order went to review.",
                "lower",
                needs_outcomes=False,
                happened=lambda facts: facts.reviewed,
            ),
            Metric(
                "fraud_missed_rate",
                "An order was approved and turned out to be fraud.",
                "lower",
                needs_outcomes=True,
                happened=lambda facts: ~facts.reviewed & facts.fraud,
            ),
            Metric(
                "false_review_rate",
                "An order went to review and turned out to be legitimate.",
                "lower",
                needs_outcomes=True,
                happened=lambda facts: facts.reviewed & facts.legitimate,
            ),
            Metric(
                "degraded_rate",
                "An answer was made without something that it should have had.",
                "lower",
                needs_outcomes=False,
                happened=lambda facts: facts.degraded,
            ),
        )
    }
)
"""Every metric by name."""
