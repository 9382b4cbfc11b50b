"""The feature catalogue: the one place where features are defined.

To add a feature, add it to a view below. Its batch values, its online values, its documentation
and its version all follow from the spec.
"""

from __future__ import annotations

from typing import Final

from ibook_assets.core.errors import ContractError, UnknownFeatureError
from ibook_assets.core.features.families import (
    VELOCITY,
    WINDOWS,
    amounts,
    distinct,
    last_of,
    max_amounts,
    maxima_of,
    mean_amounts,
    means_of,
    orders,
    outcomes,
    risk_view,
    row,
    since,
    sold,
    velocity_view,
)
from ibook_assets.core.features.spec import (
    Aggregation,
    Difference,
    Feature,
    FeatureView,
    Ratio,
)
from ibook_assets.core.times import DAY_US, HOUR_US, MINUTE_US

FRAUD_PRIOR_ORDERS: Final = 100
"""Weight of the prior in `fraud_risk_score`, in orders."""
FRAUD_PRIOR_FRAUDS: Final = 3
"""Frauds among the prior's orders: a user without outcomes scores 3 %."""


EVENT_REALTIME_METRICS: Final = FeatureView(
    name="event_realtime_metrics",
    entity="event",
    description="What is happening at the ticketed event now, at a resolution of one minute.",
    features=(
        sold("tickets_sold", "quantity", 365 * DAY_US, MINUTE_US, "tickets"),
        sold("tickets_sold_5m", "quantity", 5 * MINUTE_US, MINUTE_US, "tickets"),
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
            window_us=WINDOWS["365d"],
            resolution_us=HOUR_US,
            unit="tickets",
            description="Tickets sold in the last 365d, by the hour",
        ),
        sold("total_amount", "amount_cents", WINDOWS["365d"], HOUR_US, "cents"),
        Ratio(
            name="avg_ticket_price",
            numerator=("total_amount",),
            denominator="total_tickets_sold",
            unit="cents",
            description="Amount by ticket over the last 365d, by the hour",
        ),
        outcomes("promoter", "90d", "promoter_outcomes_90d", emit=False),
        outcomes("promoter", "90d", "promoter_settled_90d", fraud=0, emit=False),
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
            window_us=WINDOWS["365d"],
            unit="orders",
            description="Orders of the user in the last 365d, the platform's memory",
        ),
        outcomes("user", "365d", "outcomes_365d", emit=False),
        outcomes("user", "365d", "frauds_365d", fraud=1, emit=False),
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
            window_us=WINDOWS["365d"],
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
        *orders("user", VELOCITY),
        *amounts("user", VELOCITY),
        *max_amounts("user", ("1d", "7d", "30d")),
        *mean_amounts("user", ("1d", "7d", "30d")),
        Ratio(
            name="amount_to_mean_30d",
            numerator=("amount_cents", "order_count_30d"),
            denominator="amount_sum_30d",
            description="This order's amount by the user's mean order of the last 30d",
        ),
        *distinct("user", "card", ("1d", "30d")),
        *distinct("user", "device", ("1d", "30d")),
        *distinct("user", "ip", ("1d",)),
        *distinct("user", "event", ("1h", "1d", "7d")),
        Aggregation(
            name="declines_sum_1d",
            entity="user",
            source="transactions",
            function="sum",
            column="declines",
            window_us=WINDOWS["1d"],
            unit="attempts",
            description="Declined payment attempts of the user in the last 1d",
        ),
        Aggregation(
            name="tickets_sum_1d",
            entity="user",
            source="transactions",
            function="sum",
            column="quantity",
            window_us=WINDOWS["1d"],
            unit="tickets",
            description="Tickets the user ordered in the last 1d",
        ),
        since("user"),
        Aggregation(
            name="refund_count_30d",
            entity="user",
            source="refunds",
            function="count",
            window_us=WINDOWS["30d"],
            unit="refunds",
            description="Refunds of the user in the last 30d",
        ),
        Aggregation(
            name="refund_sum_30d",
            entity="user",
            source="refunds",
            function="sum",
            column="amount_cents",
            window_us=WINDOWS["30d"],
            unit="cents",
            description="Amount refunded to the user in the last 30d",
        ),
        Aggregation(
            name="view_count_1h",
            entity="user",
            source="views",
            function="count",
            window_us=WINDOWS["1h"],
            unit="views",
            description="Event pages the user looked at in the last 1h",
        ),
    ),
)

_SIGNALS: Final = {
    "declines": ("attempts", "Declined payment attempts"),
    "avs_match": ("share", "Billing address matched"),
    "device_accounts": ("accounts", "Accounts on the device"),
    "checkout_ms": ("milliseconds", "Basket to payment"),
    "geo_distance_m": ("metres", "Network address to home"),
}
"""Columns that say how an order was placed: unit and meaning."""

_RECENT: Final = ("1d", "3d", "7d", "30d")

USER_RECENT_ORDERS: Final = FeatureView(
    name="user_recent_orders",
    entity="user",
    description="How the account placed its previous orders: a stranger orders differently.",
    features=(
        *orders("user", (*_RECENT, "365d"), emit=False),
        *(last_of("user", column, *said) for column, said in _SIGNALS.items()),
        last_of("user", "amount_cents", "cents", "Amount"),
        last_of("user", "quantity", "tickets", "Tickets"),
        last_of("user", "tier", "code", "Price tier, a position in TIERS,"),
        *(
            feature
            for column, said in _SIGNALS.items()
            for feature in means_of("user", column, _RECENT, *said)
        ),
        *maxima_of("user", "declines", ("1d", "7d"), *_SIGNALS["declines"]),
        *maxima_of("user", "geo_distance_m", ("1d", "7d"), *_SIGNALS["geo_distance_m"]),
        *maxima_of("user", "quantity", ("1d", "7d"), "tickets", "Tickets"),
        Ratio(
            name="orders_per_second_of_account",
            numerator=("order_count_365d",),
            denominator="account_age_s",
            unit="orders per second",
            description="Orders of the last 365d by the age of the account",
        ),
    ),
)

EVENT_VELOCITY: Final = FeatureView(
    name="event_velocity",
    entity="event",
    description="How fast and how much the ticketed event sells, at a resolution of one minute.",
    features=(
        *orders("event", ("5m", "1h", "1d", "7d", "30d"), MINUTE_US),
        *amounts("event", ("1d", "30d"), MINUTE_US),
        *mean_amounts("event", ("1d", "30d")),
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
        row("amount", "amount_cents", "cents", "Total charged"),
        row("tickets", "quantity", "tickets", "Tickets"),
        row("tier_code", "tier", "code", "Position in TIERS"),
        row("channel_code", "channel", "code", "Position in CHANNELS"),
        row("category", "category_code", "code", "In CATEGORIES"),
        row("hour_of_day", "known_ts", "hours", "Hour of the day, UTC", "hour_of_day"),
        row("day_of_week", "known_ts", "days", "Day of the week, UTC, Monday is 0", "day_of_week"),
        row("is_weekend", "known_ts", "flag", "1 on Saturday and Sunday, UTC", "weekend"),
        row("is_night", "known_ts", "flag", "1 from 00:00 until 06:59 UTC", "night"),
        row("decline_count", "declines", "attempts", "Declined payment attempts before this order"),
        row("avs_matched", "avs_match", "flag", "1 when the billing address matched the card's"),
        row("accounts_on_device", "device_accounts", "accounts", "Accounts seen on the device"),
        row("checkout_duration", "checkout_ms", "milliseconds", "Basket to payment"),
        row("geo_distance", "geo_distance_m", "metres", "Network address to home"),
        row("account_age", "account_age_s", "seconds", "Age of the account"),
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
    USER_RECENT_ORDERS,
    velocity_view("card", "one payment card"),
    velocity_view("device", "one device"),
    velocity_view("ip", "one network address"),
    EVENT_VELOCITY,
    *(risk_view(entity) for entity in ("user", "event", "promoter", "card", "device")),
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
