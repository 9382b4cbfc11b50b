"""Units and the promotion log into a summary with a verdict."""

from __future__ import annotations

from dataclasses import dataclass

from ibook_assets.core.assignment import CONTROL
from ibook_assets.core.experiments.definition import SAMPLE_RATIO_ALPHA, Experiment, Run
from ibook_assets.core.experiments.judging import (
    Watched,
    counts_of,
    fixed_horizon,
    moment,
    per_answer,
    sample_ratio_of,
    sequential,
    watch,
)
from ibook_assets.core.experiments.proportions import power_of
from ibook_assets.core.experiments.summary import (
    ArmSummary,
    Decision,
    ExperimentSummary,
    GuardrailSummary,
    LeftOut,
    Look,
    Plan,
    SampleRatioSummary,
    Sequential,
    State,
    Verdict,
    WindowSummary,
)
from ibook_assets.core.experiments.units import Units
from ibook_assets.core.times import DAY_US, HOUR_US


@dataclass(frozen=True, slots=True)
class _Judged:
    """All that a verdict rests on."""

    experiment: Experiment
    run: Run
    state: State
    complete: int
    sequential: Sequential
    sample_ratio: SampleRatioSummary
    guardrails: tuple[Watched, ...]

    @property
    def decisive(self) -> Look | None:
        """The first look that crossed its bound."""
        return next((look for look in self.sequential.looks if look.crossed), None)


def summarise(
    experiment: Experiment, run: Run, units: Units, *, as_of_us: int, window_hours: int
) -> ExperimentSummary:
    """Where `experiment` stands.

    Args:
        experiment: its definition.
        run: how the promotion log ran it.
        units: users by first exposure, oldest first, with what is known of them.
        as_of_us: the moment up to which everything is known.
        window_hours: length of the window that is shown by itself.
    """
    exposed = units.where(units.designed)
    complete = exposed.where(exposed.exposed_ts + experiment.follow_up_us <= as_of_us)
    state = _state(experiment, run, complete, as_of_us)
    judged = _Judged(
        experiment,
        run,
        state,
        complete.user_id.size,
        sequential(experiment, complete, closed=state == "over"),
        sample_ratio_of(exposed, share=experiment.treatment_share, alpha=SAMPLE_RATIO_ALPHA),
        tuple(watch(experiment, guardrail, complete) for guardrail in experiment.guardrails),
    )
    metric = experiment.metric
    control, treatment = run.models
    return ExperimentSummary(
        experiment=experiment.id,
        description=experiment.description,
        definition=experiment.sha256,
        use_case=experiment.use_case,
        metric=metric,
        direction=experiment.direction,
        state=state,
        as_of=moment(as_of_us),
        started_at=None if run.started_us is None else moment(run.started_us),
        ends_at=None if run.started_us is None else moment(run.started_us + experiment.horizon_us),
        models={CONTROL: control, experiment.treatment: treatment},
        verdict=verdict(judged),
        arms=_arms(experiment, exposed, complete),
        fixed_horizon=fixed_horizon(complete, metric),
        per_answer=per_answer(complete, metric),
        sequential=judged.sequential,
        sample_ratio=judged.sample_ratio,
        guardrails=tuple(watched.summary for watched in judged.guardrails),
        plan=_plan(experiment, run, exposed, complete, as_of_us),
        window=_window(experiment, exposed, complete, as_of_us, window_hours),
        left_out=LeftOut(
            outside_design=int((~units.designed).sum()),
            in_follow_up=exposed.user_id.size - complete.user_id.size,
            switched=int(exposed.switched.sum()),
        ),
    )


def _state(experiment: Experiment, run: Run, complete: Units, as_of_us: int) -> State:
    if run.started_us is None:
        return "not-started"
    entry_ends_us = run.started_us + experiment.horizon_us
    if complete.user_id.size >= experiment.users_needed:
        return "over"
    # Whoever withdraws has seen the numbers: that end is not one that the test may count on.
    if run.withdrawn_us is not None and run.withdrawn_us < entry_ends_us:
        return "withdrawn"
    return "over" if as_of_us >= entry_ends_us + experiment.follow_up_us else "running"


def verdict(judged: _Judged) -> Verdict:
    """What to do. Doubts about the data come first, harm second, the effect last."""
    evidence = _evidence(judged)
    invalid = _why_invalid(judged)
    if invalid is not None:
        return _verdict("invalid", invalid, evidence)
    breach = min(
        (w for w in judged.guardrails if w.breached_at_us is not None),
        key=lambda w: w.breached_at_us or 0,
        default=None,
    )
    if breach is not None and breach.breached_at_us is not None:
        reason = (
            f"{breach.summary.metric} is worse than the {breach.summary.worst_difference:g} allowed"
        )
        return _verdict("rollback", reason, evidence, moment(breach.breached_at_us))
    look = judged.decisive
    if look is not None:
        return _by_effect(judged.experiment, look, evidence)
    return _undecided(judged, evidence)


def _why_invalid(judged: _Judged) -> str | None:
    if judged.run.fault is not None:
        return judged.run.fault
    ratio = judged.sample_ratio
    if ratio.mismatch:
        return (
            f"sample ratio mismatch: treatment has {ratio.treatment_share or 0:.2%} of users, not "
            f"{ratio.expected_share:.2%} (p = {ratio.anytime_p:.2g} at any time); find out who is "
            "lost before anything is read from it"
        )
    return None


def _by_effect(experiment: Experiment, look: Look, evidence: tuple[str, ...]) -> Verdict:
    better = (look.z > 0) == (experiment.direction == "increase")
    reason = (
        f"{experiment.metric} is {'better' if better else 'worse'} under treatment: |z| "
        f"{abs(look.z):.2f} beyond {look.bound:.2f} at look {look.number}, {look.users:,} users"
    )
    return _verdict("ship" if better else "rollback", reason, evidence, look.at)


def _undecided(judged: _Judged, evidence: tuple[str, ...]) -> Verdict:
    needed, complete = judged.experiment.users_needed, judged.complete
    if judged.state == "over":
        last = judged.sequential.looks[-1] if judged.sequential.looks else None
        reason = f"no bound was crossed by the end, {complete:,} of {needed:,} users"
        return _verdict("no-effect", reason, evidence, last.at if last else None)
    if judged.state == "withdrawn":
        reason = f"withdrawn after {complete:,} of {needed:,} users, before any bound was crossed"
        return _verdict("no-effect", reason, evidence)
    if judged.state == "not-started":
        return _verdict("keep-running", "no treatment has been promoted for it yet", evidence)
    reason = f"{complete:,} of {needed:,} users, no bound crossed"
    return _verdict("keep-running", reason, evidence)


def _verdict(
    decision: Decision, reason: str, evidence: tuple[str, ...], decided_at: str | None = None
) -> Verdict:
    return Verdict(decision=decision, reason=reason, evidence=evidence, decided_at=decided_at)


def _evidence(judged: _Judged) -> tuple[str, ...]:
    ratio, looks = judged.sample_ratio, judged.sequential.looks
    said = [f"sample ratio: p = {ratio.anytime_p:.2g} at any time, alarm below {ratio.alpha:g}"]
    said += [_told(watched.summary) for watched in judged.guardrails]
    look = judged.decisive or (looks[-1] if looks else None)
    if look is not None:
        said.append(
            f"look {look.number} of {judged.sequential.looks_planned}, {look.users:,} users: "
            f"difference {look.difference:+.4f} ({look.low:+.4f} to {look.high:+.4f}, all looks "
            f"together), z {look.z:.2f}, bound {look.bound:.2f}"
        )
    said += [f"left out: {why}" for why in judged.run.deviations]
    return tuple(said)


def _told(guardrail: GuardrailSummary) -> str:
    return (
        f"{guardrail.metric}: difference {guardrail.low:+.4f} to {guardrail.high:+.4f} at any "
        f"time, {guardrail.worst_difference:g} worse is allowed: {guardrail.state}"
    )


def _arms(experiment: Experiment, exposed: Units, complete: Units) -> tuple[ArmSummary, ...]:
    shares = (1 - experiment.treatment_share, experiment.treatment_share)
    found = []
    for i, variant in enumerate((CONTROL, experiment.treatment)):
        counts = counts_of(complete, experiment.metric)[i]
        mine = complete.treated == bool(i)
        answers = int(complete.answers[mine].sum())
        events = int(complete.events[experiment.metric][mine].sum())
        found.append(
            ArmSummary(
                variant=variant,
                share=shares[i],
                exposed=int((exposed.treated == bool(i)).sum()),
                users=counts.users,
                events=counts.events,
                rate=counts.rate if counts.users else None,
                answers=answers,
                answer_rate=events / answers if answers else None,
            )
        )
    return tuple(found)


def _window(
    experiment: Experiment, exposed: Units, complete: Units, as_of_us: int, hours: int
) -> WindowSummary:
    begin_us = as_of_us - hours * HOUR_US
    recent = complete.where(complete.exposed_ts + experiment.follow_up_us > begin_us)
    entered = exposed.where(exposed.exposed_ts > begin_us)
    return WindowSummary(
        hours=hours,
        arms=_arms(experiment, entered, recent),
        fixed_horizon=fixed_horizon(recent, experiment.metric),
    )


def _plan(experiment: Experiment, run: Run, exposed: Units, complete: Units, as_of_us: int) -> Plan:
    per_day = _per_day(experiment, run, exposed, as_of_us)
    end_us = None
    if run.started_us is not None and run.withdrawn_us is None and per_day:
        latest_us = run.started_us + experiment.horizon_us + experiment.follow_up_us
        end_us = min(latest_us, _reached_us(experiment, exposed, per_day, as_of_us))
    return Plan(
        minimal_effect=experiment.minimal_effect,
        users_needed=experiment.users_needed,
        users=complete.user_id.size,
        power=experiment.power,
        power_now=_power_now(experiment, complete),
        users_per_day=per_day,
        expected_end=None if end_us is None else moment(end_us),
    )


def _power_now(experiment: Experiment, complete: Units) -> float | None:
    control = counts_of(complete, experiment.metric)[0]
    if not (0 < control.rate < 1 and 0 < control.rate + experiment.wanted_effect < 1):
        return None
    return power_of(
        rate=control.rate,
        effect=experiment.wanted_effect,
        users=complete.user_id.size,
        treatment_share=experiment.treatment_share,
        alpha=experiment.alpha,
    )


def _per_day(experiment: Experiment, run: Run, exposed: Units, as_of_us: int) -> float | None:
    """New users a day while they could enter; None before that."""
    if run.started_us is None:
        return None
    until_us = min(as_of_us, run.started_us + experiment.horizon_us)
    if until_us <= run.started_us:
        return None
    return exposed.user_id.size * DAY_US / (until_us - run.started_us)


def _reached_us(experiment: Experiment, exposed: Units, per_day: float, as_of_us: int) -> int:
    """When the last user that is needed is complete, if users go on coming as they have."""
    missing = experiment.users_needed - exposed.user_id.size
    if missing > 0:
        return as_of_us + round(missing / per_day * DAY_US) + experiment.follow_up_us
    return int(exposed.exposed_ts[experiment.users_needed - 1]) + experiment.follow_up_us
