"""What a simulated world is made from: one frozen, validated object.

Numbers are assumed unless a `Source:` stands beside them; docs/world.md compares both kinds with
what has been published.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ibook_assets.core.settings import Settings

TAKEOVER_ORDERS_PER_DAY: Final = 0.7
"""Fraudulent orders a day while an account is taken over (per operational day)."""
TAKEOVER_DAYS: Final = 3.0
"""Mean time an account stays taken over (operational days)."""
ORDERS_PER_ABUSER: Final = (1.5, 2.0, 2.0)
"""Mean orders (geometric) of a bot, card-testing and refund-abuse account."""
GAP_DAYS: Final = (0.15, 0.3, 8.0)
"""Mean time between an abuser's orders (exponential, operational days)."""
MAX_TAKEN_OVER: Final = 0.2
"""Largest share of accounts that may be taken over at once."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class WorldConfig(BaseModel):
    """Everything a world depends on: equal configs make equal bytes.

    Rates are absolute, so there is no horizon: the world can be asked for any day from
    `start_date` on, and later days never change earlier ones.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: Annotated[int, Field(ge=0)] = 7
    """Root of every random stream."""
    start_date: date = date(2026, 1, 1)
    """First UTC day with orders."""
    users: Annotated[int, Field(ge=100, le=50_000_000)] = 50_000
    """Legitimate accounts alive on any day; a closed account is replaced by a new one."""
    events: Annotated[int, Field(ge=10, le=1_000_000)] = 400
    """Ticketed events on sale in any 90 days."""
    orders_per_day: Annotated[float, Field(ge=10, le=10_000_000)] = 3_600.0
    """Expected orders a day, averaged over a year."""
    fraud_share: Annotated[float, Field(ge=0.0, le=0.2)] = 0.03
    """Expected share of orders that are fraudulent."""
    archetype_mix: tuple[Share, Share, Share, Share] = (0.40, 0.30, 0.20, 0.10)
    """Shares of fraudulent orders: account takeover, bulk bots, card testing, refund abuse."""
    renewal_per_day: Annotated[float, Field(ge=0.002, le=0.05)] = 0.01
    """Chance that an account is closed, and a new one opened, on any day."""
    yearly_growth: Annotated[float, Field(ge=-0.2, le=1.0)] = 0.0
    """Linear growth of orders a year, as a share of the first day's level."""
    seasonal_amplitude: Annotated[float, Field(ge=0.0, le=0.8)] = 0.15
    """Half the yearly swing of demand, as a share of its mean; the peak is in early December."""
    weekend_lift: Annotated[float, Field(ge=0.0, le=2.0)] = 0.25
    """How much busier Friday and Saturday are than the other days."""
    never_reported: Share = 0.12
    """Share of fraudulent orders that never come back as a chargeback."""
    friendly_fraud: Annotated[float, Field(ge=0.0, le=0.05)] = 0.002
    """Share of legitimate orders that their buyer charges back all the same."""
    late_share: Annotated[float, Field(ge=0.0, le=0.5)] = 0.005
    """Share of orders that reach the gateway minutes late instead of at once."""
    label_maturity_days: Annotated[int, Field(ge=0, le=180)] = 45
    """Days after which an order without a chargeback is reported as settled."""

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        total = sum(self.archetype_mix)
        if abs(total - 1.0) > 1e-9:
            msg = f"archetype_mix adds up to {total:.6g}; the four shares must add up to 1"
            raise ValueError(msg)
        if self.taken_over_share > MAX_TAKEN_OVER:
            msg = (
                f"{self.orders_per_day:g} orders a day need {self.taken_over_share:.0%} of "
                f"{self.users} accounts taken over at once (limit {MAX_TAKEN_OVER:.0%}): "
                "raise users, or lower orders_per_day or fraud_share"
            )
            raise ValueError(msg)
        return self

    @classmethod
    def from_settings(cls, settings: Settings) -> WorldConfig:
        """The world that the platform's `IBOOK_SIM_*` settings describe."""
        return cls(
            seed=settings.sim_seed,
            start_date=settings.start_date,
            users=settings.sim_users,
            events=settings.sim_events,
            orders_per_day=settings.sim_orders_per_day,
            label_maturity_days=settings.label_maturity_days,
        )

    @property
    def legit_per_day(self) -> float:
        """Expected legitimate orders a day; an operational day is the time they take."""
        return self.orders_per_day * (1.0 - self.fraud_share)

    @property
    def fraud_per_day(self) -> tuple[float, float, float, float]:
        """Expected fraudulent orders an operational day, by archetype."""
        a, b, c, d = (self.orders_per_day * self.fraud_share * m for m in self.archetype_mix)
        return a, b, c, d

    @property
    def taken_over_share(self) -> float:
        """Share of accounts taken over at any time."""
        return self.fraud_per_day[0] / (TAKEOVER_ORDERS_PER_DAY * self.users)

    @property
    def takeover_rate(self) -> float:
        """Rate at which a clean account is taken over (per operational day)."""
        share = self.taken_over_share
        return share / (1.0 - share) / TAKEOVER_DAYS

    @property
    def abuser_arrivals(self) -> tuple[float, float, float]:
        """New accounts of bots, card testers and refund abusers an operational day."""
        _, *rest = self.fraud_per_day
        a, b, c = (rate / mean for rate, mean in zip(rest, ORDERS_PER_ABUSER, strict=True))
        return a, b, c
