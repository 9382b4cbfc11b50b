"""A scenario's days: the same rows as one delivery of everything, however they are asked for."""

from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest

from ibook_assets.core.errors import ContractError
from ibook_assets.core.tables import OUTCOMES, RAW_TABLES, TRANSACTIONS, TableSpec
from ibook_assets.core.times import DAY_US, day_start_us
from ibook_sim.chaos import Chaos, deliver, longest_delay_us
from ibook_sim.datasets.scenario_days import ScenarioDays, scenarios_with_days
from ibook_sim.drift import Drift, DriftedWorld
from ibook_sim.offline.planning import plan_of
from ibook_sim.offline.running import run
from ibook_sim.orders.placed import WARM_UP_DAYS
from ibook_sim.scenarios import Scenario, scenario, scenarios
from tests.sim.small_world import ints

FIRST = date(2026, 1, 1)
DAYS = [FIRST + timedelta(days=n) for n in range(12)]
SMALL = {"users": 3_000, "events": 40, "orders_per_day": 300, "label_maturity_days": 4}
ROUGH = Scenario(
    name="rough",
    description="Everything goes wrong, and by much.",
    world=SMALL,
    drift=Drift(level=0.4),
    chaos=Chaos(
        drop_share=0.05,
        duplicate_share=0.2,
        disorder_share=0.3,
        disorder_seconds=86_400.0,
        corrupt_share=0.05,
        late_label_share=0.5,
        late_label_days=3.0,
        clock_skew_share=0.1,
    ),
)


def whole(spec: TableSpec) -> pa.Table:
    """Everything of `spec` that arrives by the last of DAYS, delivered in one piece."""
    world = DriftedWorld(ROUGH.config(7), ROUGH.drift)
    sent = pa.concat_tables([dict(world.day(day).items())[spec.name] for day in DAYS])
    rows = deliver(sent, spec, ROUGH.chaos, seed=7).rows
    return rows.filter(pa.array(ints(rows, "known_ts") < day_start_us(DAYS[-1]) + DAY_US))


def in_order(rows: pa.Table) -> pa.Table:
    return rows.sort_by([(name, "ascending") for name in rows.column_names])


@pytest.mark.parametrize("spec", RAW_TABLES, ids=lambda spec: spec.name)
def test_the_days_are_the_whole_delivery_cut_by_arrival(spec: TableSpec) -> None:
    days = ScenarioDays(ROUGH, seed=7)
    parts = [days.arriving(spec, day) for day in DAYS]
    for day, part in zip(DAYS, parts, strict=True):
        known = ints(part, "known_ts")
        assert (known // DAY_US == day_start_us(day) // DAY_US).all()
        assert (np.diff(known) >= 0).all()
    expected = whole(spec)
    assert expected.num_rows > 50
    assert in_order(pa.concat_tables(parts)).equals(in_order(expected))


@pytest.mark.parametrize("spec", [TRANSACTIONS, OUTCOMES], ids=lambda spec: spec.name)
def test_a_day_is_the_same_in_any_order_and_alone(spec: TableSpec) -> None:
    forth, back = ScenarioDays(ROUGH, seed=7), ScenarioDays(ROUGH, seed=7)
    rising = {day: forth.arriving(spec, day) for day in DAYS}
    falling = {day: back.arriving(spec, day) for day in reversed(DAYS)}
    for day in DAYS:
        assert rising[day].equals(falling[day]), day
    assert rising[DAYS[6]].equals(ScenarioDays(ROUGH, seed=7).arriving(spec, DAYS[6]))
    assert rising[DAYS[6]].equals(forth.arriving(spec, DAYS[6]))


def test_rows_do_cross_midnight() -> None:
    # Else the tests above would say nothing about days that need their neighbours.
    days = ScenarioDays(ROUGH, seed=7)
    sent = ints(days.world.day(DAYS[4]).transactions, "transaction_id")
    arrived = ints(days.arriving(TRANSACTIONS, DAYS[5]), "transaction_id")
    assert np.isin(arrived, sent).sum() > 10


@pytest.mark.parametrize("name", ["drift", "flash-sale", "bot-evasion"])
def test_a_run_plays_the_orders_of_these_days(name: str) -> None:
    days = ScenarioDays(scenario(name), seed=11)
    first = days.world.config.start_date + timedelta(days=WARM_UP_DAYS)
    orders = days.arriving(TRANSACTIONS, first)
    truth = days.truth([first])[first]
    result = run(plan_of(name, seed=11, drift_transactions=orders.num_rows))
    # A run numbers its orders as the day does and sends them in that order.
    assert np.array_equal(result.seen.amount_cents, ints(orders, "amount_cents"))
    assert np.array_equal(result.seen.archetype, ints(truth, "archetype"))
    assert np.array_equal(result.seen.posterior, np.asarray(truth["posterior"]))


def test_a_run_meets_the_faults_of_these_days() -> None:
    days = ScenarioDays(scenario("system-degradation"), seed=11)
    first = days.world.config.start_date + timedelta(days=WARM_UP_DAYS)
    sent = days.world.transactions(first)
    result = run(plan_of("system-degradation", seed=11, drift_transactions=sent.num_rows))
    ids = ints(sent, "transaction_id")
    # Some cross midnight: what arrived of this day's orders is spread over two days.
    arrived = pa.concat_tables(
        [days.arriving(TRANSACTIONS, first + timedelta(days=n)) for n in (0, 1)]
    )
    mine = ints(arrived, "transaction_id")
    mine = mine[np.isin(mine, ids)]
    assert np.array_equal(~np.isin(ids, mine), result.seen.dropped)
    assert result.seen.dropped.sum() > 0
    assert mine.size > np.unique(mine).size


def test_a_late_start_moves_the_whole_world() -> None:
    start = date(2026, 3, 1)
    days = ScenarioDays(ROUGH, seed=7, start_date=start)
    known = ints(days.arriving(TRANSACTIONS, start), "known_ts")
    assert known.min() >= day_start_us(start)
    with pytest.raises(ContractError, match="before the world begins on 2026-03-01"):
        days.arriving(TRANSACTIONS, start - timedelta(days=1))


def test_a_mix_and_a_recording_have_no_days_and_say_whose_to_take() -> None:
    assert set(scenarios()) - set(scenarios_with_days()) == {"mix", "replay"}
    with pytest.raises(ContractError, match="recorded days; read those"):
        ScenarioDays(scenario("replay"), seed=7)
    with pytest.raises(ContractError, match="those of its parts: normal-traffic, flash-sale"):
        ScenarioDays(scenario("mix"), seed=7)


def test_only_late_labels_have_no_bound() -> None:
    assert longest_delay_us(TRANSACTIONS, ROUGH.chaos) == DAY_US + 1_000_000
    assert longest_delay_us(OUTCOMES, ROUGH.chaos) is None
    assert longest_delay_us(OUTCOMES, Chaos()) == 0
