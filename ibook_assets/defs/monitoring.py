"""Monitoring: a model's day against what its champion learnt from and promised."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import dagster as dg

from ibook_assets.core.monitoring import DRIFT_SCORE_THRESHOLD
from ibook_assets.core.monitoring.episodes import FEATURE_DRIFT
from ibook_assets.core.monitoring.record import PERSISTENCE, DriftRecord
from ibook_assets.core.monitoring.signals import SIGNALS, SignalName
from ibook_assets.core.settings import Settings
from ibook_assets.core.use_cases import USE_CASES, UseCase
from ibook_assets.defs.metadata import daily_plot, lake_file, records
from ibook_assets.defs.partitions import ML_PLATFORM, daily
from ibook_assets.defs.resources import LakeResource
from ibook_assets.defs.runs import fails_fast, live_run_check, monitoring_retries
from ibook_assets.defs.signals import signal_asset

if TYPE_CHECKING:
    from ibook_assets.training.drift_page import DriftPage

DRIFT: Final = "drift"
"""Group of the drift assets: apart from `monitoring`, whose assets every day's data run makes."""

NO_DRIFT: Final = "no_drift"
MONITORING_JOB: Final = "drift_monitoring"

DAYS_SHOWN: Final = 60
"""Days whose scores are plotted."""
COLUMNS_SHOWN: Final = 30
"""Columns listed in Dagster, by descending deviation; the record has all."""

# What the retraining sensor reads of a materialisation.
RECORD: Final = "record"
CHAMPION: Final = "champion_version"
CONFIRMED: Final = "confirmed"
DAY: Final = "day"
NEW_DAYS: Final = "new_days"
SCORE: Final = "drift_score"
STATE: Final = "state"


def drift_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Column drift, and one asset a signal, of each use case."""
    return [
        asset
        for use_case in USE_CASES.values()
        for asset in (
            _feature_drift(use_case, settings),
            *(
                signal_asset(signal_key(use_case, name), name, use_case, settings, group=DRIFT)
                for name in SIGNALS
            ),
        )
    ]


def drift_key(use_case: UseCase) -> dg.AssetKey:
    """The asset that tells how far the features of `use_case` have drifted."""
    return dg.AssetKey([use_case.name, FEATURE_DRIFT])


def signal_key(use_case: UseCase, name: SignalName) -> dg.AssetKey:
    """The asset of a signal of `use_case`."""
    return dg.AssetKey([use_case.name, name])


def drift_schedule() -> dg.Definitions:
    """The daily monitoring job; its schedule starts switched off, as the others do."""
    job = dg.define_asset_job(
        MONITORING_JOB,
        selection=dg.AssetSelection.groups(DRIFT),
        description="One day against what the champion learnt from and promised: every signal.",
    )
    schedule = dg.build_schedule_from_partitioned_job(
        job, hour_of_day=1, minute_of_hour=30, name="daily_drift_monitoring"
    )
    return dg.Definitions(jobs=[job], schedules=[schedule])


def _feature_drift(use_case: UseCase, settings: Settings) -> dg.AssetsDefinition:
    key = drift_key(use_case)

    @dg.asset(
        key=key,
        deps=[[use_case.name, "training_set"], *(["features", view] for view in use_case.views)],
        group_name=DRIFT,
        owners=[ML_PLATFORM],
        kinds={"numpy", "evidently"},
        description=(
            "How far the day's features are from the last days that the champion learnt from: the "
            "share of drifted columns by the distance rule, and a verdict whose threshold is "
            "calibrated on undrifted days."
        ),
        partitions_def=daily(settings),
        backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=1),
        retry_policy=monitoring_retries(settings),
        check_specs=[
            dg.AssetCheckSpec(NO_DRIFT, asset=key, description="The features have not drifted.")
        ],
    )
    @fails_fast
    def feature_drift(
        context: dg.AssetExecutionContext, lake: LakeResource
    ) -> Iterator[dg.MaterializeResult[None]]:
        from ibook_assets.stores.drift_days import compare_day, drift_records, store_record
        from ibook_assets.training.drift_page import drift_page, store_page

        day = context.partition_key
        champion = lake.promotions.current(use_case.name)
        compared = compare_day(lake.tables, use_case, day, champion)
        page = drift_page(compared.reference, compared.current, compared.kinds)
        pages = {} if page is None else store_page(lake.blobs, use_case.name, day, page)
        # Last: who sees the record finds the pages that go with it.
        stored = store_record(lake.blobs, compared.record, precommit=live_run_check(context))
        history = drift_records(lake.blobs, use_case.name, until=day, days=DAYS_SHOWN)
        yield dg.MaterializeResult(
            metadata={
                **_shown(compared.record),
                RECORD: dg.MetadataValue.path(lake.blobs.location(stored)),
                **{name: lake_file(lake.blobs, k, settings.lake_url) for name, k in pages.items()},
                **_preview(compared.record, None if page is None else page.share),
                **({} if page is None else _page_preview(page)),
                "columns": _columns(compared.record),
                "history": _history(history),
            },
            check_results=[_verdict(key, compared.record)],
        )

    return feature_drift


def _shown(record: DriftRecord) -> dict[str, str | int | float | bool]:
    """What says it all in a line, and what the sensor acts on."""
    decision = record.decision
    told = {
        SCORE: decision.score,
        "score_threshold": decision.score_threshold,
        "distance_share": decision.distance_share,
        "statistic": decision.statistic,
        "statistic_threshold": decision.threshold,
        CHAMPION: record.champion_version,
        "reason": decision.reason,
        "reference": (
            f"{record.reference_first_day} to {record.reference_last_day}"
            if record.reference_first_day
            else None
        ),
    }
    return {
        DAY: record.day,
        STATE: decision.state,
        CONFIRMED: record.confirmed,
        NEW_DAYS: record.new_days,
        "rows": decision.current_rows,
        "reference_rows": decision.reference_rows,
        "features_left_out": len(record.left_out),
        **{name: value for name, value in told.items() if value is not None},
    }


def _preview(record: DriftRecord, evidently_share: float | None) -> dict[str, dg.MetadataValue]:
    decision = record.decision
    if decision.score is None or decision.statistic is None or decision.threshold is None:
        return {"summary": dg.MetadataValue.md(f"**No verdict**: {decision.reason}.")}
    drifted = [column.name for column in decision.columns if column.drifted]
    verdict = f"{decision.state} and confirmed" if record.confirmed else decision.state
    lines = [
        (
            f"**{verdict}**: largest deviation {decision.statistic:.1f} standard deviations, "
            f"threshold {decision.threshold:.1f} "
            f"(false alarms: {decision.false_alarm_rate:.0%} of undrifted days)."
        ),
        (
            f"Drift score {decision.score:.2f}, threshold {decision.score_threshold:.2f}; by the "
            f"distance rule alone {decision.distance_share:.2f}."
        ),
    ]
    if evidently_share is not None:
        lines.append(f"Evidently's report, on samples: {evidently_share:.2f}.")
    if drifted:
        lines.append("Drifted: " + ", ".join(f"`{name}`" for name in drifted[:10]) + ".")
    return {"summary": dg.MetadataValue.md("\n\n".join(lines))}


def _page_preview(page: "DriftPage") -> dict[str, dg.MetadataValue]:
    """Evidently's report in brief, shown in place: its HTML has the distributions."""
    drifted = sum(column.drifted for column in page.columns)
    lines = [
        (
            f"Evidently: {drifted} of {len(page.columns)} columns drifted ({page.share:.0%}; its "
            f"test fails from {DRIFT_SCORE_THRESHOLD:.0%})."
        ),
        "",
        "| column | method | distance | threshold | drifted |",
        "|---|---|--:|--:|---|",
        *(
            f"| `{c.name}` | {c.method} | {c.value:.3f} | {c.threshold:g} "
            f"| {'yes' if c.drifted else ''} |"
            for c in page.columns[:COLUMNS_SHOWN]
        ),
    ]
    if page.left_out:
        left_out = ", ".join(f"`{name}`" for name in page.left_out[:COLUMNS_SHOWN])
        lines += ["", f"Without a value in one of the windows, so not on its page: {left_out}."]
    report = json.loads(page.json)
    brief = {"metrics": report["metrics"][:1], "tests": report["tests"][:1]}
    return {
        "evidently": dg.MetadataValue.md("\n".join(lines)),
        "evidently_summary": dg.MetadataValue.json(brief),
    }


def _columns(record: DriftRecord) -> dg.MetadataValue:
    return records(
        {
            "column": column.name,
            "deviation": column.deviation,
            "drifted": column.drifted,
            "shift": column.shift,
            "distance": "" if column.distance is None else column.distance,
            "method": column.method,
            "nulls": column.current_nulls,
            "reference_nulls": column.reference_nulls,
            "unseen": column.unseen,
        }
        for column in record.decision.columns[:COLUMNS_SHOWN]
    )


def _history(found: list[DriftRecord]) -> dg.MetadataValue:
    judged = [record for record in found if record.decision.score is not None]
    if not judged:
        return dg.MetadataValue.md("No day has been judged yet.")
    decisions = [record.decision for record in judged]
    return daily_plot(
        [record.day for record in judged],
        {
            "drift score": [decision.score or 0.0 for decision in decisions],
            "largest deviation": [decision.statistic or 0.0 for decision in decisions],
            "its threshold": [decision.threshold or 0.0 for decision in decisions],
        },
    )


def _verdict(key: dg.AssetKey, record: DriftRecord) -> dg.AssetCheckResult:
    decision = record.decision
    fires = decision.drifted or decision.score_fires
    return dg.AssetCheckResult(
        check_name=NO_DRIFT,
        asset_key=key,
        passed=not fires,
        severity=dg.AssetCheckSeverity.WARN,
        description=decision.reason,
        metadata={
            STATE: decision.state,
            CONFIRMED: record.confirmed,
            "persistence_days": PERSISTENCE,
            "score_threshold": DRIFT_SCORE_THRESHOLD,
            **({} if decision.score is None else {SCORE: decision.score}),
        },
    )
