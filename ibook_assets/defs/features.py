"""Feature assets: one daily asset a view, versioned by the hash of its definition."""

import dagster as dg

from ibook_assets.core.facts import FACT_TRANSACTIONS
from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.features.engine import lookback_us, required_sources
from ibook_assets.core.features.spec import FeatureView
from ibook_assets.core.settings import Settings
from ibook_assets.defs.metadata import preview, rows_by_day, summary, view_schema
from ibook_assets.defs.partitions import FEATURES, SINGLE_RUN, daily, looking_back
from ibook_assets.defs.resources import LakeResource
from ibook_assets.defs.runs import fails_fast, feature_retries, live_run_check


def feature_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """One asset for each view of the catalogue."""
    return [_feature_view(view, settings) for view in FEATURE_VIEWS]


def _feature_view(view: FeatureView, settings: Settings) -> dg.AssetsDefinition:
    reach = looking_back(lookback_us(view))
    sources = {FACT_TRANSACTIONS.name, *required_sources(view)}

    @dg.asset(
        key=["features", view.name],
        deps=[dg.AssetDep(["facts", name], partition_mapping=reach) for name in sorted(sources)],
        group_name=FEATURES,
        owners=[view.owner],
        kinds={"parquet", "numba"},
        description=view.description,
        code_version=view.spec_hash[:16],
        partitions_def=daily(settings),
        backfill_policy=SINGLE_RUN,
        retry_policy=feature_retries(settings),
        metadata={"dagster/column_schema": view_schema(view), "entity": view.entity or "order"},
    )
    @fails_fast
    def features(
        context: dg.AssetExecutionContext, lake: LakeResource
    ) -> dg.MaterializeResult[None]:
        from ibook_assets.stores.bulk import Write, write_all
        from ibook_assets.stores.feature_days import feature_days, feature_table

        days = feature_days(lake.tables, view, context.partition_keys)
        writes = (Write(feature_table(view), day, values) for day, values in days)
        receipts = list(write_all(lake.tables, writes, precommit=live_run_check(context)))
        for receipt in receipts:
            context.add_asset_metadata(summary(receipt), partition_key=receipt.partition)
        newest = lake.tables.read_files(receipts[-1:])
        return dg.MaterializeResult(
            metadata={"rows_by_day": rows_by_day(receipts), "preview": preview(newest)}
        )

    return features
