"""What follows an order: chargebacks, settlement, refunds, and the views around it."""

import numpy as np
import pyarrow as pa
import pytest

from ibook_assets.core.times import DAY_US
from ibook_sim.world import DayTables
from ibook_sim.world.fates import (
    CHARGEBACK_LAW,
    CHARGEBACK_LIMIT_DAYS,
    REFUND_LIMIT_DAYS,
    law_at,
)
from tests.sim.small_world import CONFIG, DAYS, ints


def together(days: list[DayTables], name: str) -> pa.Table:
    return pa.concat_tables([getattr(day, name) for day in days])


def order_of(table: pa.Table, transactions: pa.Table) -> np.ndarray:
    """Row of each row's order in `transactions`."""
    order = np.argsort(ints(transactions, "transaction_id"))
    ids = ints(transactions, "transaction_id")[order]
    at = np.searchsorted(ids, ints(table, "transaction_id"))
    assert (ids[at] == ints(table, "transaction_id")).all()
    return np.asarray(order[at])


def test_every_mature_order_has_exactly_one_outcome_by_then(
    days: list[DayTables], transactions: pa.Table
) -> None:
    outcomes = together(days, "outcomes")
    row = order_of(outcomes, transactions)
    matures = ints(transactions, "occurred_ts") + CONFIG.label_maturity_days * DAY_US
    in_time = ints(outcomes, "known_ts") <= matures[row]
    mature = matures < ints(transactions, "known_ts").max()
    counts = np.bincount(row[in_time], minlength=transactions.num_rows)
    assert (counts[mature] == 1).all()
    settled = ints(outcomes, "is_fraud") == 0
    assert np.array_equal(ints(outcomes, "known_ts")[settled], matures[row[settled]])


def test_late_chargebacks_come_after_the_settlement(
    days: list[DayTables], transactions: pa.Table
) -> None:
    outcomes = together(days, "outcomes")
    row, fraud = order_of(outcomes, transactions), ints(outcomes, "is_fraud") == 1
    delay = ints(outcomes, "known_ts")[fraud] - ints(transactions, "known_ts")[row[fraud]]
    assert (delay > 0).all()
    assert (delay <= CHARGEBACK_LIMIT_DAYS * DAY_US).all()
    late = row[fraud][delay > (CONFIG.label_maturity_days + 1) * DAY_US]
    assert late.size > 0
    assert np.isin(late, row[~fraud]).all()


def test_chargebacks_come_as_often_and_as_late_as_configured(
    days: list[DayTables], transactions: pa.Table, truth: pa.Table
) -> None:
    outcomes = together(days, "outcomes").to_pandas().query("is_fraud == 1")
    row = order_of(pa.Table.from_pandas(outcomes), transactions)
    archetype = ints(truth, "archetype")
    # Orders of the first 40 days had 60 days, by which 97 % of chargebacks are known.
    old = (ints(transactions, "known_ts") - ints(transactions, "known_ts")[0]) < 40 * DAY_US
    charged = np.zeros(old.size, np.bool_)
    charged[row] = True
    fraud, legit = old & (archetype > 0), old & (archetype == 0)
    share = (1 - CONFIG.never_reported) * law_at(CHARGEBACK_LAW, 75 * DAY_US)
    assert charged[fraud].mean() == pytest.approx(share, abs=4 * np.sqrt(0.12 / fraud.sum()))
    assert charged[legit].mean() == pytest.approx(CONFIG.friendly_fraud, abs=0.0015)
    delay = (outcomes.known_ts.to_numpy() - ints(transactions, "known_ts")[row])[fraud[row]]
    assert np.median(delay) / DAY_US == pytest.approx(21.0, abs=2.5)


def test_refunds_return_at_most_what_was_paid_and_later(
    days: list[DayTables], transactions: pa.Table
) -> None:
    refunds = together(days, "refunds")
    row = order_of(refunds, transactions)
    assert (ints(refunds, "amount_cents") <= ints(transactions, "amount_cents")[row]).all()
    assert (ints(refunds, "amount_cents") > 0).all()
    delay = ints(refunds, "known_ts") - ints(transactions, "known_ts")[row]
    assert (delay > 0).all()
    assert (delay <= REFUND_LIMIT_DAYS * DAY_US).all()
    assert (ints(refunds, "occurred_ts") > ints(transactions, "occurred_ts")[row]).all()
    assert np.unique(row).size == row.size


def test_every_order_is_preceded_by_a_look_at_its_event(
    days: list[DayTables], transactions: pa.Table
) -> None:
    views = together(days, "views").to_pandas().dropna(subset=["user_id"])
    views["user_id"] = views.user_id.astype("int64")
    first = views.groupby(["user_id", "event_id"]).known_ts.min()
    orders = transactions.to_pandas()
    seen = first.reindex(list(zip(orders.user_id, orders.event_id, strict=True))).to_numpy()
    assert (seen < orders.known_ts).all()


def test_no_look_announces_an_order_before_the_accounts_previous_one(
    days: list[DayTables],
) -> None:
    # The session of an order starts after the account's previous order of that day.
    for day in days[:40]:
        views = day.views.to_pandas().dropna(subset=["user_id"])
        orders = day.transactions.to_pandas().sort_values("known_ts")
        orders["previous"] = orders.groupby("user_id").known_ts.shift()
        repeat = orders.dropna(subset=["previous"])
        session = views.merge(repeat, on=["user_id", "event_id"], suffixes=("", "_order"))
        within = session[session.known_ts.between(session.previous, session.known_ts_order)]
        found = within.groupby("transaction_id").size()
        assert set(repeat.transaction_id) == set(found.index)


def test_visitors_who_never_log_in_have_no_account(days: list[DayTables]) -> None:
    views = together(days, "views")
    orders = sum(day.transactions.num_rows for day in days)
    assert views["user_id"].null_count / orders == pytest.approx(0.8 * 0.97, abs=0.03)
    assert len(DAYS) == len(days)
