"""The example of an experiment's summary in the OpenAPI document."""

from __future__ import annotations

from typing import Final

from ibook_assets.core.experiments.summary import (
    ArmSummary,
    ExperimentSummary,
    FixedHorizon,
    GuardrailSummary,
    LeftOut,
    Look,
    PerAnswer,
    Plan,
    SampleRatioSummary,
    Sequential,
    Verdict,
    WindowSummary,
)


def _arms(*counts: tuple[int, int, int, int]) -> tuple[ArmSummary, ...]:
    return tuple(
        ArmSummary(
            variant=variant,
            share=0.5,
            exposed=exposed,
            users=users,
            events=events,
            rate=events / users,
            answers=answers,
            answer_rate=events / answers,
        )
        for variant, (exposed, users, events, answers) in zip(
            ("control", "treatment"), counts, strict=True
        )
    )


EXAMPLE: Final = ExperimentSummary(
    experiment="fewer-reviews",
    description="A model that sends fewer users to review and misses no more fraud.",
    definition="3f21a4d9" + "0" * 56,
    use_case="fraud",
    metric="review_rate",
    direction="decrease",
    state="running",
    as_of="2026-03-15T09:00:00Z",
    started_at="2026-03-01T09:00:00Z",
    ends_at="2026-04-26T09:00:00Z",
    models={"control": ("fraud-v1",), "treatment": ("fraud-v2",)},
    verdict=Verdict(
        decision="keep-running",
        reason="10,000 of 35,717 users, no bound crossed",
        evidence=("sample ratio: p = 1 at any time, alarm below 0.001",),
        decided_at=None,
    ),
    arms=_arms((7_010, 5_020, 152, 7_531), (6_990, 4_980, 131, 7_440)),
    fixed_horizon=FixedHorizon(
        difference=-0.00397,
        relative=-0.1313,
        low=-0.01054,
        high=0.00257,
        level=0.95,
        z=-1.19,
        p_value=0.234,
    ),
    per_answer=PerAnswer(difference=-0.0026, low=-0.0071, high=0.0019),
    sequential=Sequential(
        alpha=0.05,
        looks_planned=24,
        looks=(
            Look(
                number=1,
                users=1_489,
                at="2026-03-09T12:31:07.120000Z",
                z=-0.31,
                bound=11.0,
                alpha_spent=2.1e-27,
                difference=-0.0028,
                low=-0.12,
                high=0.1,
                crossed=False,
            ),
        ),
        next_look_users=10_418,
    ),
    sample_ratio=SampleRatioSummary(
        treatment_share=0.4993,
        expected_share=0.5,
        chi_square_p=0.87,
        anytime_p=1.0,
        alpha=0.001,
        mismatch=False,
    ),
    guardrails=(
        GuardrailSummary(
            metric="fraud_missed_rate",
            better="lower",
            worst_difference=0.005,
            control_rate=0.0061,
            treatment_rate=0.0058,
            low=-0.0072,
            high=0.0068,
            level=0.975,
            state="open",
        ),
    ),
    plan=Plan(
        minimal_effect=0.005,
        users_needed=35_717,
        users=10_000,
        power=0.8,
        power_now=0.32,
        users_per_day=1_000.0,
        expected_end="2026-04-12T13:36:28.800000Z",
    ),
    window=WindowSummary(
        hours=24,
        arms=_arms((503, 497, 16, 731), (497, 503, 12, 740)),
        fixed_horizon=FixedHorizon(
            difference=-0.0083,
            relative=-0.259,
            low=-0.0299,
            high=0.0126,
            level=0.95,
            z=-0.80,
            p_value=0.42,
        ),
    ),
    left_out=LeftOut(outside_design=0, in_follow_up=4_000, switched=0),
)
