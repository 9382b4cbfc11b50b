"""Same seed, same bytes: in any order, cut and process, and whatever was asked before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from datetime import date, timedelta
from functools import cache
from multiprocessing import get_context

import numpy as np
import pytest

from ibook_assets.core.tables import RAW_TABLES, TRANSACTIONS
from ibook_sim.chaos import Chaos, deliver
from ibook_sim.datasets.export import parquet_bytes
from ibook_sim.datasets.scenario_days import ScenarioDays
from ibook_sim.drift import Drift, DriftedWorld
from ibook_sim.scenarios import Scenario
from ibook_sim.world import days_from
from tests.sim.small_world import ints

DRIFT = Drift(level=0.6)
CHAOS = Chaos(
    drop_share=0.05,
    duplicate_share=0.1,
    disorder_share=0.2,
    disorder_seconds=40_000.0,
    corrupt_share=0.02,
    late_label_share=0.3,
    late_label_days=2.0,
    clock_skew_share=0.1,
)
WORLD = {"users": 2_000, "events": 40, "orders_per_day": 250, "label_maturity_days": 3}
KINDS = {
    "still": Scenario(name="still", description="As it is.", world=WORLD),
    "drifted": Scenario(name="drifted", description="Moved.", world=WORLD, drift=DRIFT),
    "spoilt": Scenario(name="spoilt", description="Both.", world=WORLD, drift=DRIFT, chaos=CHAOS),
}
DAYS = days_from(date(2026, 1, 1), 8)

kinds = pytest.mark.parametrize("kind", KINDS)


def played(kind: str, *, seed: int = 7) -> ScenarioDays:
    return ScenarioDays(KINDS[kind], seed=seed)


def digest(days: ScenarioDays, day: date) -> str:
    """SHA-256 of the Parquet files of everything that arrives on `day`, and of its truth."""
    found = hashlib.sha256()
    for spec in RAW_TABLES:
        found.update(parquet_bytes(days.arriving(spec, day)))
    found.update(parquet_bytes(days.truth([day])[day]))
    return found.hexdigest()


def digests(kind: str, days: Iterable[date]) -> dict[date, str]:
    """One digest a day, all out of one world."""
    one = played(kind)
    return {day: digest(one, day) for day in days}


@cache
def in_order(kind: str) -> dict[date, str]:
    return digests(kind, DAYS)


@kinds
def test_the_order_in_which_days_are_asked_for_changes_no_byte(kind: str) -> None:
    shuffled = [DAYS[n] for n in np.random.default_rng(3).permutation(len(DAYS))]
    assert digests(kind, reversed(DAYS)) == in_order(kind)
    assert digests(kind, shuffled) == in_order(kind)
    assert digest(played(kind), DAYS[5]) == in_order(kind)[DAYS[5]]


@kinds
def test_a_longer_horizon_changes_no_byte(kind: str) -> None:
    far = played(kind)
    later = DAYS[-1] + timedelta(days=60)
    digest(far, later)
    assert {day: digest(far, day) for day in DAYS} == in_order(kind)
    assert far.truth([DAYS[2], later])[DAYS[2]].equals(far.truth([DAYS[2]])[DAYS[2]])


def test_one_process_and_four_make_the_same_bytes() -> None:
    # A world that neither drifts nor is spoilt: tests/sim/test_world.py.
    shares = [DAYS[at::4] for at in range(4)]
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(digests, ["spoilt"] * 4, shares))
    assert {day: value for part in parts for day, value in part.items()} == in_order("spoilt")


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_the_size_of_chunks_changes_no_row(size: int) -> None:
    world = DriftedWorld(KINDS["spoilt"].config(7), DRIFT)
    whole = world.orders(DAYS[3])
    rows = np.arange(whole.row.size)
    cut = [rows[at : at + size] for at in range(0, rows.size, size)]
    parts = [world._orders.rows(3, chunk) for chunk in cut]
    for name, *pieces in zip(whole._fields, *parts, strict=True):
        assert np.array_equal(np.concatenate(pieces), getattr(whole, name)), name


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_the_size_of_chunks_changes_nobody_s_fate(size: int) -> None:
    world = DriftedWorld(KINDS["spoilt"].config(7), DRIFT)
    sent = world.transactions(DAYS[3])
    whole = deliver(sent, TRANSACTIONS, CHAOS, seed=7).rows
    parts = [
        deliver(sent.slice(at, size), TRANSACTIONS, CHAOS, seed=7).rows
        for at in range(0, sent.num_rows, size)
    ]
    fates = [sorted(zip(*part.to_pydict().values(), strict=True), key=str) for part in parts]
    assert sorted((row for part in fates for row in part), key=str) == sorted(
        zip(*whole.to_pydict().values(), strict=True), key=str
    )


@pytest.mark.parametrize("size", [1, 3, 8])
def test_the_days_whose_truth_is_asked_together_change_no_byte(size: int) -> None:
    world = played("drifted").world
    found = {}
    for at in range(0, len(DAYS), size):
        found.update(world.truth(DAYS[at : at + size]))
    assert {day: bytes(parquet_bytes(table)) for day, table in found.items()} == {
        day: bytes(parquet_bytes(table)) for day, table in played("drifted").truth(DAYS).items()
    }


def test_another_seed_level_coin_or_fault_makes_other_bytes() -> None:
    # What is equal above is not equal because the digest is blind.
    spoilt = KINDS["spoilt"]
    others = [
        ScenarioDays(spoilt, seed=8),
        *(
            ScenarioDays(spoilt.model_copy(update=update), seed=7)
            for update in (
                {"drift": Drift(level=0.61)},
                {"drift": Drift(level=0.6, seed=43)},
                {"chaos": CHAOS.model_copy(update={"drop_share": 0.06})},
            )
        ),
        ScenarioDays(spoilt, seed=7, start_date=DAYS[1]),
    ]
    found = {digest(other, DAYS[4]) for other in others}
    assert len(found | {in_order("spoilt")[DAYS[4]]}) == len(others) + 1


def test_orders_of_a_day_are_those_of_the_undrifted_world_by_number() -> None:
    # A drift moves what orders look like; who orders what, and when, stays in the covariate axis.
    still = played("still").world
    dear = DriftedWorld(KINDS["still"].config(7), Drift(level=0.6, axes=("covariate",)))
    before, after = (w.transactions(DAYS[4]) for w in (still, dear))
    for column in before.column_names:
        if column != "amount_cents":
            assert before[column].equals(after[column]), column
    assert (ints(after, "amount_cents") >= ints(before, "amount_cents")).all()
