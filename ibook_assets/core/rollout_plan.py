"""The plan of a rollout as data: how many users see a model, for how long, held to what."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ibook_assets.core.analysis.objectives import Objectives
from ibook_assets.core.errors import ContractError
from ibook_assets.core.settings import Settings

Share = Annotated[float, Field(gt=0, le=1)]
Seconds = Annotated[float, Field(gt=0)]


class RolloutPlan(BaseModel):
    """What a rollout goes through: a shadow, canaries of growing share, the champion's place."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shadow_seconds: Annotated[float, Field(ge=0)]
    """Least time as a shadow, which scores every order unseen; 0: begin as a canary."""
    shares: Annotated[tuple[Share, ...], Field(min_length=1, max_length=10)]
    """Share of users that the canary answers, step by step."""
    watch_seconds: Seconds
    """Least time of each canary step."""
    window_seconds: Seconds
    """Width of the windows that both arms are compared in."""
    settle_seconds: Annotated[float, Field(ge=0)]
    """Age at which a window is looked at: what was predicted in it has reached the lake by then."""
    objectives: Objectives = Objectives()

    @model_validator(mode="after")
    def _shares_grow(self) -> Self:
        if any(later <= sooner for sooner, later in pairwise(self.shares)):
            msg = f"canary shares must grow step by step, not {list(self.shares)}"
            raise ValueError(msg)
        return self

    @property
    def false_alarm_rate(self) -> float:
        """The chance of a false alarm that each step may take: the rollout's, split evenly."""
        return self.objectives.false_alarm_rate / (1 + len(self.shares))


def plan_of(settings: Settings) -> RolloutPlan:
    """The plan that `settings` describe; ContractError when they describe none."""
    try:
        shares = tuple(float(share) for share in settings.rollout_shares.split(","))
        return RolloutPlan(
            shadow_seconds=settings.rollout_shadow_hours * 3_600,
            shares=shares,
            watch_seconds=settings.rollout_watch_hours * 3_600,
            window_seconds=settings.rollout_window_seconds,
            settle_seconds=settings.rollout_settle_seconds,
            objectives=Objectives(minimum_units=settings.rollout_minimum_units),
        )
    except ValueError as error:
        msg = (
            f"IBOOK_ROLLOUT_SHARES={settings.rollout_shares} is no list of growing shares of "
            f"users, such as 0.05,0.25: {error}"
        )
        raise ContractError(msg) from error
