"""Raw assets: what arrived, validated, one partition a day of knowledge time."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
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

NOTHING_QUARANTINED = "nothing_quarantined"


def raw_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """The catalogue of ticketed events, and the daily tables."""
    return [_catalogue(settings), _raw_tables(settings)]


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


@dataclass
class _Landed:
    """What a run landed in one table."""

    rows: list[int] = field(default_factory=list[int])
    refused: list[dict[str, object]] = field(default_factory=list[dict[str, object]])


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
        landed = {spec.name: _Landed() for spec in chosen}
        for day in context.partition_keys:
            for spec in chosen:
                _land(context, lake, source, spec, day, landed[spec.name])
        for spec in chosen:
            yield _result(keys[spec.name], context.partition_keys, landed[spec.name])

    return tables


def _land(
    context: dg.AssetExecutionContext,
    lake: LakeResource,
    source: RawSource,
    spec: TableSpec,
    day: str,
    landed: _Landed,
) -> None:
    from ibook_assets.stores.contracts import validate

    commit = live_run_check(context)
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
        spec=quarantine_spec(spec),
        precommit=commit,
    )
    receipt = lake.tables.write(
        f"raw/{spec.name}", day, checked.accepted, spec=spec, precommit=commit
    )
    landed.rows.append(receipt.rows)
    landed.refused += [{"day": day, "reason": r, "rows": n} for r, n in checked.counts.items()]
    context.add_asset_metadata(
        {
            "dagster/row_count": receipt.rows,
            "sha256": receipt.sha256,
            "quarantined_rows": checked.quarantined.num_rows,
            "repeated_rows": checked.repeated,
        },
        asset_key=dg.AssetKey(["raw", spec.name]),
        partition_key=day,
    )


def _result(key: dg.AssetKey, days: list[str], landed: _Landed) -> dg.MaterializeResult[None]:
    refused = {"refused": records(landed.refused)} if landed.refused else {}
    return dg.MaterializeResult(
        asset_key=key,
        metadata={"rows_by_day": daily_plot(days, {"rows": landed.rows})},
        check_results=[
            dg.AssetCheckResult(
                check_name=NOTHING_QUARANTINED,
                asset_key=key,
                passed=not landed.refused,
                severity=dg.AssetCheckSeverity.WARN,
                metadata=refused,
            )
        ],
    )
