"""Definitions: what they refuse, what they plan, and how the promotion log ran them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from ibook_assets.core.errors import NotFoundError
from ibook_assets.core.experiments.catalog import EXPERIMENTS, experiment_named
from ibook_assets.core.experiments.definition import Experiment, Guardrail, run_of
from ibook_assets.core.use_cases import USE_CASES
from tests.core.experiments.made import STARTED_US, an_experiment, challenged, promoted

HOUR_US = 3_600_000_000


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"id": "a/b"}, "pattern"),
        ({"metric": "clicks"}, "pattern"),
        ({"treatment_share": 1.0}, "less than 1"),
        ({"minimal_effect": 0.1}, "cannot decrease that much"),
        ({"guardrails": (Guardrail(metric="review_rate", worst_difference=0.1),)}, "twice"),
        ({"treatment": "control"}, "needs another"),
        ({"looks": 51}, "less than or equal to 50"),
        ({"colour": "red"}, "not permitted"),
    ],
)
def test_a_definition_that_makes_no_sense_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        an_experiment(**changes)


def test_the_plan_follows_from_effect_error_and_power() -> None:
    experiment = an_experiment()
    assert len(experiment.look_users) == len(experiment.bounds) == 8
    assert experiment.look_users[-1] == experiment.users_needed
    # 10 % to 8 % with 80 % power takes 6,527 users at 4.75 % looked at once, 8 looks 3.3 % more.
    assert experiment.users_needed == pytest.approx(6_527 * 1.033, rel=0.002)
    assert an_experiment(minimal_effect=0.04).users_needed < experiment.users_needed / 3


def test_the_catalogue_is_sound() -> None:
    for name, experiment in EXPERIMENTS.items():
        assert experiment_named(name) is experiment
        assert experiment.use_case in USE_CASES
        # `ibook promote --experiment` hashes with the experiment's name.
        assert experiment.salt == experiment.id
        assert experiment.users_needed < 100_000
        assert Experiment.model_validate_json(experiment.model_dump_json()) == experiment
    assert len({experiment.salt for experiment in EXPERIMENTS.values()}) == len(EXPERIMENTS)
    with pytest.raises(NotFoundError, match="champion-aa"):
        experiment_named("fees")


def test_a_run_begins_with_the_first_entry_that_is_as_defined() -> None:
    log = challenged(promoted(), share=0.1, hours=1)
    log = challenged(log, share=0.5, hours=2)
    run = run_of(an_experiment(), log)
    assert (run.named_us, run.started_us) == (STARTED_US + HOUR_US, STARTED_US + 2 * HOUR_US)
    assert run.designed == {3}
    assert run.models == (("fraud-v1",), ("fraud-v2",))
    assert run.deviations == ("entry 2 treats 0.1 of users, the definition 0.5",)
    assert (run.fault, run.withdrawn_us) == (None, None)


def test_a_run_ends_when_the_treatment_is_withdrawn_for_good() -> None:
    log = challenged(promoted(), hours=1)
    log = challenged(log, experiment=None, hours=5)
    assert run_of(an_experiment(), log).withdrawn_us == STARTED_US + 5 * HOUR_US
    again = challenged(log, hours=6)
    assert run_of(an_experiment(), again).withdrawn_us is None


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"salt": "other"}, "entry 2 hashes users with other, the definition says fees"),
        ({"share": 0.2}, "entry 2 treats 0.2 of users, the definition 0.5"),
        ({"variant": "treatment-b"}, "entry 2 has the arms ['treatment-b']"),
    ],
)
def test_what_never_ran_as_defined_is_at_fault(how: dict[str, Any], why: str) -> None:
    run = run_of(an_experiment(), challenged(promoted(), **how))
    assert run.started_us is None
    assert run.fault is not None
    assert why in run.fault


def test_two_models_in_one_arm_are_a_fault() -> None:
    log = challenged(challenged(promoted()), version="fraud-v3")
    fault = run_of(an_experiment(), log).fault
    assert fault == "treatment was answered by 2 models: fraud-v2, fraud-v3"


def test_an_experiment_nobody_ran_has_not_started() -> None:
    run = run_of(an_experiment(), promoted())
    assert (run.started_us, run.fault, run.designed) == (None, None, frozenset())
    assert run_of(an_experiment(), []).started_us is None
