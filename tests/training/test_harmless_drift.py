"""Harmless drift may start a training run; the gate lets no worse model out of it."""

from dataclasses import replace

import numpy as np
import pytest

from ibook_assets.core.gate import check_gate
from ibook_assets.core.metrics import average_precision
from ibook_assets.core.monitoring import drift_of
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.models.bundle import ModelBundle
from ibook_assets.training.evaluate import evaluate
from ibook_assets.training.examples import Examples
from ibook_assets.training.fit import fit
from ibook_assets.training.pipeline import split_of
from ibook_assets.training.trees import TreeParameters
from tests.training.conftest import FEATURES, make_examples

NOISE = 3


def in_other_units(examples: Examples) -> Examples:
    """The feature that tells nothing is measured in other units."""
    x = examples.x.copy()
    x[:, NOISE] *= 1_000
    return replace(examples, x=x)


def learn(examples: Examples) -> ModelBundle:
    split = split_of(FRAUD, examples.known_ts)
    return fit(
        examples, split, FRAUD, TreeParameters(max_bin=64), training_snapshot="s" * 8, threads=1
    ).bundle


def gain_rule_holds(new: ModelBundle, champion: ModelBundle, drifted: Examples) -> bool:
    unseen = drifted.take(drifted.known_ts >= new.info.trained_until_us)
    judged = evaluate(new, unseen, FRAUD, champion=champion)
    report = check_gate(FRAUD.gate, judged.gate_evidence, use_case="fraud", version=new.version)
    return all(rule.passed for rule in report.rules if rule.name == "gain_over_champion")


@pytest.fixture(scope="module")
def drifted() -> Examples:
    return in_other_units(make_examples(6_000, seed=4))


def test_drift_that_hurts_nobody_is_seen_and_the_new_model_is_as_good(
    examples: Examples, drifted: Examples
) -> None:
    column = FEATURES[NOISE]
    decision = drift_of(
        {column: examples.x[:, NOISE]}, {column: drifted.x[:, NOISE]}, {column: "numeric"}
    )
    assert decision.drifted
    champion, new = learn(examples), learn(drifted)
    truth = in_other_units(make_examples(20_000, seed=5))
    before, after = (average_precision(truth.labels, m.score(truth.x)) for m in (champion, new))
    assert not gain_rule_holds(new, champion, drifted) or (
        after >= before - FRAUD.gate.non_inferiority_margin
    )


def test_a_worse_model_out_of_such_a_run_is_not_promoted(
    examples: Examples, drifted: Examples
) -> None:
    worse = replace(drifted, labels=np.random.default_rng(6).permutation(drifted.labels))
    assert not gain_rule_holds(learn(worse), learn(examples), drifted)
