"""Drift: level 0 is the same bytes, the size is what was asked, axes leave each other alone."""

import math
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ibook_assets.core.errors import ContractError
from ibook_assets.core.metrics import average_precision
from ibook_assets.core.settings import Settings
from ibook_sim.drift import (
    AXES,
    DRIFT_THRESHOLD,
    LATER_AXES,
    Axis,
    Drift,
    DriftedShare,
    DriftedWorld,
    divergence,
)
from ibook_sim.world import World
from tests.sim.small_world import CONFIG, DAYS, ints

CURRENT = DAYS[20:40]
windows = arrays(np.float64, st.integers(1, 60), elements=st.floats(-1e6, 1e6))


def orders(world: World) -> pa.Table:
    return pa.concat_tables([world.transactions(day) for day in CURRENT])


def amount_index(world: World, drifted: World) -> float:
    before, after = (ints(orders(w), "amount_cents").astype(np.float64) for w in (world, drifted))
    return divergence("amount_cents", before, after).stability_index


@pytest.mark.parametrize("seed", [1, 42], ids=str)
def test_level_zero_changes_no_byte(world: World, seed: int) -> None:
    still = DriftedWorld(CONFIG, Drift(level=0.0, seed=seed))
    for (name, before), (_, after) in zip(
        world.day(CURRENT[0]).items(), still.day(CURRENT[0]).items(), strict=True
    ):
        assert before.equals(after), name
    old, new = (w.truth(CURRENT[:2]) for w in (world, still))
    assert all(old[day].equals(new[day]) for day in old)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9], ids=str)
def test_the_coins_reach_the_level_asked(level: float) -> None:
    world = DriftedWorld(CONFIG, Drift(level=level, axes=("covariate", "concept")))
    for position in (0, 1):
        days = [world.drifted(n)[position] for n in range(40)]
        share = DriftedShare(
            days[0].axis, sum(d.drifted for d in days), sum(d.eligible for d in days)
        )
        spread = math.sqrt(level * (1 - level) / share.eligible)
        assert abs(share.share - level) < 4 * spread


def test_a_higher_level_drifts_a_superset(world: World) -> None:
    before = ints(orders(world), "amount_cents")
    moved = [
        ints(orders(DriftedWorld(CONFIG, Drift(level=level, axes=("covariate",)))), "amount_cents")
        != before
        for level in (0.3, 0.6, 1.0)
    ]
    assert moved[0].sum() < moved[1].sum() < moved[2].sum() == before.size
    assert not (moved[0] & ~moved[1]).any()


def test_covariate_drift_leaves_the_posterior_alone(world: World) -> None:
    drifted = DriftedWorld(CONFIG, Drift(level=0.5, axes=("covariate",)))
    before, after = (w.truth(CURRENT[:3]) for w in (world, drifted))
    assert all(before[day].equals(after[day]) for day in before)


def test_concept_drift_touches_fraud_alone(world: World) -> None:
    drifted = DriftedWorld(CONFIG, Drift(level=1.0, axes=("concept",)))
    day = CURRENT[5]
    before, after = world.transactions(day), drifted.transactions(day)
    honest = pa.array(np.asarray(world.truth([day])[day]["archetype"]) == 0)
    assert before.filter(honest).equals(after.filter(honest))
    assert not before.equals(after)


def test_drift_begins_on_its_day_and_not_a_byte_before(world: World) -> None:
    since = CURRENT[10]
    axes = Drift(level=0.7, axes=("covariate", "concept"))
    later = DriftedWorld(CONFIG, axes.model_copy(update={"since": since}))
    always = DriftedWorld(CONFIG, axes)
    for day in CURRENT[8:12]:
        still = world if day < since else always
        for (name, expected), (_, found) in zip(
            still.day(day).items(), later.day(day).items(), strict=True
        ):
            # Outcomes and refunds of the days before the drift arrive after its begin.
            if day < since or name == "transactions":
                assert found.equals(expected), (day, name)
    before = later.truth(CURRENT[:10])
    assert before == world.truth(CURRENT[:10])


def test_a_judge_that_knows_when_the_drift_began_is_calibrated_after_it() -> None:
    since = DAYS[20]
    drifted = DriftedWorld(CONFIG, Drift(level=0.8, axes=("concept",), since=since))
    truth = drifted.truth([day for day in DAYS if day >= since])
    tables = [truth[day] for day in truth]
    score = np.concatenate([np.asarray(table["posterior"]) for table in tables])
    fraud = np.concatenate([np.asarray(table["archetype"]) > 0 for table in tables])
    spread = math.sqrt(float((score * (1 - score)).sum()))
    assert abs(fraud.sum() - score.sum()) < 4 * spread


def test_the_prior_cannot_begin_later() -> None:
    with pytest.raises(ValueError, match=r"prior drift cannot begin on 2026-02-01"):
        Drift(level=0.5, since=date(2026, 2, 1))


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, None),
        ({"sim_drift_level": 0.4}, Drift(level=0.4)),
        (
            {
                "sim_drift_level": 0.7,
                "sim_drift_from": date(2026, 3, 1),
                "sim_drift_axes": "covariate, concept",
            },
            Drift(level=0.7, axes=LATER_AXES, since=date(2026, 3, 1)),
        ),
    ],
    ids=["none", "always", "later"],
)
def test_settings_describe_the_drift(told: dict[str, Any], expected: Drift | None) -> None:
    assert Drift.from_settings(Settings(**told)) == expected


@pytest.mark.parametrize(
    ("axes", "why"),
    [("prices", "'covariate', 'prior' or 'concept'"), ("prior", "prior drift cannot begin on")],
)
def test_settings_that_describe_no_drift_say_why(axes: str, why: str) -> None:
    told = Settings(sim_drift_level=0.5, sim_drift_from=date(2026, 3, 1), sim_drift_axes=axes)
    with pytest.raises(ContractError, match=f"IBOOK_SIM_DRIFT_AXES={axes}.*{why}"):
        Drift.from_settings(told)


def test_a_judge_that_knows_the_drift_is_calibrated_and_beats_one_that_does_not() -> None:
    drifted = DriftedWorld(CONFIG, Drift(level=0.8, axes=("concept",)))
    truth = drifted.truth(DAYS)
    fraud = np.concatenate([ints(t, "archetype") > 0 for t in truth.values()])
    aware = np.concatenate([np.asarray(t["row_posterior"]) for t in truth.values()])
    unaware = []
    for number, day in enumerate(DAYS):
        rows = drifted.orders(day)
        unaware.append(
            drifted.unaware_posterior(number)[np.lexsort((rows.transaction_id, rows.known_ts))]
        )
    spread = math.sqrt((aware * (1 - aware)).sum())
    assert abs(fraud.sum() - aware.sum()) < 4 * spread
    labels = fraud.astype(np.int64)
    assert average_precision(labels, aware) > average_precision(labels, np.concatenate(unaware))


@pytest.mark.parametrize(
    ("axis", "expected"), [("covariate", 0.03), ("prior", 0.045), ("concept", 0.03)], ids=AXES
)
def test_only_the_prior_axis_moves_the_fraud_share(axis: Axis, expected: float) -> None:
    # .03 at level 0, .06 at level 1, so .045 half way.
    assert Drift(level=0.5, axes=(axis,)).applied(CONFIG).fraud_share == pytest.approx(expected)


def test_half_drifted_prices_count_as_drift_and_no_drift_counts_as_none(world: World) -> None:
    assert amount_index(world, DriftedWorld(CONFIG, Drift(level=0.0))) == 0.0
    for seed in range(3):
        assert amount_index(world, DriftedWorld(CONFIG, Drift(seed=seed))) >= DRIFT_THRESHOLD


@given(windows, windows)
def test_divergence_is_bounded(reference: np.ndarray, current: np.ndarray) -> None:
    found = divergence("x", reference, current)
    assert found.stability_index >= 0.0
    assert 0.0 <= found.total_variation <= 1.0
    assert divergence("x", reference, reference).stability_index == 0.0


def test_divergence_of_a_worked_example() -> None:
    # Shares .5/.5 -> .25/.75: (-.25)ln(.5) + .25 ln(1.5) = .2747; total variation .25.
    found = divergence("x", np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0, 1.0]))
    assert found.stability_index == pytest.approx(0.2747, abs=1e-4)
    assert found.total_variation == 0.25


@pytest.mark.parametrize("current", [np.array([]), np.array([np.nan])], ids=["empty", "nan"])
def test_a_window_without_values_is_refused(current: np.ndarray) -> None:
    with pytest.raises(ContractError, match="current window of x"):
        divergence("x", np.array([1.0]), current)
