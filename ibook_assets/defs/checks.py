"""Checks that stand beside assets: visible in Dagster, on what is really stored."""

from typing import Final

import dagster as dg
from dagster_duckdb import DuckDBResource

from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.features.spec import FeatureView
from ibook_assets.defs.resources import LakeResource

SAMPLED_ORDERS: Final = 64
"""Orders of the newest day that the feature check recomputes in SQL."""


def feature_checks() -> list[dg.AssetChecksDefinition]:
    """For each feature view: stored values equal generated SQL, bit by bit."""
    return [_equals_sql(view) for view in FEATURE_VIEWS]


def _equals_sql(view: FeatureView) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=["features", view.name],
        name="equals_sql",
        description=(
            f"{SAMPLED_ORDERS} orders of the newest day, recomputed by DuckDB from the same "
            "definition, have the same bits."
        ),
    )
    def equals_sql(lake: LakeResource, duckdb: DuckDBResource) -> dg.AssetCheckResult:
        from ibook_assets.stores.feature_days import feature_table
        from ibook_assets.stores.feature_oracle import compare_with_sql

        day = lake.tables.partitions(feature_table(view))[-1]
        with duckdb.get_connection() as connection:
            found = compare_with_sql(lake.tables, view, day, connection, sample=SAMPLED_ORDERS)
        return dg.AssetCheckResult(
            passed=found.mismatches == 0,
            metadata={
                "day": day,
                "orders": found.orders,
                "values": found.values,
                "mismatches": found.mismatches,
                "features": list(found.features),
            },
        )

    return equals_sql
