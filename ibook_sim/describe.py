"""What a world looks like, in numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date

import numpy as np

from ibook_assets.core.metrics import average_precision
from ibook_assets.core.tables import ARCHETYPES, CATEGORIES
from ibook_sim.world import World, WorldConfig, days_from


@dataclass(frozen=True, slots=True)
class Description:
    """Counts and the attainable performance of a stretch of days."""

    first_day: date
    days: int
    orders: int
    orders_per_day_min: int
    orders_per_day_max: int
    accounts_ordering: int
    events_on_sale: int
    orders_by_category: dict[str, int]
    tickets: int
    revenue_cents: int
    fraud_orders: int
    fraud_share: float
    fraud_by_archetype: dict[str, int]
    oracle_average_precision: float
    """Average precision of the exact posterior: no model can expect more."""
    row_average_precision: float
    """The same from each order's own columns alone."""

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)


def describe(
    config: WorldConfig, days: int, *, advance: Callable[[int], None] = lambda _: None
) -> Description:
    """Look at the first `days` days of the world of `config`; `advance` is called each day."""
    world = World(config)
    dates = days_from(config.start_date, days)
    orders = []
    for day in dates:
        orders.append(world.orders(day))
        advance(1)
    truth = list(world.truth(dates).values())
    archetype = np.concatenate([np.asarray(t["archetype"]) for t in truth])
    fraud = archetype > 0
    events = world.catalogue(dates[-1]).events
    event = np.concatenate([o.event_id for o in orders])
    kind = events["category"].to_numpy(zero_copy_only=False)[event]

    def score(column: str) -> float:
        return average_precision(
            fraud.astype(np.int64), np.concatenate([np.asarray(t[column]) for t in truth])
        )

    per_day = [o.row.size for o in orders]
    ends = np.asarray(events["starts_ts"]) >= orders[0].known_ts.min()
    return Description(
        first_day=config.start_date,
        days=days,
        orders=archetype.size,
        orders_per_day_min=min(per_day),
        orders_per_day_max=max(per_day),
        accounts_ordering=np.unique(np.concatenate([o.account for o in orders])).size,
        events_on_sale=int(ends.sum()),
        orders_by_category={name: int((kind == name).sum()) for name in CATEGORIES},
        tickets=int(sum(o.quantity.sum() for o in orders)),
        revenue_cents=int(sum(o.amount_cents.sum() for o in orders)),
        fraud_orders=int(fraud.sum()),
        fraud_share=float(fraud.mean()),
        fraud_by_archetype={
            name: int((archetype == code).sum()) for code, name in enumerate(ARCHETYPES) if code
        },
        oracle_average_precision=score("posterior"),
        row_average_precision=score("row_posterior"),
    )
