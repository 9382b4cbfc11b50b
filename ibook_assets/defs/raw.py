"""Raw assets: what arrived, validated, one partition a day of knowledge time."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

import dagster as dg

from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import EVENTS, RAW_TABLES, TableSpec
from ibook_assets.defs.landing import Landed, Landing
from ibook_assets.defs.metadata import preview, records, rows_by_day, summary, table_schema
from ibook_assets.defs.partitions import DATA_PLATFORM, LOG, RAW, SINGLE_RUN, daily
from ibook_assets.defs.resources import LakeResource
from ibook_assets.defs.runs import fails_fast, feature_retries, live_run_check
from ibook_assets.defs.sources import RawSource

NOTHING_QUARANTINED: Final = "nothing_quarantined"


FRESH: Final = dg.FreshnessPolicy.time_window(
    fail_window=timedelta(hours=26), warn_window=timedelta(hours=25)
)
"""Raw tables out of the log: a day lands within an hour of its end, or else somebody looks."""


def raw_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """The catalogue of ticketed events, and the daily tables."""
    return [_catalogue(settings), _raw_tables(settings)]


def log_deps(spec: TableSpec, settings: Settings) -> list[dg.AssetKey]:
    """The topic a raw table is landed from; none while the log feeds nothing."""
    return [dg.AssetKey([LOG, spec.name])] if settings.log_from else []


def _catalogue(settings: Settings) -> dg.AssetsDefinition:
    @dg.asset(
        key=["raw", EVENTS.name],
        deps=log_deps(EVENTS, settings),
        group_name=RAW,
        owners=[DATA_PLATFORM],
        kinds={"parquet"},
        description=EVENTS.description,
        # A policy, so that a command can materialise it in one run with a range of days.
        backfill_policy=SINGLE_RUN,
        retry_policy=feature_retries(settings),
        metadata={"dagster/column_schema": table_schema(EVENTS)},
    )
    @fails_fast
    def events(
        context: dg.AssetExecutionContext, lake: LakeResource, source: dg.ResourceParam[RawSource]
    ) -> dg.MaterializeResult[None]:
        from ibook_assets.stores.contracts import validate

        checked = validate(source.catalogue(), EVENTS, source=source.label)
        receipt = lake.tables.write(
            f"raw/{EVENTS.name}",
            None,
            checked.accepted,
            spec=EVENTS,
            precommit=live_run_check(context),
        )
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": receipt.rows,
                "sha256": receipt.sha256,
                "preview": preview(checked.accepted),
            },
            data_version=dg.DataVersion(receipt.sha256),
        )

    return events


def _raw_tables(settings: Settings) -> dg.AssetsDefinition:
    keys = {spec.name: dg.AssetKey(["raw", spec.name]) for spec in RAW_TABLES}

    # One step lands all tables of a day: a simulated day and a file's slice are made once.
    @dg.multi_asset(
        name="raw_tables",
        specs=[
            dg.AssetSpec(
                keys[spec.name],
                group_name=RAW,
                owners=[DATA_PLATFORM],
                kinds={"parquet"},
                description=spec.description,
                metadata={"dagster/column_schema": table_schema(spec)},
                deps=log_deps(spec, settings),
                freshness_policy=FRESH if settings.log_from else None,
            )
            for spec in RAW_TABLES
        ],
        check_specs=[
            dg.AssetCheckSpec(NOTHING_QUARANTINED, asset=key, description="No row was refused.")
            for key in keys.values()
        ],
        can_subset=True,
        partitions_def=daily(settings),
        backfill_policy=SINGLE_RUN,
        retry_policy=feature_retries(settings),
    )
    @fails_fast
    def tables(
        context: dg.AssetExecutionContext, lake: LakeResource, source: dg.ResourceParam[RawSource]
    ) -> Iterator[dg.MaterializeResult[None]]:
        chosen = [spec for spec in RAW_TABLES if keys[spec.name] in context.selected_asset_keys]
        landing = Landing(source, chosen, context.partition_keys)
        landing.run(lake.tables, precommit=live_run_check(context))
        for spec in chosen:
            yield landed_result(context, keys[spec.name], landing.of(spec))

    return tables


def landed_result(
    context: dg.AssetExecutionContext, key: dg.AssetKey, landed: list[Landed]
) -> dg.MaterializeResult[None]:
    """What a step shows of the days it landed, and whether any of their rows was refused."""
    for one in landed:
        context.add_asset_metadata(
            {
                **summary(one.receipt),
                "quarantined_rows": sum(one.refused.values()),
                "repeated_rows": one.repeated,
            },
            asset_key=key,
            partition_key=one.day,
        )
    refused = [
        {"day": one.day, "reason": reason, "rows": rows}
        for one in landed
        for reason, rows in one.refused.items()
    ]
    return dg.MaterializeResult(
        asset_key=key,
        metadata={"rows_by_day": rows_by_day([one.receipt for one in landed])},
        check_results=[
            dg.AssetCheckResult(
                check_name=NOTHING_QUARANTINED,
                asset_key=key,
                passed=not refused,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"refused": records(refused)} if refused else {},
            )
        ],
    )
