"""What is measured: a view that suits SQL best, and one with everything velocity needs."""

from __future__ import annotations

from ibook_assets.core.features.catalog import view
from ibook_assets.core.features.spec import Aggregation, FeatureView
from ibook_assets.core.times import DAY_US, HOUR_US, MINUTE_US

WINDOWS = {
    "1m": MINUTE_US,
    "5m": 5 * MINUTE_US,
    "1h": HOUR_US,
    "1d": DAY_US,
    "7d": 7 * DAY_US,
    "30d": 30 * DAY_US,
}

COUNTS_AND_SUMS = FeatureView(
    name="counts_and_sums",
    entity="user",
    description="Count and sum of the user's orders over six windows: 12 features.",
    features=tuple(
        Aggregation(
            name=f"{function}_{name}",
            entity="user",
            source="transactions",
            function=function,
            column="amount_cents" if function == "sum" else None,
            window_us=window,
        )
        for name, window in WINDOWS.items()
        for function in ("count", "sum")
    ),
)

VIEWS = {v.name: v for v in (COUNTS_AND_SUMS, view("card_velocity"), view("user_risk"))}
