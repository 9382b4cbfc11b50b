"""Families of features: the same aggregate over many windows, the same view for many entities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from ibook_assets.core.features.spec import (
    Aggregation,
    Feature,
    FeatureView,
    Filter,
    Ratio,
    RowFeature,
    Transform,
)
from ibook_assets.core.times import DAY_US, HOUR_US, MINUTE_US

WINDOWS: Final = {
    "1m": MINUTE_US,
    "5m": 5 * MINUTE_US,
    "1h": HOUR_US,
    "6h": 6 * HOUR_US,
    "1d": DAY_US,
    "3d": 3 * DAY_US,
    "7d": 7 * DAY_US,
    "30d": 30 * DAY_US,
    "90d": 90 * DAY_US,
    "365d": 365 * DAY_US,
}
VELOCITY: Final = ("1m", "5m", "1h", "6h", "1d", "7d", "30d")


def row(
    name: str, column: str, unit: str, meaning: str, transform: Transform = "value"
) -> RowFeature:
    """A column of the order itself."""
    return RowFeature(name=name, column=column, transform=transform, unit=unit, description=meaning)


def orders(
    entity: str, windows: Iterable[str], resolution_us: int = 0, *, emit: bool = True
) -> Iterator[Aggregation]:
    """Counts of the entity's orders."""
    for window in windows:
        yield Aggregation(
            name=f"order_count_{window}",
            entity=entity,
            source="transactions",
            function="count",
            window_us=WINDOWS[window],
            resolution_us=resolution_us,
            unit="orders",
            description=f"Orders of the {entity} in the last {window}",
            emit=emit,
        )


def amounts(entity: str, windows: Iterable[str], resolution_us: int = 0) -> Iterator[Aggregation]:
    """Sums of the entity's order amounts."""
    for window in windows:
        yield Aggregation(
            name=f"amount_sum_{window}",
            entity=entity,
            source="transactions",
            function="sum",
            column="amount_cents",
            window_us=WINDOWS[window],
            resolution_us=resolution_us,
            unit="cents",
            description=f"Amount ordered by or at the {entity} in the last {window}",
        )


def max_amounts(entity: str, windows: Iterable[str]) -> Iterator[Aggregation]:
    """Largest order amounts of the entity."""
    for window in windows:
        yield Aggregation(
            name=f"amount_max_{window}",
            entity=entity,
            source="transactions",
            function="max",
            column="amount_cents",
            window_us=WINDOWS[window],
            unit="cents",
            description=f"Largest order of the {entity} in the last {window}",
        )


def distinct(entity: str, what: str, windows: Iterable[str]) -> Iterator[Aggregation]:
    """Counts of different users, cards … (`what`) among the entity's orders."""
    for window in windows:
        yield Aggregation(
            name=f"distinct_{what}s_{window}",
            entity=entity,
            source="transactions",
            function="distinct",
            column=f"{what}_id",
            window_us=WINDOWS[window],
            unit=f"{what}s",
            description=f"Different {what}s among the orders of the {entity} in the last {window}",
        )


def since(entity: str) -> Aggregation:
    """Time since the entity's last order."""
    return Aggregation(
        name="seconds_since_order",
        entity=entity,
        source="transactions",
        function="since",
        window_us=WINDOWS["30d"],
        unit="seconds",
        description=f"Time since the last order of the {entity}, NaN without one in 30d",
    )


def mean_amounts(entity: str, windows: Iterable[str]) -> Iterator[Ratio]:
    """Mean order amounts, from the sums and counts of the same windows."""
    for window in windows:
        yield Ratio(
            name=f"amount_mean_{window}",
            numerator=(f"amount_sum_{window}",),
            denominator=f"order_count_{window}",
            unit="cents",
            description=f"Mean order of the {entity} in the last {window}",
        )


def velocity_view(entity: str, meaning: str) -> FeatureView:
    """The velocity view of a card, device or address."""
    features: list[Feature] = [
        *orders(entity, VELOCITY),
        *amounts(entity, ("1h", "1d", "7d", "30d")),
        *max_amounts(entity, ("1d", "30d")),
        *distinct(entity, "user", ("1h", "1d", "7d", "30d")),
        *distinct(entity, "event", ("1h", "1d")),
        since(entity),
    ]
    return FeatureView(
        name=f"{entity}_velocity",
        entity=entity,
        features=tuple(features),
        description=f"How fast, how much and for how many accounts {meaning} orders.",
    )


def outcomes(
    entity: str, window: str, name: str, *, fraud: int | None = None, emit: bool = True
) -> Aggregation:
    """A count of the entity's outcomes by the time they became known."""
    # Counters of promoters and hot events outgrow any row cap: they are kept in minutes instead.
    counter = entity in {"event", "promoter"}
    return Aggregation(
        name=name,
        entity=entity,
        source="outcomes",
        function="count",
        window_us=WINDOWS[window],
        filter=None if fraud is None else Filter("is_fraud", fraud),
        resolution_us=MINUTE_US if counter else 0,
        unit="orders",
        description=f"{'Outcomes' if fraud is None else 'Frauds'} of the {entity} that became "
        f"known in the last {window}",
        emit=emit,
    )


def risk_view(entity: str) -> FeatureView:
    """The fraud record of an entity."""
    features: list[Feature] = []
    for window in ("1d", "7d", "30d"):
        features += [
            outcomes(entity, window, f"known_outcomes_{window}"),
            outcomes(entity, window, f"known_frauds_{window}", fraud=1, emit=False),
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


def sold(name: str, column: str, window_us: int, resolution_us: int, unit: str) -> Aggregation:
    """A hidden sum over an event's sales, in buckets."""
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


def last_of(entity: str, column: str, unit: str, meaning: str) -> Aggregation:
    """A column of the entity's previous order."""
    return Aggregation(
        name=f"last_{column}",
        entity=entity,
        source="transactions",
        function="last",
        column=column,
        window_us=WINDOWS["365d"],
        unit=unit,
        description=f"{meaning} of the {entity}'s previous order",
    )


def means_of(
    entity: str, column: str, windows: Iterable[str], unit: str, meaning: str
) -> Iterator[Feature]:
    """Means of a column over the entity's orders; the sums behind them are not emitted.

    The view must count the orders of the same windows as `orders` does.
    """
    for window in windows:
        yield Aggregation(
            name=f"{column}_sum_{window}",
            entity=entity,
            source="transactions",
            function="sum",
            column=column,
            window_us=WINDOWS[window],
            emit=False,
        )
        yield Ratio(
            name=f"{column}_mean_{window}",
            numerator=(f"{column}_sum_{window}",),
            denominator=f"order_count_{window}",
            unit=unit,
            description=f"{meaning}, mean over the {entity}'s orders of the last {window}",
        )


def maxima_of(
    entity: str, column: str, windows: Iterable[str], unit: str, meaning: str
) -> Iterator[Aggregation]:
    """Largest values of a column among the entity's orders."""
    for window in windows:
        yield Aggregation(
            name=f"{column}_max_{window}",
            entity=entity,
            source="transactions",
            function="max",
            column=column,
            window_us=WINDOWS[window],
            unit=unit,
            description=f"{meaning}, largest among the {entity}'s orders of the last {window}",
        )
