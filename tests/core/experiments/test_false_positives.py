"""The benchmark's simulations, smaller: what is promised holds, and the usual way breaks it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.experiments import DESIGNS, Measured, decisions, effects, guardrails, splits, told
from ibook_assets.core.experiments.definition import Experiment

REPEATS = 4_000


def shares(found: list[Measured]) -> dict[str, float]:
    return {m.what: m.share for m in found}


def at_most(share: float, repeats: int = REPEATS) -> float:
    """What a true `share` stays below in all but one of a thousand simulations."""
    return share + 3.1 * math.sqrt(share * (1 - share) / repeats)


@pytest.mark.parametrize("design", DESIGNS, ids=told)
def test_24_looks_err_in_five_percent_and_keep_their_power(design: Experiment) -> None:
    found = shares(effects(design, REPEATS, np.random.default_rng(1)))
    assert found["false positive: ibook, 24 looks"] <= at_most(0.05)
    assert found["false positive: z-test at every look"] > 0.2
    assert found["power: ibook, 24 looks"] >= 1 - at_most(0.2)
    assert found["effect called harm: ibook"] <= 0.001


def test_a_guardrail_watched_all_the_time_errs_in_five_percent() -> None:
    found = shares(guardrails(0.01, 0.005, 20_000, 400, np.random.default_rng(2)))
    assert found["false breach: ibook, at any time"] <= at_most(0.05, 400)
    assert found["breach found, at twice the limit: ibook, at any time"] > 0.6


def test_a_sound_split_raises_no_alarm() -> None:
    found = shares(splits(0.5, 250, np.random.default_rng(3)))
    assert found["sample ratio, false alarm: ibook, every user"] <= at_most(0.001, 250)
    assert found["sample ratio, loss of 10 % found: ibook, every user"] > 0.6


def test_the_whole_summary_ships_nothing_that_is_nothing() -> None:
    found = shares(decisions(DESIGNS[0], 40, np.random.default_rng(4)))
    assert found["whole summary, A/A: ship"] <= at_most(0.025, 40)
    assert found["whole summary, A/A: rollback"] <= at_most(0.075, 40)
    assert found["whole summary, A/A: no-effect"] >= 0.75
