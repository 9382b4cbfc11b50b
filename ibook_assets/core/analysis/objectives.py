"""What a challenger is held to, in one place."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

Odds = Annotated[float, Field(ge=1)]

P95_SHARE: Final = 0.05
"""Share of requests that may be slower than the limit on their 95th percentile."""
LATENCY_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5)
"""Latencies (seconds) that requests are compared at: bounds of the server's histogram."""
SCORE_CUTS: Final = (0.02, 0.05, 0.2, 0.5)
"""Scores that the arms' distributions are compared at."""


class Objectives(BaseModel):
    """Limits, and how much worse than the champion a challenger may be, in odds.

    Odds ratios up to the tolerated one are never held against it: a model that is to replace
    another one scores differently, and by design.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    false_alarm_rate: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Chance that a challenger within all that is tolerated fails anywhere in its rollout."""
    minimum_units: Annotated[int, Field(ge=1)] = 300
    """Users, or requests, that each arm must have shown before a step counts as sound."""
    error_limit: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Share of requests that may end in a server error."""
    error_odds: Odds = 1.0
    """Tolerated odds ratio of server errors."""
    latency_limit_seconds: Annotated[float, Field(gt=0)] = 0.2
    """Limit on the 95th percentile; one of LATENCY_BOUNDS."""
    latency_odds: Odds = 1.5
    """Tolerated odds ratio of requests slower than any of LATENCY_BOUNDS."""
    flag_odds: Odds = 3.0
    """Tolerated odds ratio, up and down, of users whose order is held."""
    score_odds: Odds = 3.0
    """Tolerated odds ratio, up and down, of users above any of SCORE_CUTS."""
    wasted_odds: Odds = 1.5
    """Tolerated odds ratio of held orders that were none of fraud, once labels are mature."""
