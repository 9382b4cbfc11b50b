"""The summary of an experiment: the document that the server, the command and the asset show."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

Decision = Literal["ship", "rollback", "keep-running", "no-effect", "invalid"]
State = Literal["not-started", "running", "withdrawn", "over"]
GuardrailState = Literal["held", "open", "breached"]

Moment = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What to do, and why."""

    decision: Annotated[
        Decision,
        Meta(
            description="`ship`: treatment is better and breaches no guardrail; `rollback`: it is "
            "worse; `no-effect`: it ended without either; `invalid`: nothing can be concluded"
        ),
    ]
    reason: str
    evidence: Annotated[tuple[str, ...], Meta(description="What led to it, in order of weight")]
    decided_at: Annotated[
        Moment | None, Meta(description="Follow-up of the user who decided it; null while open")
    ]


class ArmSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One arm."""

    variant: str
    share: Annotated[float, Meta(description="Share of users it should have")]
    exposed: Annotated[int, Meta(description="Users whose first answer it gave")]
    users: Annotated[int, Meta(description="Those whose follow-up is over: they are counted")]
    events: Annotated[int, Meta(description="Counted users who had the event")]
    rate: float | None
    answers: Annotated[int, Meta(description="Answers that counted users got")]
    answer_rate: Annotated[float | None, Meta(description="Share of answers with the event")]


class FixedHorizon(msgspec.Struct, frozen=True, kw_only=True):
    """The two-proportion z-test. It errs at its level if looked at once, at a size fixed before."""

    difference: Annotated[float | None, Meta(description="Treatment's rate minus control's")]
    relative: Annotated[float | None, Meta(description="The same as a share of control's rate")]
    low: Annotated[float | None, Meta(description="Interval of the difference (score)")]
    high: float | None
    level: Annotated[float, Meta(description="Coverage of the interval")]
    z: float | None
    p_value: Annotated[float | None, Meta(description="Two-sided; not to be watched")]


class PerAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Difference of the event's share of answers, a user's answers standing together."""

    difference: float
    low: float
    high: float


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """One judgement of the effect; its users are the same whenever it is computed."""

    number: int
    users: Annotated[int, Meta(description="Users whose follow-up ended first")]
    at: Annotated[Moment, Meta(description="When the last of them was complete")]
    z: Annotated[float, Meta(description="Positive where treatment has the higher rate")]
    bound: Annotated[float, Meta(description="|z| beyond it decides")]
    alpha_spent: float
    difference: float
    low: Annotated[float, Meta(description="Repeated interval: all looks' hold together")]
    high: float
    crossed: bool


class Sequential(msgspec.Struct, frozen=True, kw_only=True):
    """The group-sequential test: O'Brien-Fleming bounds by Lan and DeMets' spending."""

    alpha: Annotated[float, Meta(description="Error over all looks, two-sided")]
    looks_planned: int
    looks: tuple[Look, ...]
    next_look_users: Annotated[int | None, Meta(description="Null when there is no next one")]


class SampleRatioSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Whether arms have the users that they should have."""

    treatment_share: Annotated[float | None, Meta(description="Of exposed users")]
    expected_share: float
    chi_square_p: Annotated[float | None, Meta(description="For one look")]
    anytime_p: Annotated[float, Meta(description="Holds however often it is looked at")]
    alpha: float
    mismatch: bool


class GuardrailSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A metric that must not become worse than allowed."""

    metric: str
    better: Literal["higher", "lower"]
    worst_difference: Annotated[float, Meta(description="How much worse is allowed")]
    control_rate: float | None
    treatment_rate: float | None
    low: Annotated[float, Meta(description="Treatment minus control; holds at any time")]
    high: float
    level: float
    state: Annotated[
        GuardrailState,
        Meta(description="`held`: not worse than allowed; `breached`: worse; `open`: not known"),
    ]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How far it is."""

    minimal_effect: Annotated[float, Meta(description="Smallest difference worth finding")]
    users_needed: Annotated[int, Meta(description="Both arms together, at the last look")]
    users: Annotated[int, Meta(description="Users counted so far")]
    power: Annotated[float, Meta(description="To find the minimal effect, as planned")]
    power_now: Annotated[
        float | None,
        Meta(description="One z-test's at the present users and control's present rate"),
    ]
    users_per_day: Annotated[float | None, Meta(description="New users since it started")]
    expected_end: Annotated[
        Moment | None, Meta(description="At that rate, at the latest; null before anybody came")
    ]


class WindowSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Users whose follow-up ended in the window alone."""

    hours: int
    arms: tuple[ArmSummary, ...]
    fixed_horizon: FixedHorizon


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """Who does not count, or not alone for one arm."""

    outside_design: Annotated[int, Meta(description="Users first met under another share or salt")]
    in_follow_up: Annotated[int, Meta(description="Exposed users who are not complete yet")]
    switched: Annotated[
        int, Meta(description="Users answered by both arms; they count for the first")
    ]


class ExperimentSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Where an experiment stands."""

    experiment: str
    description: str
    definition: Annotated[str, Meta(description="SHA-256 of the definition")]
    use_case: str
    metric: str
    direction: Literal["increase", "decrease"]
    state: State
    as_of: Annotated[Moment, Meta(description="What was known by then counts")]
    started_at: Moment | None
    ends_at: Annotated[Moment | None, Meta(description="After it nobody enters")]
    models: Annotated[
        dict[str, tuple[str, ...]], Meta(description="Model versions that answered, by variant")
    ]
    verdict: Verdict
    arms: tuple[ArmSummary, ...]
    fixed_horizon: FixedHorizon
    per_answer: PerAnswer | None
    sequential: Sequential
    sample_ratio: SampleRatioSummary
    guardrails: tuple[GuardrailSummary, ...]
    plan: Plan
    window: WindowSummary
    left_out: LeftOut


FIXED_LEVEL: Final = 0.95
"""Coverage of fixed-horizon intervals."""
