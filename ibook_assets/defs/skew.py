"""Online against batch: logged feature vectors, and what they say differently from batch."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import dagster as dg

from ibook_assets.core.settings import Settings
from ibook_assets.core.skew import FEATURE_SKEW, KINDS, Skew
from ibook_assets.core.tables import FEATURE_LOG
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.defs.landing import Landing
from ibook_assets.defs.metadata import daily_plot, records, summary, table_schema
from ibook_assets.defs.partitions import LOG, ML_PLATFORM, MONITORING, RAW, SINGLE_RUN, daily
from ibook_assets.defs.raw import NOTHING_QUARANTINED, landed_result
from ibook_assets.defs.resources import LakeResource
from ibook_assets.defs.runs import fails_fast, feature_retries, live_run_check
from ibook_assets.defs.sources import LandedLog

NO_SKEW: Final = "no_skew"

ROWS_SHOWN: Final = 50
"""Offending orders shown beside the counts; the lake's table has all."""

DAYS_SHOWN: Final = 30
"""Days whose counts are plotted."""


def skew_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """The log of vectors, and its comparison with batch."""
    return [_feature_log(settings), _feature_skew(settings)]


def _feature_log(settings: Settings) -> dg.AssetsDefinition:
    key = dg.AssetKey([RAW, FEATURE_LOG.name])

    @dg.asset(
        key=key,
        deps=[[LOG, FEATURE_LOG.name]],
        group_name=RAW,
        owners=[ML_PLATFORM],
        kinds={"parquet"},
        description=FEATURE_LOG.description,
        partitions_def=daily(settings),
        backfill_policy=SINGLE_RUN,
        retry_policy=feature_retries(settings),
        metadata={"dagster/column_schema": table_schema(FEATURE_LOG)},
        check_specs=[
            dg.AssetCheckSpec(
                NOTHING_QUARANTINED, asset=key, description="No logged vector was refused."
            )
        ],
    )
    @fails_fast
    def feature_log(
        context: dg.AssetExecutionContext, lake: LakeResource
    ) -> Iterator[dg.MaterializeResult[None]]:
        landing = Landing(LandedLog(lake.blobs), [FEATURE_LOG], context.partition_keys)
        landing.run(lake.tables, precommit=live_run_check(context))
        yield landed_result(context, key, landing.of(FEATURE_LOG))

    return feature_log


def _feature_skew(settings: Settings) -> dg.AssetsDefinition:
    key = dg.AssetKey([MONITORING, FEATURE_SKEW.name])

    @dg.asset(
        key=key,
        deps=[[RAW, FEATURE_LOG.name], *(["features", view] for view in FRAUD.views)],
        group_name=MONITORING,
        owners=[ML_PLATFORM],
        kinds={"parquet", "numpy"},
        description=FEATURE_SKEW.description,
        partitions_def=daily(settings),
        backfill_policy=SINGLE_RUN,
        retry_policy=feature_retries(settings),
        metadata={"dagster/column_schema": table_schema(FEATURE_SKEW)},
        check_specs=[
            dg.AssetCheckSpec(
                NO_SKEW,
                asset=key,
                description="Every vector computed online has the bits that batch computes.",
            )
        ],
    )
    @fails_fast
    def feature_skew(
        context: dg.AssetExecutionContext, lake: LakeResource
    ) -> Iterator[dg.MaterializeResult[None]]:
        from ibook_assets.stores.bulk import Write, write_all
        from ibook_assets.stores.skew_days import SKEW_TABLE, compare_days, recorded_counts

        found: dict[str, Skew] = {}

        def writes() -> Iterator[Write]:
            days = compare_days(
                lake.tables,
                FRAUD.features,
                context.partition_keys,
                share=settings.feature_log_share,
            )
            for day, skew in days:
                found[day] = skew
                yield Write(SKEW_TABLE, day, skew.rows, FEATURE_SKEW)

        receipts = list(write_all(lake.tables, writes(), precommit=live_run_check(context)))
        for receipt, (day, skew) in zip(receipts, found.items(), strict=True):
            shown = {**summary(receipt), "vectors": skew.vectors, **skew.counts}
            context.add_asset_metadata(shown, partition_key=day)
        recorded = recorded_counts(lake.tables, until=max(found), days=DAYS_SHOWN)
        yield dg.MaterializeResult(
            metadata={"counts_by_day": _plot(recorded), **_offenders(found)},
            check_results=[_verdict(key, found)],
        )

    return feature_skew


def _plot(counts: Mapping[str, Mapping[str, int]]) -> dg.MetadataValue:
    series = {kind: [day[kind] for day in counts.values()] for kind in KINDS}
    return daily_plot(list(counts), series)


def _offenders(found: Mapping[str, Skew]) -> dict[str, dg.MetadataValue]:
    rows: list[dict[str, Any]] = []
    for day, skew in found.items():
        head = skew.rows.slice(0, ROWS_SHOWN - len(rows)).to_pylist()
        # Floats as text: JSON has no NaN.
        rows += [{"day": day, **{k: _shown(v) for k, v in row.items()}} for row in head]
    return {"offenders": records(rows)} if rows else {}


def _shown(value: object) -> object:
    return repr(value) if isinstance(value, float) else "" if value is None else value


def _verdict(key: dg.AssetKey, found: Mapping[str, Skew]) -> dg.AssetCheckResult:
    counts = {kind: sum(skew.count(kind) for skew in found.values()) for kind in KINDS}
    vectors = sum(skew.vectors for skew in found.values())
    return dg.AssetCheckResult(
        check_name=NO_SKEW,
        asset_key=key,
        passed=not any(counts.values()),
        description=None if vectors else "No vector was logged: there was nothing to compare.",
        metadata={"vectors": vectors, **counts, **_offenders(found)},
    )
