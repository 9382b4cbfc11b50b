"""Ground truth of the simulated world: for judging models, out of reach of every feature."""

from datetime import date

import dagster as dg

from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import TRUTH_ORDERS
from ibook_assets.defs.metadata import rows_by_day, summary, table_schema
from ibook_assets.defs.partitions import DATA_PLATFORM, SINGLE_RUN, TRUTH, daily
from ibook_assets.defs.resources import LakeResource
from ibook_assets.defs.runs import fails_fast, feature_retries, live_run_check
from ibook_assets.defs.sources import RawSource


def truth_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """The truth beside each order; none for a source of real data."""
    return [_orders(settings)] if settings.source == "simulator" else []


def _orders(settings: Settings) -> dg.AssetsDefinition:
    @dg.asset(
        key=["truth", TRUTH_ORDERS.name],
        group_name=TRUTH,
        owners=[DATA_PLATFORM],
        kinds={"parquet"},
        description=TRUTH_ORDERS.description,
        partitions_def=daily(settings),
        backfill_policy=SINGLE_RUN,
        retry_policy=feature_retries(settings),
        metadata={"dagster/column_schema": table_schema(TRUTH_ORDERS)},
    )
    @fails_fast
    def orders(
        context: dg.AssetExecutionContext, lake: LakeResource, source: dg.ResourceParam[RawSource]
    ) -> dg.MaterializeResult[None]:
        from ibook_assets.stores.bulk import Write, write_all

        truths = source.truth([date.fromisoformat(day) for day in context.partition_keys])
        writes = (
            Write(f"truth/{TRUTH_ORDERS.name}", day.isoformat(), truth, TRUTH_ORDERS)
            for day, truth in truths.items()
        )
        receipts = list(write_all(lake.tables, writes, precommit=live_run_check(context)))
        for receipt in receipts:
            context.add_asset_metadata(summary(receipt), partition_key=receipt.partition)
        return dg.MaterializeResult(metadata={"rows_by_day": rows_by_day(receipts)})

    return orders
