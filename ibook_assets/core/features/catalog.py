"""The feature catalogue: the one place where features are defined.

To add a feature, add it to a view below. Its batch values, its online values, its documentation
and its version all follow from the spec.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from ibook_assets.core.errors import ContractError, UnknownFeatureError
from ibook_assets.core.features.spec import (
    Aggregation,
    Difference,
    Feature,
    FeatureView,
    Filter,
    Ratio,
    RowFeature,
)
from ibook_assets.core.times import DAY_US, HOUR_US, MINUTE_US

_WINDOWS: Final = {
    "1m": MINUTE_US,
    "5m": 5 * MINUTE_US,
    "1h": HOUR_US,
    "6h": 6 * HOUR_US,
    "1d": DAY_US,
    "7d": 7 * DAY_US,
    "30d": 30 * DAY_US,
    "90d": 90 * DAY_US,
    "365d": 365 * DAY_US,
}
_VELOCITY: Final = ("1m", "5m", "1h", "6h", "1d", "7d", "30d")

FRAUD_PRIOR_ORDERS: Final = 100
"""Weight of the prior in `fraud_risk_score`, in orders."""
FRAUD_PRIOR_FRAUDS: Final = 3
"""Frauds among the prior's orders: a user without outcomes scores 3 %."""


def _orders(entity: str, windows: Iterable[str], resolution_us: int = 0) -> Iterator[Aggregation]:
    for window in windows:
        yield Aggregation(
            name=f"order_count_{window}",
            entity=entity,
            source="transactions",
            function="count",
            window_us=_WINDOWS[window],
            resolution_us=resolution_us,
            unit="orders",
            description=f"Orders of the {entity} in the last {window}",
        )


def _amounts(entity: str, windows: Iterable[str], resolution_us: int = 0) -> Iterator[Aggregation]:
    for window in windows:
        yield Aggregation(
            name=f"amount_sum_{window}",
            entity=entity,
            source="transactions",
            function="sum",
            column="amount_cents",
            window_us=_WINDOWS[window],
            resolution_us=resolution_us,
            unit="cents",
            description=f"Amount ordered by or at the {entity} in the last {window}",
        )


def _max_amounts(entity: str, windows: Iterable[str]) -> Iterator[Aggregation]:
    for window in windows:
        yield Aggregation(
            name=f"amount_max_{window}",
            entity=entity,
            source="transactions",
            function="max",
            column="amount_cents",
            window_us=_WINDOWS[window],
            unit="cents",
            description=f"Largest order of the {entity} in the last {window}",
        )


def _distinct(entity: str, what: str, windows: Iterable[str]) -> Iterator[Aggregation]:
    for window in windows:
        yield Aggregation(
            name=f"distinct_{what}s_{window}",
            entity=entity,
            source="transactions",
            function="distinct",
            column=f"{what}_id",
            window_us=_WINDOWS[window],
            unit=f"{what}s",
            description=f"Different {what}s among the orders of the {entity} in the last {window}",
        )


def _since(entity: str) -> Aggregation:
    return Aggregation(
        name="seconds_since_order",
        entity=entity,
        source="transactions",
        function="since",
        window_us=_WINDOWS["30d"],
        unit="seconds",
        description=f"Time since the last order of the {entity}, NaN without one in 30d",
    )


def _mean_amounts(entity: str, windows: Iterable[str]) -> Iterator[Ratio]:
    for window in windows:
        yield Ratio(
            name=f"amount_mean_{window}",
            numerator=(f"amount_sum_{window}",),
            denominator=f"order_count_{window}",
            unit="cents",
            description=f"Mean order of the {entity} in the last {window}",
        )


def _velocity_view(entity: str, meaning: str) -> FeatureView:
    features: list[Feature] = [
        *_orders(entity, _VELOCITY),
        *_amounts(entity, ("1h", "1d", "7d", "30d")),
        *_max_amounts(entity, ("1d", "30d")),
        *_distinct(entity, "user", ("1h", "1d", "7d", "30d")),
        *_distinct(entity, "event", ("1h", "1d")),
        _since(entity),
    ]
    return FeatureView(
        name=f"{entity}_velocity",
        entity=entity,
        features=tuple(features),
        description=f"How fast, how much and for how many accounts {meaning} orders.",
    )


def _outcomes(
    entity: str, window: str, name: str, *, fraud: int | None = None, emit: bool = True
) -> Aggregation:
    # Counters of promoters and hot events outgrow any row cap: they are kept in minutes instead.
    counter = entity in {"event", "promoter"}
    return Aggregation(
        name=name,
        entity=entity,
        source="outcomes",
        function="count",
        window_us=_WINDOWS[window],
        filter=None if fraud is None else Filter("is_fraud", fraud),
        resolution_us=MINUTE_US if counter else 0,
        unit="orders",
        description=f"{'Outcomes' if fraud is None else 'Frauds'} of the {entity} that became "
        f"known in the last {window}",
        emit=emit,
    )


def _risk_view(entity: str) -> FeatureView:
    features: list[Feature] = []
    for window in ("1d", "7d", "30d"):
        features += [
            _outcomes(entity, window, f"known_outcomes_{window}"),
            _outcomes(entity, window, f"known_frauds_{window}", fraud=1, emit=False),
            Ratio(
                name=f"fraud_share_{window}",
                numerator=(f"known_frauds_{window}",),
                denominator=f"known_outcomes_{window}",
                description=f"Frauds among the {entity}'s outcomes known in the last {window}",
            ),
        ]
    return FeatureView(
        name=f"{entity}_risk",
        entity=entity,
        features=tuple(features),
        description=f"Fraud among the {entity}'s orders, by the time their outcomes became known.",
    )


def _sold(name: str, column: str, window_us: int, resolution_us: int, unit: str) -> Aggregation:
    return Aggregation(
        name=name,
        entity="event",
        source="transactions",
        function="sum",
        column=column,
        window_us=window_us,
        resolution_us=resolution_us,
        unit=unit,
        emit=False,
    )


EVENT_REALTIME_METRICS: Final = FeatureView(
    name="event_realtime_metrics",
    entity="event",
    description="What is happening at the ticketed event now, at a resolution of one minute.",
    features=(
        _sold("tickets_sold", "quantity", 365 * DAY_US, MINUTE_US, "tickets"),
        _sold("tickets_sold_5m", "quantity", 5 * MINUTE_US, MINUTE_US, "tickets"),
        Difference(
            name="current_inventory",
            minuend="capacity",
            subtrahend="tickets_sold",
            unit="tickets",
            description="Seats on sale minus tickets sold in the last 365d",
        ),
        Ratio(
            name="sell_through_rate_5min",
            numerator=("tickets_sold_5m",),
            denominator="capacity",
            description="Share of the capacity sold in the last 5 minutes",
        ),
        Aggregation(
            name="concurrent_viewers",
            entity="event",
            source="views",
            function="distinct",
            column="session_id",
            window_us=5 * MINUTE_US,
            unit="sessions",
            description="Sessions that looked at the event in the last 5 minutes",
        ),
    ),
)

EVENT_HISTORICAL_METRICS: Final = FeatureView(
    name="event_historical_metrics",
    entity="event",
    description="Sales of the ticketed event so far and the record of its promoter.",
    features=(
        Aggregation(
            name="total_tickets_sold",
            entity="event",
            source="transactions",
            function="sum",
            column="quantity",
            window_us=_WINDOWS["365d"],
            resolution_us=HOUR_US,
            unit="tickets",
            description="Tickets sold in the last 365d, by the hour",
        ),
        _sold("total_amount", "amount_cents", _WINDOWS["365d"], HOUR_US, "cents"),
        Ratio(
            name="avg_ticket_price",
            numerator=("total_amount",),
            denominator="total_tickets_sold",
            unit="cents",
            description="Amount by ticket over the last 365d, by the hour",
        ),
        _outcomes("promoter", "90d", "promoter_outcomes_90d", emit=False),
        _outcomes("promoter", "90d", "promoter_settled_90d", fraud=0, emit=False),
        Ratio(
            name="promoter_success_rate",
            numerator=("promoter_settled_90d",),
            denominator="promoter_outcomes_90d",
            description="Share of the promoter's outcomes known in the last 90d that settled",
        ),
    ),
)

USER_PURCHASE_BEHAVIOR: Final = FeatureView(
    name="user_purchase_behavior",
    entity="user",
    description="Long-term habits and record of the buyer's account.",
    features=(
        Aggregation(
            name="lifetime_purchases",
            entity="user",
            source="transactions",
            function="count",
            window_us=_WINDOWS["365d"],
            unit="orders",
            description="Orders of the user in the last 365d, the platform's memory",
        ),
        _outcomes("user", "365d", "outcomes_365d", emit=False),
        _outcomes("user", "365d", "frauds_365d", fraud=1, emit=False),
        Ratio(
            name="fraud_risk_score",
            numerator=("frauds_365d",),
            denominator="outcomes_365d",
            prior_numerator=FRAUD_PRIOR_FRAUDS,
            prior_denominator=FRAUD_PRIOR_ORDERS,
            description="Frauds among the user's outcomes known in 365d, shrunk towards 3 %",
        ),
        Aggregation(
            name="preferred_category",
            entity="user",
            source="transactions",
            function="mode",
            column="category_code",
            window_us=_WINDOWS["365d"],
            unit="code",
            description="Category the user ordered most in 365d, a position in CATEGORIES",
        ),
    ),
)

USER_REALTIME_FRAUD_FEATURES: Final = FeatureView(
    name="user_realtime_fraud_features",
    entity="user",
    description="How fast, how much and with how many cards and devices the account orders.",
    features=(
        *_orders("user", _VELOCITY),
        *_amounts("user", _VELOCITY),
        *_max_amounts("user", ("1d", "7d", "30d")),
        *_mean_amounts("user", ("1d", "7d", "30d")),
        Ratio(
            name="amount_to_mean_30d",
            numerator=("amount_cents", "order_count_30d"),
            denominator="amount_sum_30d",
            description="This order's amount by the user's mean order of the last 30d",
        ),
        *_distinct("user", "card", ("1d", "30d")),
        *_distinct("user", "device", ("1d", "30d")),
        *_distinct("user", "ip", ("1d",)),
        *_distinct("user", "event", ("1h", "1d", "7d")),
        Aggregation(
            name="declines_sum_1d",
            entity="user",
            source="transactions",
            function="sum",
            column="declines",
            window_us=_WINDOWS["1d"],
            unit="attempts",
            description="Declined payment attempts of the user in the last 1d",
        ),
        Aggregation(
            name="tickets_sum_1d",
            entity="user",
            source="transactions",
            function="sum",
            column="quantity",
            window_us=_WINDOWS["1d"],
            unit="tickets",
            description="Tickets the user ordered in the last 1d",
        ),
        _since("user"),
        Aggregation(
            name="refund_count_30d",
            entity="user",
            source="refunds",
            function="count",
            window_us=_WINDOWS["30d"],
            unit="refunds",
            description="Refunds of the user in the last 30d",
        ),
        Aggregation(
            name="refund_sum_30d",
            entity="user",
            source="refunds",
            function="sum",
            column="amount_cents",
            window_us=_WINDOWS["30d"],
            unit="cents",
            description="Amount refunded to the user in the last 30d",
        ),
        Aggregation(
            name="view_count_1h",
            entity="user",
            source="views",
            function="count",
            window_us=_WINDOWS["1h"],
            unit="views",
            description="Event pages the user looked at in the last 1h",
        ),
    ),
)

EVENT_VELOCITY: Final = FeatureView(
    name="event_velocity",
    entity="event",
    description="How fast and how much the ticketed event sells, at a resolution of one minute.",
    features=(
        *_orders("event", ("5m", "1h", "1d", "7d", "30d"), MINUTE_US),
        *_amounts("event", ("1d", "30d"), MINUTE_US),
        *_mean_amounts("event", ("1d", "30d")),
        Ratio(
            name="amount_to_mean_30d",
            numerator=("amount_cents", "order_count_30d"),
            denominator="amount_sum_30d",
            description="This order's amount by the event's mean order of the last 30d",
        ),
    ),
)

ORDER_CONTEXT: Final = FeatureView(
    name="order_context",
    entity=None,
    description="The order itself, without any history.",
    features=(
        RowFeature(name="amount", column="amount_cents", unit="cents", description="Total charged"),
        RowFeature(name="tickets", column="quantity", unit="tickets", description="Tickets"),
        RowFeature(name="tier_code", column="tier", unit="code", description="Position in TIERS"),
        RowFeature(
            name="channel_code", column="channel", unit="code", description="Position in CHANNELS"
        ),
        RowFeature(
            name="category", column="category_code", unit="code", description="In CATEGORIES"
        ),
        RowFeature(
            name="hour_of_day",
            column="known_ts",
            transform="hour_of_day",
            unit="hours",
            description="Hour of the day, UTC",
        ),
        RowFeature(
            name="day_of_week",
            column="known_ts",
            transform="day_of_week",
            unit="days",
            description="Day of the week, UTC, Monday is 0",
        ),
        RowFeature(
            name="is_weekend",
            column="known_ts",
            transform="weekend",
            unit="flag",
            description="1 on Saturday and Sunday, UTC",
        ),
        RowFeature(
            name="is_night",
            column="known_ts",
            transform="night",
            unit="flag",
            description="1 from 00:00 until 06:59 UTC",
        ),
        RowFeature(
            name="decline_count",
            column="declines",
            unit="attempts",
            description="Declined payment attempts before this order",
        ),
        RowFeature(
            name="avs_matched",
            column="avs_match",
            unit="flag",
            description="1 when the billing address matched the card's",
        ),
        RowFeature(
            name="accounts_on_device",
            column="device_accounts",
            unit="accounts",
            description="Accounts seen on the device",
        ),
        RowFeature(
            name="checkout_duration",
            column="checkout_ms",
            unit="milliseconds",
            description="Basket to payment",
        ),
        RowFeature(
            name="geo_distance",
            column="geo_distance_m",
            unit="metres",
            description="Network address to home",
        ),
        RowFeature(
            name="account_age",
            column="account_age_s",
            unit="seconds",
            description="Age of the account",
        ),
        Ratio(
            name="amount_per_ticket",
            numerator=("amount_cents",),
            denominator="quantity",
            unit="cents",
            description="Amount by ticket",
        ),
        Ratio(
            name="amount_to_list_price",
            numerator=("amount_cents",),
            denominator="list_price_cents",
            description="Amount by the event's standard price",
        ),
        Ratio(
            name="share_of_capacity",
            numerator=("quantity",),
            denominator="capacity",
            description="Tickets of this order by the event's seats",
        ),
        Difference(
            name="hours_to_event",
            minuend="starts_ts",
            subtrahend="known_ts",
            divisor=HOUR_US,
            unit="hours",
            description="Time until the event starts, negative once it has",
        ),
    ),
)

FEATURE_VIEWS: Final[tuple[FeatureView, ...]] = (
    EVENT_REALTIME_METRICS,
    EVENT_HISTORICAL_METRICS,
    USER_PURCHASE_BEHAVIOR,
    USER_REALTIME_FRAUD_FEATURES,
    _velocity_view("card", "one payment card"),
    _velocity_view("device", "one device"),
    _velocity_view("ip", "one network address"),
    EVENT_VELOCITY,
    *(_risk_view(entity) for entity in ("user", "event", "promoter", "card", "device")),
    ORDER_CONTEXT,
)
"""Every view of the platform."""

_BY_NAME: Final = {view.name: view for view in FEATURE_VIEWS}

ALL_FEATURES: Final = tuple(name for view in FEATURE_VIEWS for name in view.qualified_names)
"""Every feature as `view:feature`."""


def view(name: str) -> FeatureView:
    """The view called `name`; ContractError when there is none."""
    if name not in _BY_NAME:
        msg = f"unknown feature view {name!r}; defined: {sorted(_BY_NAME)}"
        raise ContractError(msg)
    return _BY_NAME[name]


def resolve(qualified: str) -> tuple[FeatureView, Feature]:
    """The view and feature behind `view:feature`; UnknownFeatureError when there is none."""
    view_name, _, feature_name = qualified.partition(":")
    found = _BY_NAME.get(view_name)
    if found is None or feature_name not in found.feature_names:
        raise UnknownFeatureError(missing=[qualified], known=ALL_FEATURES)
    return found, found.feature(feature_name)
