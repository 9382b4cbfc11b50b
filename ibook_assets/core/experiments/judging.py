"""What each test says about an experiment's units; every answer is the same whenever it is asked.

Units come in the order in which their follow-ups end. A look counts the first so many of them, so
nobody's peeking moves it, and what has crossed once stays crossed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ibook_assets.core.experiments.confidence import confidence_sequence, surely_above
from ibook_assets.core.experiments.definition import Experiment, Guardrail
from ibook_assets.core.experiments.metrics import METRICS, Mask
from ibook_assets.core.experiments.proportions import (
    Counts,
    clustered_ratio,
    compare,
    normal_quantile,
)
from ibook_assets.core.experiments.sample_ratio import sample_ratio
from ibook_assets.core.experiments.sequential import boundary
from ibook_assets.core.experiments.summary import (
    FIXED_LEVEL,
    FixedHorizon,
    GuardrailState,
    GuardrailSummary,
    Look,
    PerAnswer,
    SampleRatioSummary,
    Sequential,
)
from ibook_assets.core.experiments.units import Ints, Units
from ibook_assets.core.times import from_us

_FIXED_CRITICAL = normal_quantile((1 + FIXED_LEVEL) / 2)


def moment(at_us: int) -> str:
    """A time as documents write it."""
    return from_us(at_us).isoformat().replace("+00:00", "Z")


def counts_of(units: Units, metric: str) -> tuple[Counts, Counts]:
    """Users and events of control and treatment."""
    event = units.events[metric] > 0
    return _counted(event, ~units.treated), _counted(event, units.treated)


def _counted(event: Mask, arm: Mask) -> Counts:
    return Counts(int((event & arm).sum()), int(arm.sum()))


def fixed_horizon(units: Units, metric: str) -> FixedHorizon:
    """The two-proportion z-test of all units."""
    control, treatment = counts_of(units, metric)
    found = compare(control, treatment, critical=_FIXED_CRITICAL)
    return FixedHorizon(
        difference=_number(found.difference),
        relative=_number(found.difference / control.rate) if control.events else None,
        low=_number(found.low),
        high=_number(found.high),
        level=FIXED_LEVEL,
        z=_number(found.z),
        p_value=_number(found.p_value),
    )


def per_answer(units: Units, metric: str) -> PerAnswer | None:
    """Difference of the metric's share of answers; None with fewer than two users in an arm."""
    events, answers = units.events[metric].astype(float), units.answers.astype(float)
    control, treatment = (
        clustered_ratio(events[arm], answers[arm]) for arm in (~units.treated, units.treated)
    )
    if control is None or treatment is None:
        return None
    difference = treatment.value - control.value
    reach = _FIXED_CRITICAL * math.hypot(control.standard_error, treatment.standard_error)
    return PerAnswer(difference=difference, low=difference - reach, high=difference + reach)


@dataclass(frozen=True, slots=True)
class _Path:
    """Users and events of both arms after each unit."""

    treated: Ints
    control_events: Ints
    treatment_events: Ints

    @classmethod
    def of(cls, treated: Mask, event: Mask) -> _Path:
        return cls(
            np.cumsum(treated, dtype=np.int64),
            np.cumsum(event & ~treated, dtype=np.int64),
            np.cumsum(event & treated, dtype=np.int64),
        )

    def at(self, users: int) -> tuple[Counts, Counts]:
        """Control and treatment among the first `users`."""
        treated = int(self.treated[users - 1])
        return (
            Counts(int(self.control_events[users - 1]), users - treated),
            Counts(int(self.treatment_events[users - 1]), treated),
        )


def sequential(experiment: Experiment, units: Units, *, closed: bool) -> Sequential:
    """The looks there have been.

    Args:
        experiment: its plan of looks.
        units: complete users.
        closed: whether no further one comes; the last look then spends what error is left.
    """
    size, planned = units.user_id.size, experiment.users_needed
    users = [n for n in experiment.look_users if n <= size]
    edges = boundary(experiment.fractions, experiment.spent_alpha)
    if closed and 0 < size < planned:
        users = [*(n for n in users if n < size), size]
        fractions = (*experiment.fractions[: len(users) - 1], size / planned)
        edges = boundary(fractions, experiment.spent_alpha, closing=True)
    path = _Path.of(units.treated, units.events[experiment.metric] > 0)
    done = [
        _look(
            path.at(n),
            number=number,
            users=n,
            bound=edges.bounds[number - 1],
            spent=edges.spent[number - 1],
            at_us=int(units.exposed_ts[n - 1]) + experiment.follow_up_us,
        )
        for number, n in enumerate(users, 1)
    ]
    remaining = [n for n in experiment.look_users if n > size]
    return Sequential(
        alpha=experiment.alpha,
        looks_planned=experiment.looks,
        looks=tuple(done),
        next_look_users=None if closed or not remaining else remaining[0],
    )


def _look(
    counts: tuple[Counts, Counts],
    *,
    number: int,
    users: int,
    bound: float,
    spent: float,
    at_us: int,
) -> Look:
    control, treatment = counts
    found = compare(control, treatment, critical=bound)
    return Look(
        number=number,
        users=users,
        at=moment(at_us),
        z=_number(found.z) or 0.0,
        bound=bound,
        alpha_spent=spent,
        difference=_number(found.difference) or 0.0,
        low=-1.0 if math.isnan(found.low) else found.low,
        high=1.0 if math.isnan(found.high) else found.high,
        crossed=abs(found.z) >= bound,
    )


def sample_ratio_of(units: Units, *, share: float, alpha: float) -> SampleRatioSummary:
    """The split of all exposed users."""
    found = sample_ratio(units.treated, share)
    users = found.control + found.treatment
    return SampleRatioSummary(
        treatment_share=found.treatment / users if users else None,
        expected_share=share,
        chi_square_p=_number(found.chi_square_p),
        anytime_p=found.anytime_p,
        alpha=alpha,
        mismatch=found.mismatch(alpha),
    )


@dataclass(frozen=True, slots=True)
class Watched:
    """A guardrail and the user at whom it was breached first, if it was."""

    summary: GuardrailSummary
    breached_at_us: int | None


def watch(experiment: Experiment, guardrail: Guardrail, units: Units) -> Watched:
    """What a guardrail says of complete users, after each of them."""
    # Only one end of the interval can breach, and it errs with half of the interval's alpha.
    alpha = 2 * experiment.guardrail_alpha / len(experiment.guardrails)
    metric = METRICS[guardrail.metric]
    worse = 1 if metric.better == "lower" else -1
    control, treatment = counts_of(units, metric.name)
    low, high = confidence_sequence(
        control, treatment, planned=experiment.users_needed, alpha=alpha
    )
    breached_at = _first_breach(experiment, guardrail, units, alpha)
    state: GuardrailState = "open"
    if breached_at is not None:
        state = "breached"
    elif max(worse * low, worse * high) <= guardrail.worst_difference:
        state = "held"
    summary = GuardrailSummary(
        metric=metric.name,
        better=metric.better,
        worst_difference=guardrail.worst_difference,
        control_rate=_number(control.rate),
        treatment_rate=_number(treatment.rate),
        low=low,
        high=high,
        level=1 - alpha,
        state=state,
    )
    if breached_at is None:
        return Watched(summary, None)
    return Watched(summary, int(units.exposed_ts[breached_at]) + experiment.follow_up_us)


def _first_breach(
    experiment: Experiment, guardrail: Guardrail, units: Units, alpha: float
) -> int | None:
    """Position of the first unit after whom the difference is surely worse than allowed."""
    path = _Path.of(units.treated, units.events[guardrail.metric] > 0)
    users = np.arange(1, path.treated.size + 1)
    both = np.flatnonzero((path.treated > 0) & (path.treated < users))
    treated, control = path.treated[both], users[both] - path.treated[both]
    arms = ((path.control_events[both], control), (path.treatment_events[both], treated))
    if METRICS[guardrail.metric].better == "higher":
        # The difference seen from the other arm: a treatment that loses is a control that gains.
        arms = (arms[1], arms[0])
    surely = surely_above(
        *arms, guardrail.worst_difference, planned=experiment.users_needed, alpha=alpha
    )
    found = both[np.flatnonzero(surely)]
    return int(found[0]) if found.size else None


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
