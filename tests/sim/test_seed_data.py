"""The reference data set: exact counts, consistent tables, patterns, the same bytes again."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ibook_assets.core.tables import CATEGORIES, EVENTS, TRANSACTIONS, TRUTH_ORDERS, USERS
from ibook_assets.core.times import DAY_US
from ibook_sim.datasets.seed_data import SeedData, seed_data, write_seed_data
from tests.sim.small_world import ints


@pytest.fixture(scope="module")
def data() -> SeedData:
    return seed_data(7)


def test_counts_are_exact(data: SeedData) -> None:
    assert data.transactions.num_rows == 10_000
    assert data.events.num_rows == 100
    assert data.users.num_rows == 1_000
    assert (ints(data.truth, "archetype") > 0).sum() == 300
    assert set(data.events["category"].to_pylist()) == set(CATEGORIES)


def test_tables_keep_their_contract_and_fit_together(data: SeedData) -> None:
    for table, spec in (
        (data.transactions, TRANSACTIONS),
        (data.events, EVENTS),
        (data.users, USERS),
        (data.truth, TRUTH_ORDERS),
    ):
        assert table.schema == spec.schema
    assert data.truth["transaction_id"].equals(data.transactions["transaction_id"])
    for key, table in (("event_id", data.events), ("user_id", data.users)):
        assert np.isin(ints(data.transactions, key), ints(table, key)).all()


def test_metrics_add_up_to_the_transactions(data: SeedData) -> None:
    metrics, users = data.event_metrics, data.user_metrics
    assert ints(metrics, "total_tickets_sold").sum() == ints(data.transactions, "quantity").sum()
    assert ints(metrics, "revenue_cents").sum() == ints(data.transactions, "amount_cents").sum()
    assert (ints(metrics, "current_inventory") >= 0).all()
    assert ints(users, "lifetime_purchases").sum() == 10_000
    spent = ints(users, "lifetime_spend_cents").sum()
    assert spent == ints(data.transactions, "amount_cents").sum()


def test_weekends_are_busy_and_winter_busier_than_summer(data: SeedData) -> None:
    day = ints(data.transactions, "known_ts") // DAY_US
    weekday = np.bincount((day + 3) % 7, minlength=7)  # 1970-01-01 was a Thursday
    assert weekday[[4, 5]].mean() > 1.1 * weekday[[0, 1, 2, 3, 6]].mean()
    of_year = day - day.min()
    summer = (of_year >= 65) & (of_year < 248)  # the half year around 6 June, opposite the peak
    assert (~summer).sum() > 1.2 * summer.sum()


def test_written_twice_gives_the_same_bytes(data: SeedData, tmp_path: Path) -> None:
    first = write_seed_data(data, tmp_path / "a")
    again = write_seed_data(seed_data(7), tmp_path / "b")
    for name, path in first.items():
        assert path.read_bytes() == again[name].read_bytes()
        assert isinstance(pq.read_table(path), pa.Table)
