"""An experiment's definition: all that is fixed before anybody is exposed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from ibook_assets.core.assignment import CONTROL
from ibook_assets.core.canonical import canonical_sha256
from ibook_assets.core.experiments.metrics import METRICS, Metric
from ibook_assets.core.experiments.proportions import users_for
from ibook_assets.core.experiments.sequential import MAX_LOOKS, boundary, inflation
from ibook_assets.core.promotion import ROUTED_STAGES, Name, PromotionRecord, Text
from ibook_assets.core.times import DAY_US, HOUR_US, to_us

MetricName = Annotated[str, Field(pattern=f"^({'|'.join(METRICS)})$")]
Share = Annotated[FiniteFloat, Field(gt=0, lt=1)]

SAMPLE_RATIO_ALPHA: Final = 0.001
"""Probability to call an experiment invalid whose assignment is sound, over its whole life."""

SPENT_SHARE: Final = 0.95
"""Part of an experiment's alpha that its bounds spend. The rest is for what the normal
approximation of two rates errs more: up to two percent of alpha in simulations."""

_SHARE_SLACK: Final = 1e-9


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Guardrail(_Frozen):
    """A metric that must not become worse than allowed, watched from the first user on."""

    metric: MetricName
    worst_difference: Annotated[FiniteFloat, Field(ge=0, lt=1)]
    """Rate that treatment may lose against control, in the direction in which it is worse."""


class Experiment(_Frozen):
    """A treatment against the champion. Users are the units; each counts once."""

    id: Name
    """Its name in the promotion record, in traces and in URLs."""
    description: Text
    use_case: Name = "fraud"
    salt: Name
    """What users are hashed with; `ibook promote --experiment` takes the id for it."""
    treatment: Name = "treatment"
    """Variant of the treatment's answers; control's are the champion's."""
    treatment_share: Share = 0.5
    metric: MetricName
    direction: Literal["increase", "decrease"]
    """Where the treatment should move the metric."""
    baseline_rate: Share
    """Rate of the metric that is expected of control."""
    minimal_effect: Share
    """Smallest difference of rates worth finding."""
    guardrails: tuple[Guardrail, ...] = ()
    follow_up_hours: Annotated[FiniteFloat, Field(ge=0, le=24 * 180)]
    """How long after the first exposure a user's answers and their outcomes count; 0 is the
    first answer alone."""
    outcomes: Literal["reported", "chargebacks"] = "reported"
    """Where outcomes come from: what clients report for the experiment, or the platform's own
    `raw/outcomes`."""
    horizon_days: Annotated[int, Field(ge=1, le=365)]
    """Days after the start in which users enter."""
    looks: Annotated[int, Field(ge=1, le=MAX_LOOKS)] = 24
    """Times at which the effect is judged, equally far apart in users."""
    alpha: Annotated[FiniteFloat, Field(gt=0, le=0.2)] = 0.05
    """Probability to see an effect where there is none, over all looks, both directions."""
    power: Annotated[FiniteFloat, Field(ge=0.5, lt=1)] = 0.8
    """Probability to find the minimal effect."""
    guardrail_alpha: Annotated[FiniteFloat, Field(gt=0, le=0.2)] = 0.05
    """Probability to see any guardrail breached where none is, at any time."""

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        rate = self.baseline_rate + self.wanted_effect
        if not 0 < rate < 1:
            msg = f"{self.id}: a rate of {self.baseline_rate:g} cannot {self.direction} that much"
            raise ValueError(msg)
        watched = [guardrail.metric for guardrail in self.guardrails]
        if len({*watched, self.metric}) != len(watched) + 1:
            msg = f"{self.id}: {[self.metric, *watched]} has a metric twice; each may be there once"
            raise ValueError(msg)
        if self.treatment == CONTROL:
            msg = f"{self.id}: {CONTROL} is the champion's variant, treatment needs another"
            raise ValueError(msg)
        return self

    @property
    def wanted_effect(self) -> float:
        """The minimal effect with its sign."""
        return self.minimal_effect if self.direction == "increase" else -self.minimal_effect

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metric and those of the guardrails."""
        return tuple(METRICS[n] for n in (self.metric, *(g.metric for g in self.guardrails)))

    @property
    def needs_outcomes(self) -> bool:
        """Whether anything it counts waits for outcomes."""
        return any(metric.needs_outcomes for metric in self.metrics)

    @property
    def follow_up_us(self) -> int:
        """`follow_up_hours` in microseconds."""
        return round(self.follow_up_hours * HOUR_US)

    @property
    def horizon_us(self) -> int:
        """`horizon_days` in microseconds."""
        return self.horizon_days * DAY_US

    @property
    def spent_alpha(self) -> float:
        """Error that the looks may spend."""
        return SPENT_SHARE * self.alpha

    @cached_property
    def fractions(self) -> tuple[float, ...]:
        """Share of the users at each look."""
        return tuple(k / self.looks for k in range(1, self.looks + 1))

    @cached_property
    def users_needed(self) -> int:
        """Users of both arms at the last look."""
        single = users_for(
            rate=self.baseline_rate,
            effect=self.wanted_effect,
            treatment_share=self.treatment_share,
            alpha=self.spent_alpha,
            power=self.power,
        )
        return max(
            self.looks, math.ceil(single * inflation(self.fractions, self.spent_alpha, self.power))
        )

    @cached_property
    def look_users(self) -> tuple[int, ...]:
        """Users at each look."""
        return tuple(math.ceil(self.users_needed * f) for f in self.fractions)

    @cached_property
    def bounds(self) -> tuple[float, ...]:
        """Bound of |z| at each look."""
        return boundary(self.fractions, self.spent_alpha).bounds

    @property
    def sha256(self) -> str:
        """Hash of the definition."""
        return canonical_sha256(self)


@dataclass(frozen=True, slots=True)
class Run:
    """What the promotion log says about an experiment."""

    named_us: int | None
    """When an entry first named it, as defined or not; None before."""
    started_us: int | None
    """When an entry first ran it as defined; None before."""
    withdrawn_us: int | None
    """When it was taken out for good; None while it runs."""
    designed: frozenset[int]
    """Entries that run it as defined; who was first met under another one does not count."""
    models: tuple[tuple[str, ...], tuple[str, ...]]
    """Model versions of control and treatment."""
    deviations: tuple[str, ...]
    """How other entries that name it differ from the definition."""

    @property
    def fault(self) -> str | None:
        """Why nothing can be concluded from it; None when something can."""
        for arm, versions in zip(("control", "treatment"), self.models, strict=True):
            if len(versions) > 1:
                return f"{arm} was answered by {len(versions)} models: {', '.join(versions)}"
        if not self.designed and self.deviations:
            return f"it never ran as defined: {self.deviations[0]}"
        return None


def run_of(experiment: Experiment, log: Sequence[PromotionRecord]) -> Run:
    """How `log`, the whole log of the experiment's use case, ran it."""
    named = [record for record in log if record.experiment == experiment.id]
    deviations = {record.sequence: _deviation(experiment, record) for record in named}
    designed = [record for record in named if deviations[record.sequence] is None]
    control = {record.model_version for record in designed}
    treatment = {
        c.model.model_version
        for record in designed
        for c in record.challengers
        if c.variant == experiment.treatment
    }
    withdrawn_us = None
    if named and log[-1].experiment != experiment.id:
        after = next(r for r in log if r.sequence == named[-1].sequence + 1)
        withdrawn_us = to_us(after.promoted_at)
    return Run(
        named_us=to_us(named[0].promoted_at) if named else None,
        started_us=to_us(designed[0].promoted_at) if designed else None,
        withdrawn_us=withdrawn_us,
        designed=frozenset(record.sequence for record in designed),
        models=(tuple(sorted(control)), tuple(sorted(treatment))),
        deviations=tuple(why for why in deviations.values() if why is not None),
    )


def _deviation(experiment: Experiment, record: PromotionRecord) -> str | None:
    """How the entry differs from the definition; None when it does not."""
    entry = f"entry {record.sequence}"
    if record.salt != experiment.salt:
        return f"{entry} hashes users with {record.salt}, the definition says {experiment.salt}"
    routed = {c.variant: c.share for c in record.challengers if c.stage in ROUTED_STAGES}
    if set(routed) != {experiment.treatment}:
        return f"{entry} has the arms {sorted(routed)} beside control, not {experiment.treatment}"
    share = routed[experiment.treatment]
    if abs(share - experiment.treatment_share) > _SHARE_SLACK:
        return f"{entry} treats {share:g} of users, the definition {experiment.treatment_share:g}"
    return None
