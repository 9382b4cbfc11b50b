"""Fact assets: raw rows deduplicated and joined with what features need."""

from collections.abc import Iterator

import dagster as dg

from ibook_assets.core.fact_rules import ID_LOOKBACK_DAYS, ORDER_LOOKBACK_DAYS
from ibook_assets.core.facts import FACT_TABLES
from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import OUTCOMES, REFUNDS, TRANSACTIONS, VIEWS, TableSpec
from ibook_assets.core.times import DAY_US
from ibook_assets.defs.metadata import rows_by_day, summary, table_schema
from ibook_assets.defs.partitions import DATA_PLATFORM, FACTS, SINGLE_RUN, daily, looking_back
from ibook_assets.defs.resources import LakeResource
from ibook_assets.defs.runs import fails_fast, feature_retries, live_run_check

_IDS = looking_back(ID_LOOKBACK_DAYS * DAY_US)
_ORDERS = looking_back(ORDER_LOOKBACK_DAYS * DAY_US)
_FACT_ORDERS = dg.AssetDep(["facts", TRANSACTIONS.name], partition_mapping=_ORDERS)

DEPENDENCIES = {
    TRANSACTIONS.name: [
        dg.AssetDep(["raw", TRANSACTIONS.name], partition_mapping=_IDS),
        dg.AssetDep(["raw", "events"]),
    ],
    VIEWS.name: [dg.AssetDep(["raw", VIEWS.name])],
    REFUNDS.name: [dg.AssetDep(["raw", REFUNDS.name], partition_mapping=_IDS), _FACT_ORDERS],
    OUTCOMES.name: [dg.AssetDep(["raw", OUTCOMES.name]), _FACT_ORDERS],
}
"""What each fact table reads, as `core.fact_rules` documents it."""


def fact_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """One daily asset for each fact table."""
    return [_fact_table(spec, settings) for spec in FACT_TABLES]


def _fact_table(spec: TableSpec, settings: Settings) -> dg.AssetsDefinition:
    @dg.asset(
        key=["facts", spec.name],
        deps=DEPENDENCIES[spec.name],
        group_name=FACTS,
        owners=[DATA_PLATFORM],
        kinds={"parquet"},
        description=spec.description,
        partitions_def=daily(settings),
        backfill_policy=SINGLE_RUN,
        retry_policy=feature_retries(settings),
        metadata={"dagster/column_schema": table_schema(spec)},
    )
    @fails_fast
    def table(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult[None]:
        from ibook_assets.stores.bulk import Write, write_all
        from ibook_assets.stores.fact_days import FACT_DAYS

        counts = {}

        def writes() -> Iterator[Write]:
            for day, facts in FACT_DAYS[spec.name](lake.tables, context.partition_keys):
                counts[day] = facts.counts
                yield Write(f"facts/{spec.name}", day, facts.table, spec)

        receipts = list(write_all(lake.tables, writes(), precommit=live_run_check(context)))
        for day, receipt in zip(counts, receipts, strict=True):
            context.add_asset_metadata({**summary(receipt), **counts[day]}, partition_key=day)
        return dg.MaterializeResult(metadata={"rows_by_day": rows_by_day(receipts)})

    return table
