"""The world's tables: contracts, determinism, seats, money, times and shares."""

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ibook_assets.core.errors import ContractError
from ibook_assets.core.tables import (
    EVENTS,
    RAW_TABLES,
    TIERS,
    TRUTH_ORDERS,
    USERS,
    TableSpec,
)
from ibook_assets.core.times import DAY_US, day_start_us
from ibook_sim.datasets.export import day_path, write_days
from ibook_sim.world import DayTables, World, WorldConfig, days_from
from ibook_sim.world.events import EventSource
from ibook_sim.world.orders import TIER_PERCENT
from tests.sim.small_world import CONFIG, DAYS, ints


@pytest.mark.parametrize("spec", RAW_TABLES, ids=lambda spec: spec.name)
def test_tables_keep_their_contract(spec: TableSpec, days: list[DayTables]) -> None:
    tables = [getattr(day, spec.name) for day in days]
    rows = pa.concat_tables(tables)
    assert rows.schema == spec.schema
    assert rows.num_rows > 0
    assert len(rows.select(list(spec.key)).group_by(list(spec.key)).aggregate([])) == len(rows)
    for column in spec.columns:
        values = rows[column.name]
        assert column.nullable or values.null_count == 0
        if column.allowed:
            assert set(values.unique().to_pylist()) <= set(column.allowed)
        if column.minimum is not None:
            assert min(v for v in values.unique().to_pylist() if v is not None) >= column.minimum
        if column.maximum is not None:
            assert max(v for v in values.unique().to_pylist() if v is not None) <= column.maximum


@pytest.mark.parametrize("spec", RAW_TABLES, ids=lambda spec: spec.name)
def test_rows_are_on_the_day_they_become_known_in_order(
    spec: TableSpec, days: list[DayTables]
) -> None:
    for day, tables in zip(DAYS, days, strict=True):
        table = getattr(tables, spec.name)
        known = ints(table, "known_ts")
        assert (known // DAY_US == day_start_us(day) // DAY_US).all()
        by_id = np.lexsort((ints(table, spec.key[0]), known))
        assert np.array_equal(by_id, np.arange(known.size))


@pytest.mark.parametrize("spec", RAW_TABLES, ids=lambda spec: spec.name)
def test_published_tables_carry_no_truth(spec: TableSpec, days: list[DayTables]) -> None:
    hidden = {"archetype", "posterior", "row_posterior", "account", "hype", "activity", "taste"}
    assert not hidden & set(getattr(days[0], spec.name).column_names)


def test_truth_lies_beside_the_orders(transactions: pa.Table, truth: pa.Table) -> None:
    assert truth.schema == TRUTH_ORDERS.schema
    for column in ("transaction_id", "known_ts"):
        assert truth[column].equals(transactions[column])


def test_a_day_does_not_depend_on_what_was_asked_before(days: list[DayTables]) -> None:
    other = World(CONFIG)
    other.day(DAYS[-1] + timedelta(days=40))
    for number in (60, 3):
        fresh = World(CONFIG)
        for name, table in days[number].items():
            assert getattr(fresh.day(DAYS[number]), name).equals(table)
            assert getattr(other.day(DAYS[number]), name).equals(table)


def test_truth_does_not_depend_on_the_days_asked_together(
    truth: pa.Table, days: list[DayTables]
) -> None:
    start = sum(day.transactions.num_rows for day in days[:30])
    one = World(CONFIG).truth([DAYS[30]])[DAYS[30]]
    assert one.equals(truth.slice(start, one.num_rows))


def test_one_process_and_four_write_the_same_bytes(tmp_path: Path) -> None:
    dates, folders = DAYS[:8], {n: tmp_path / str(n) for n in (1, 4)}
    rows = {n: write_days(CONFIG, dates, out, processes=n) for n, out in folders.items()}
    assert rows[1] == rows[4]
    for spec in RAW_TABLES:
        for day in dates:
            one, four = (day_path(out, spec.name, day).read_bytes() for out in folders.values())
            assert one == four


def test_seeds_make_different_worlds(days: list[DayTables]) -> None:
    other = World(CONFIG.model_copy(update={"seed": 8})).day(DAYS[0])
    assert not other.transactions.equals(days[0].transactions)


def test_events_never_sell_more_seats_than_they_have(world: World, transactions: pa.Table) -> None:
    events = world.catalogue(DAYS[-1]).events
    sold = np.bincount(ints(transactions, "event_id"), ints(transactions, "quantity"))
    capacity = ints(events, "capacity")
    assert (sold <= capacity[: sold.size]).all()
    assert (sold >= 0.9 * capacity[: sold.size]).sum() > 5


def test_orders_happen_while_the_event_is_on_sale(world: World, transactions: pa.Table) -> None:
    events = world.catalogue(DAYS[-1]).events
    event, when = ints(transactions, "event_id"), ints(transactions, "occurred_ts")
    assert (when >= ints(events, "on_sale_ts")[event]).all()
    assert (when < ints(events, "starts_ts")[event]).all()
    assert (when <= ints(transactions, "known_ts")).all()


def test_amount_is_tickets_times_the_price_of_the_tier(
    world: World, transactions: pa.Table
) -> None:
    # A plus ticket (135 %) of an event listed at 40.00 costs 54.00; two of them 108.00.
    price = ints(world.catalogue(DAYS[-1]).events, "list_price_cents")
    tier = np.array([TIERS.index(t) for t in transactions["tier"].to_pylist()])
    single = price[ints(transactions, "event_id")] * TIER_PERCENT[tier] // 100
    assert np.array_equal(
        ints(transactions, "amount_cents"), single * ints(transactions, "quantity")
    )


def test_catalogue_only_ever_grows(world: World, transactions: pa.Table) -> None:
    early, late = world.catalogue(DAYS[10]), world.catalogue(DAYS[-1])
    assert early.events.schema == EVENTS.schema
    assert late.events.slice(0, early.events.num_rows).equals(early.events)
    assert late.users.schema == USERS.schema
    accounts = set(late.users["user_id"].to_pylist())
    assert set(early.users["user_id"].to_pylist()) < accounts
    assert set(transactions["user_id"].to_pylist()) <= accounts


def test_account_age_counts_from_the_catalogue(world: World, transactions: pa.Table) -> None:
    users = world.catalogue(DAYS[-1]).users
    at = np.searchsorted(ints(users, "user_id"), ints(transactions, "user_id"))
    age_us = ints(transactions, "occurred_ts") - ints(users, "created_ts")[at]
    assert np.array_equal(ints(transactions, "account_age_s"), age_us.clip(0) // 1_000_000)


def test_orders_a_day_are_as_configured(transactions: pa.Table) -> None:
    # Popular events come in lumps: a day varies by a third, 100 days by a few percent.
    assert transactions.num_rows / len(DAYS) == pytest.approx(CONFIG.orders_per_day, rel=0.15)


def test_fraud_share_and_mix_are_as_configured(truth: pa.Table) -> None:
    archetype = ints(truth, "archetype")
    counts = np.bincount(archetype, minlength=5)[1:]
    expected = CONFIG.fraud_share * archetype.size * np.array(CONFIG.archetype_mix)
    # Orders come in runs by one abuser (mean 2.1 takeover, 1.5, 2, 2; geometric or Poisson of an
    # exponential), so counts vary by the mean square run over the mean run, at most 3.1.
    assert (np.abs(counts - expected) < 4 * np.sqrt(4.2 * expected)).all()


def test_a_day_before_the_beginning_is_refused(world: World) -> None:
    with pytest.raises(ContractError, match="before the world begins"):
        world.day(date(2025, 12, 31))


def test_more_takeovers_than_accounts_are_refused() -> None:
    with pytest.raises(ValueError, match="raise users"):
        WorldConfig(users=100, orders_per_day=10_000)


@pytest.mark.parametrize("events", [10, 37, 400, 20_000])
def test_event_numbers_follow_the_day_they_go_on_sale(events: int) -> None:
    source = EventSource(WorldConfig(events=events))
    numbers = np.arange(source.first_number(20))
    day = source.first_day_of(numbers)
    for number, on_sale in zip(numbers[-200:], day[-200:], strict=True):
        assert source.first_number(on_sale) <= number < source.first_number(on_sale + 1)


def test_days_from_counts_days() -> None:
    assert days_from(date(2026, 2, 27), 3)[-1] == date(2026, 3, 1)
