"""Raw assets: what arrived, validated, one partition a day of knowledge time."""

import time
from datetime import date

import dagster as dg

from ibook_assets.core.quarantine import quarantine_spec
from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import EVENTS, RAW_TABLES, TableSpec
from ibook_assets.defs.metadata import daily_plot, preview, records, table_schema
from ibook_assets.defs.partitions import DATA_PLATFORM, RAW, SINGLE_RUN, daily
from ibook_assets.defs.resources import LakeResource
from ibook_assets.defs.runs import fails_fast, feature_retries, live_run_check
from ibook_assets.defs.sources import RawSource


def raw_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """The catalogue of ticketed events, and one daily asset for each raw table."""
    return [_catalogue(settings), *(_raw_table(spec, settings) for spec in RAW_TABLES)]


def _catalogue(settings: Settings) -> dg.AssetsDefinition:
    @dg.asset(
        key=["raw", EVENTS.name],
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
    ) -> dg.MaterializeResult:
        from ibook_assets.stores.contracts import validate

        checked = validate(source.catalogue(), EVENTS, source=source.label)
        receipt = lake.tables.write(
            "raw/events", None, checked.accepted, spec=EVENTS, precommit=live_run_check(context)
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


def _raw_table(spec: TableSpec, settings: Settings) -> dg.AssetsDefinition:
    key = dg.AssetKey(["raw", spec.name])
    quarantine = quarantine_spec(spec)

    @dg.asset(
        key=key,
        group_name=RAW,
        owners=[DATA_PLATFORM],
        kinds={"parquet"},
        description=spec.description,
        partitions_def=daily(settings),
        backfill_policy=SINGLE_RUN,
        retry_policy=feature_retries(settings),
        metadata={"dagster/column_schema": table_schema(spec)},
        check_specs=[
            dg.AssetCheckSpec("nothing_quarantined", asset=key, description="No row was refused.")
        ],
    )
    @fails_fast
    def table(
        context: dg.AssetExecutionContext, lake: LakeResource, source: dg.ResourceParam[RawSource]
    ) -> dg.MaterializeResult:
        from ibook_assets.stores.contracts import validate

        commit = live_run_check(context)
        days, accepted, refused = context.partition_keys, [], {}
        for day in days:
            delivery = source.delivery(spec, date.fromisoformat(day))
            checked = validate(
                delivery.rows,
                spec,
                source=f"{source.label}, {day}",
                day=date.fromisoformat(day),
                now_us=time.time_ns() // 1_000,
                rejected=delivery.rejected,
            )
            lake.tables.write(
                f"quarantine/{spec.name}",
                day,
                checked.quarantined,
                spec=quarantine,
                precommit=commit,
            )
            receipt = lake.tables.write(
                f"raw/{spec.name}", day, checked.accepted, spec=spec, precommit=commit
            )
            refused[day] = dict(checked.counts)
            accepted.append(receipt.rows)
            context.add_asset_metadata(
                {
                    "dagster/row_count": receipt.rows,
                    "sha256": receipt.sha256,
                    "quarantined_rows": checked.quarantined.num_rows,
                    "repeated_rows": checked.repeated,
                },
                partition_key=day,
            )
        reasons = [
            {"day": day, "reason": reason, "rows": rows}
            for day, counts in refused.items()
            for reason, rows in counts.items()
        ]
        return dg.MaterializeResult(
            metadata={
                "rows_by_day": daily_plot(days, {"rows": accepted}),
                "preview": preview(checked.accepted),
            },
            check_results=[
                dg.AssetCheckResult(
                    check_name="nothing_quarantined",
                    passed=not reasons,
                    severity=dg.AssetCheckSeverity.WARN,
                    metadata={"refused": records(reasons)} if reasons else {},
                )
            ],
        )

    return table
