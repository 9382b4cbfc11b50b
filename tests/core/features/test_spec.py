"""Specs refuse what cannot be computed alike everywhere, and their hash is their definition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ibook_assets.core.errors import ContractError, UnknownFeatureError
from ibook_assets.core.facts import FACT_TABLES
from ibook_assets.core.features.catalog import ALL_FEATURES, FEATURE_VIEWS, resolve, view
from ibook_assets.core.features.engine import (
    lookback_us,
    query_columns,
    required_columns,
    required_sources,
)
from ibook_assets.core.features.spec import (
    RETENTION_US,
    SOURCES,
    Aggregation,
    Difference,
    FeatureView,
    Filter,
    Ratio,
    RowFeature,
)
from ibook_assets.core.tables import TRUTH_ORDERS
from ibook_assets.core.times import DAY_US, HOUR_US, MINUTE_US

COUNT = Aggregation(
    name="orders", entity="user", source="transactions", function="count", window_us=HOUR_US
)
SUM = replace(COUNT, name="amount", function="sum", column="amount_cents")


def view_of(*features: Any) -> FeatureView:
    return FeatureView(name="some_view", entity="user", features=features, description="Some")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "orders"}, r"source 'orders' is not one of .*transactions"),
        ({"entity": "venue"}, "entity 'venue' is not one of"),
        ({"source": "views", "entity": "card"}, "entity column 'card_id' is not one of"),
        ({"function": "median"}, "function 'median' is not one of"),
        ({"function": "sum"}, "sum needs a column"),
        ({"column": "quantity"}, "count takes no column; count a subset of the rows with a filter"),
        ({"function": "sum", "column": "amount"}, r"Did you mean 'amount_cents'\?"),
        ({"function": "mode", "column": "card_id"}, "mode needs a column with at most 16 codes"),
        ({"filter": Filter("colour", 1)}, "filter: column of transactions 'colour' is not one of"),
        ({"filter": Filter("tier", "gold")}, "value 'gold' is not one of"),
        ({"window_us": 0}, "needs a finite horizon"),
        ({"window_us": RETENTION_US + 1}, "needs a finite horizon"),
        ({"resolution_us": 7 * MINUTE_US}, "does not divide the window"),
        ({"resolution_us": -1}, "resolution must be >= 0"),
        ({"cap": 0}, "cap >= 1"),
        ({"resolution_us": MINUTE_US, "cap": 5}, "drop one of them"),
        (
            {"resolution_us": MINUTE_US, "function": "distinct", "column": "card_id"},
            "distinct cannot be kept in buckets",
        ),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_an_aggregation_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        replace(COUNT, **change)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (view_of, "needs features"),
        (lambda: view_of(COUNT, COUNT), r"repeated \['orders'\]"),
        (lambda: view_of(replace(COUNT, name="quantity")), "named like request columns"),
        (
            lambda: view_of(COUNT, Ratio(name="r", numerator=("order",), denominator="orders")),
            r"operand 'order' is not one of .* Did you mean 'orders'\?",
        ),
        (lambda: Ratio(name="r", numerator=(), denominator="orders"), "give one or two"),
        (
            lambda: Ratio(name="r", numerator=("a",), denominator="b", prior_denominator=-1),
            "pseudo-counts",
        ),
        (lambda: Difference(name="d", minuend="a", subtrahend="b", divisor=0), "must be >= 1"),
        (lambda: RowFeature(name="f", column="quantity", transform="weekend"), "reads a clock"),
        (lambda: RowFeature(name="f", column="posterior"), "is not one of"),
        (lambda: replace(view_of(COUNT), name="a/b"), "part of paths"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_a_view_refuses(make: Any, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        make()


@pytest.mark.parametrize(
    "change",
    [
        {"window_us": DAY_US},
        {"entity": "card"},
        {"source": "outcomes"},
        {"function": "max"},
        {"column": "quantity"},
        {"filter": Filter("tier", "vip")},
        {"resolution_us": MINUTE_US},
        {"cap": 7},
        {"name": "money"},
        {"emit": False},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_hash_changes_with_the_definition(change: dict[str, Any]) -> None:
    if "source" in change or "column" in change:
        before, after = SUM, replace(SUM, **({"column": "amount_cents"} | change))
    else:
        before, after = SUM, replace(SUM, **change)
    assert view_of(COUNT, before).spec_hash != view_of(COUNT, after).spec_hash


def test_the_hash_changes_with_derived_features() -> None:
    ratio = Ratio(name="mean", numerator=("amount",), denominator="orders")
    hashes = {
        view_of(COUNT, SUM, feature).spec_hash
        for feature in (
            ratio,
            replace(ratio, prior_numerator=1),
            replace(ratio, prior_denominator=1),
            replace(ratio, numerator=("amount", "quantity")),
            replace(ratio, denominator="quantity"),
            Difference(name="mean", minuend="amount", subtrahend="orders"),
            Difference(name="mean", minuend="amount", subtrahend="orders", divisor=2),
            RowFeature(name="mean", column="known_ts", transform="weekend"),
            RowFeature(name="mean", column="known_ts", transform="night"),
        )
    }
    assert len(hashes) == 9


def test_the_hash_does_not_change_with_words() -> None:
    plain = view_of(COUNT)
    worded = view_of(replace(COUNT, description="Orders", unit="orders"))
    assert plain.spec_hash == worded.spec_hash
    assert plain.spec_hash == replace(plain, description="Other", owner="team:other").spec_hash
    # The default cap, said or left out, is the same definition.
    assert plain.spec_hash == view_of(replace(COUNT, cap=4_096)).spec_hash


def test_no_view_can_reach_ground_truth() -> None:
    truth = {c.name for c in TRUTH_ORDERS.columns} - {"transaction_id", "known_ts"}
    assert set(SOURCES) == {table.name for table in FACT_TABLES}
    for one in FEATURE_VIEWS:
        read = {n for s in required_sources(one) for n in required_columns(one, s)}
        assert not truth & (read | set(query_columns(one))), one.name
    for table in FACT_TABLES:
        assert not truth & set(table.column_names), table.name


def test_every_feature_of_the_catalogue_is_documented() -> None:
    for one in FEATURE_VIEWS:
        for feature in one.emitted:
            assert feature.description, f"{one.name}:{feature.name}"
            assert feature.unit, f"{one.name}:{feature.name}"


@pytest.mark.parametrize(
    "name",
    [
        "event_realtime_metrics:current_inventory",
        "event_realtime_metrics:sell_through_rate_5min",
        "event_realtime_metrics:concurrent_viewers",
        "event_historical_metrics:total_tickets_sold",
        "event_historical_metrics:avg_ticket_price",
        "event_historical_metrics:promoter_success_rate",
        "user_purchase_behavior:lifetime_purchases",
        "user_purchase_behavior:fraud_risk_score",
        "user_purchase_behavior:preferred_category",
    ],
)
def test_the_names_that_other_systems_use_exist(name: str) -> None:
    found, feature = resolve(name)
    assert f"{found.name}:{feature.name}" == name
    assert name in ALL_FEATURES


def test_an_unknown_feature_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UnknownFeatureError, match="Did you mean 'user_purchase_behavior:life"):
        resolve("user_purchase_behavior:lifetime_purchase")
    with pytest.raises(ContractError, match="unknown feature view"):
        view("user_purchase_behaviour")


def test_the_look_back_is_the_longest_window_and_its_grain() -> None:
    assert lookback_us(view_of(COUNT, replace(SUM, window_us=DAY_US))) == DAY_US
    assert lookback_us(view_of(replace(COUNT, resolution_us=MINUTE_US))) == HOUR_US + MINUTE_US
    assert lookback_us(view("order_context")) == 0
