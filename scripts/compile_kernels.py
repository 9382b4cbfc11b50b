"""Compile the Numba kernels once, at installation: the first run then starts at full speed."""

from __future__ import annotations

from datetime import date

import numpy as np
import xgboost as xgb

from ibook_assets.core.fact_rules import build_outcomes, build_transactions, build_views
from ibook_assets.core.facts import FACT_REFUNDS
from ibook_assets.core.features.catalog import ALL_FEATURES, FEATURE_VIEWS
from ibook_assets.core.features.engine import compute_view
from ibook_assets.core.features.packing import in_known_order, pack_keys, pack_rows
from ibook_assets.core.features.plan import layouts_of
from ibook_assets.core.times import day_start_us
from ibook_assets.models.flat_trees import proven_trees
from ibook_assets.stores.online import RowsOnly
from ibook_assets.stores.online.merging import merge_all
from ibook_sim.world import World, WorldConfig


def main() -> None:
    """Run every kernel on one small day; Numba keeps what it compiles in its cache."""
    world = World(WorldConfig(users=200, events=10, orders_per_day=40))
    day = date(2026, 1, 5)
    raw, events = world.day(day), world.catalogue(day).events
    world.truth([day])
    world.expected_sales(0)
    earlier = raw.transactions["transaction_id"].slice(0, 0)
    orders = build_transactions(raw.transactions, earlier_ids=earlier, events=events).table
    sources = {
        "transactions": orders,
        "views": build_views(raw.views).table,
        "refunds": FACT_REFUNDS.schema.empty_table(),
        "outcomes": build_outcomes(raw.outcomes, orders=orders).table,
    }
    for view in FEATURE_VIEWS:
        compute_view(view, sources, orders)
    for layout in layouts_of(FEATURE_VIEWS):
        table = in_known_order(sources[layout.source], layout.source)
        pack_keys(table, layout, day_start_us(day))
        ids, rows, starts = pack_rows(table, layout)
        merge_all([None] * len(ids), rows, starts, layout, 0)
    RowsOnly().fetch(ALL_FEATURES, [{"user_id": 1}])
    numbers = np.arange(8, dtype=np.float32)[:, None]
    proven_trees(xgb.train({"nthread": 1}, xgb.DMatrix(numbers, numbers), num_boost_round=1))


if __name__ == "__main__":
    main()
