"""Verdicts: each decision from units that call for it, and none that depends on who looked when."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from ibook_assets.core.experiments.definition import Experiment, Guardrail, Run
from ibook_assets.core.experiments.summarising import summarise
from ibook_assets.core.experiments.summary import ExperimentSummary
from ibook_assets.core.experiments.units import Units
from tests.core.experiments.made import SOUND, STARTED_US, an_experiment, units

DAY_US = 86_400_000_000
HOUR_US = DAY_US // 24
EXPERIMENT = an_experiment()
GUARDED = an_experiment(guardrails=(Guardrail(metric="degraded_rate", worst_difference=0.01),))


def summary(
    found: Units,
    *,
    experiment: Experiment = EXPERIMENT,
    run: Run = SOUND,
    days: float = 20,
    window_hours: int = 24,
) -> ExperimentSummary:
    as_of_us = STARTED_US + round(days * DAY_US)
    return summarise(experiment, run, found, as_of_us=as_of_us, window_hours=window_hours)


def decision(*given: Any, **named: Any) -> str:
    return summary(*given, **named).verdict.decision


def test_an_effect_is_shipped_before_all_users_came() -> None:
    found = summary(units(4_000, rates=(0.10, 0.05)))
    look = next(look for look in found.sequential.looks if look.crossed)
    assert found.verdict.decision == "ship"
    assert found.verdict.decided_at == look.at
    assert look.users < EXPERIMENT.users_needed
    assert look.z < -look.bound
    assert look.high < 0
    assert "review_rate is better under treatment" in found.verdict.reason
    assert found.state == "running"


def test_harm_is_rolled_back() -> None:
    assert decision(units(4_000, rates=(0.10, 0.16))) == "rollback"
    more_wanted = an_experiment(direction="increase")
    assert decision(units(4_000, rates=(0.10, 0.16)), experiment=more_wanted) == "ship"


def test_no_effect_keeps_running_until_the_end() -> None:
    needed = EXPERIMENT.users_needed
    found = summary(units(needed // 2 + 1))
    assert (found.verdict.decision, found.state) == ("keep-running", "running")
    assert found.verdict.decided_at is None
    assert found.sequential.next_look_users == EXPERIMENT.look_users[4]
    over = summary(units(needed + 10))
    assert (over.verdict.decision, over.state) == ("no-effect", "over")
    assert over.sequential.next_look_users is None
    assert f"{needed + 10:,} of {needed:,} users" in over.verdict.reason


def test_time_that_is_up_closes_the_test_with_what_error_is_left() -> None:
    few = units(3_000, rates=(0.10, 0.078), seed=4)
    before, after = summary(few, days=27.9), summary(few, days=28)
    assert (before.state, after.state) == ("running", "over")
    assert before.sequential.looks == after.sequential.looks[: len(before.sequential.looks)]
    last = after.sequential.looks[-1]
    assert (last.users, last.alpha_spent) == (3_000, 0.95 * EXPERIMENT.alpha)
    assert after.sequential.next_look_users is None
    # The same at a look that was due anyway: it is judged once, as the last.
    due = EXPERIMENT.look_users[2]
    closed = summary(units(due), days=28).sequential.looks
    assert [look.users for look in closed] == list(EXPERIMENT.look_users[:3])
    assert closed[-1].bound < EXPERIMENT.bounds[2]


def test_whoever_withdraws_gets_no_last_look() -> None:
    withdrawn = replace(SOUND, withdrawn_us=STARTED_US + 3 * DAY_US)
    found = summary(units(1_000), run=withdrawn, days=40)
    assert (found.verdict.decision, found.state) == ("no-effect", "withdrawn")
    assert "withdrawn after 1,000 of" in found.verdict.reason
    assert [look.users for look in found.sequential.looks] == [EXPERIMENT.look_users[0]]
    assert found.plan.expected_end is None
    # What was decided before stays decided.
    assert decision(units(4_000, rates=(0.10, 0.05)), run=withdrawn) == "ship"


def test_a_lossy_split_is_invalid_whatever_the_effect() -> None:
    found = units(6_000, rates=(0.10, 0.05), share=0.45)
    told = summary(found)
    assert told.verdict.decision == "invalid"
    assert "sample ratio mismatch: treatment has 44.58% of users, not 50.00%" in told.verdict.reason
    assert told.sample_ratio.mismatch
    assert decision(found, experiment=an_experiment(treatment_share=0.45)) == "ship"


def test_a_run_at_fault_is_invalid() -> None:
    models = (("fraud-v1",), ("fraud-v2", "fraud-v3"))
    found = summary(units(4_000, rates=(0.10, 0.05)), run=replace(SOUND, models=models))
    assert found.verdict.decision == "invalid"
    assert "2 models" in found.verdict.reason
    assert found.models == {"control": ("fraud-v1",), "treatment": ("fraud-v2", "fraud-v3")}


@pytest.mark.parametrize(
    ("degraded", "state", "said"),
    [
        ((0.01, 0.06), "breached", "rollback"),
        ((0.06, 0.001), "held", "ship"),
        ((0.01, 0.018), "open", "ship"),
    ],
)
def test_a_guardrail_comes_before_the_effect(
    degraded: tuple[float, float], state: str, said: str
) -> None:
    found = summary(
        units(4_000, rates=(0.10, 0.05), other={"degraded_rate": degraded}), experiment=GUARDED
    )
    assert found.guardrails[0].state == state
    assert found.verdict.decision == said
    if state == "breached":
        assert "degraded_rate is worse than the 0.01 allowed" in found.verdict.reason
    assert any("degraded_rate" in line for line in found.verdict.evidence)


def test_a_metric_that_should_be_high_is_guarded_from_below() -> None:
    guarded = an_experiment(guardrails=(Guardrail(metric="approval_rate", worst_difference=0.02),))
    lost = units(4_000, other={"approval_rate": (0.95, 0.85)})
    assert decision(lost, experiment=guarded) == "rollback"
    won = summary(units(4_000, other={"approval_rate": (0.85, 0.95)}), experiment=guarded)
    assert won.guardrails[0].state == "held"


def test_looks_are_the_same_whenever_they_are_computed() -> None:
    found = units(5_000, rates=(0.10, 0.085), other={"degraded_rate": (0.01, 0.06)}, seed=9)
    whole = summary(found, experiment=GUARDED)
    decided = whole.verdict.decided_at
    for users in range(0, 5_001, 250):
        part = found.where(np.arange(5_000) < users)
        told = summary(part, experiment=GUARDED)
        looks = told.sequential.looks
        assert looks == whole.sequential.looks[: len(looks)]
        assert told.verdict.decided_at in (None, decided)


def test_users_count_when_their_follow_up_is_over() -> None:
    followed = an_experiment(follow_up_hours=48)
    found = summary(units(6_000, seconds_apart=60), experiment=followed, days=4)
    # 60 s apart: 5,760 users in four days are not all complete, only those of the first two.
    assert found.plan.users == 2_880
    assert found.left_out.in_follow_up == 6_000 - 2_880
    assert sum(arm.exposed for arm in found.arms) == 6_000
    assert sum(arm.users for arm in found.arms) == 2_880


def test_the_window_holds_who_was_complete_in_it() -> None:
    found = summary(units(4_000, seconds_apart=60), days=2, window_hours=24)
    # One user a minute, the first at 00:01: in the last 24 of 48 hours those after minute 1,440.
    assert sum(arm.users for arm in found.window.arms) == 1_440
    assert summary(units(100), days=20).window.fixed_horizon.p_value is None


def test_the_expected_end_follows_from_who_came() -> None:
    needed = EXPERIMENT.users_needed
    found = summary(units(1_440, seconds_apart=60), days=1)
    assert found.plan.users_per_day == pytest.approx(1_440)
    expected_us = STARTED_US + DAY_US + round((needed - 1_440) / 1_440 * DAY_US)
    assert found.plan.expected_end is not None
    assert found.plan.expected_end.startswith(
        np.datetime_as_string(np.datetime64(expected_us, "us"), unit="s")
    )
    slow = summary(units(10), days=10)
    assert slow.plan.expected_end == slow.ends_at
    assert 0 < (found.plan.power_now or 0) < found.plan.power


def test_before_the_start_nothing_is_claimed() -> None:
    nobody = units(0)
    run = Run(None, None, None, frozenset(), ((), ()), ())
    found = summary(nobody, run=run, experiment=GUARDED)
    assert (found.state, found.verdict.decision) == ("not-started", "keep-running")
    assert (found.started_at, found.ends_at, found.plan.expected_end) == (None, None, None)
    assert found.fixed_horizon.p_value is None
    assert (found.guardrails[0].low, found.guardrails[0].high) == (-1.0, 1.0)
    assert found.guardrails[0].state == "open"
    assert b"NaN" not in msgspec.json.encode(found)


def test_who_was_met_outside_the_design_is_left_out_and_told() -> None:
    found = units(4_000, rates=(0.10, 0.05))
    partly = Units(
        found.user_id,
        found.exposed_ts,
        found.treated,
        np.arange(4_000) >= 500,
        np.arange(4_000) % 100 == 0,
        found.answers,
        found.events,
    )
    run = replace(SOUND, deviations=("entry 4 treats 0.1 of users, the definition 0.5",))
    told = summary(partly, run=run)
    assert (told.left_out.outside_design, told.left_out.switched) == (500, 35)
    assert told.plan.users == 3_500
    assert "left out: entry 4 treats 0.1 of users, the definition 0.5" in told.verdict.evidence
