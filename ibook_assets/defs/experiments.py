"""Experiments in the graph: who was exposed, what became of them, and where it stands."""

import io
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

import dagster as dg
import pyarrow as pa

from ibook_assets.core.arrow import integers
from ibook_assets.core.experiments.catalog import EXPERIMENTS, experiment_named
from ibook_assets.core.experiments.definition import Experiment
from ibook_assets.core.experiments.summarising import summarise
from ibook_assets.core.experiments.summary import ExperimentSummary
from ibook_assets.core.experiments.units import EXPOSURES, UNITS, units_of
from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import EXPERIMENT_OUTCOMES, OUTCOMES, PREDICTIONS, TableSpec
from ibook_assets.core.times import DAY_US, to_us
from ibook_assets.defs.metadata import png, records, summary, table_schema
from ibook_assets.defs.partitions import ML_PLATFORM, RAW
from ibook_assets.defs.resources import LakeResource
from ibook_assets.defs.runs import fails_fast, live_run_check, monitoring_retries
from ibook_assets.stores.experiments import FOLDER, ExperimentReader, store_summary
from ibook_assets.stores.lake import Receipt

GROUP: Final = "experiments"
JOB: Final = "experiments"
SAMPLE_RATIO: Final = "sample_ratio_holds"
GUARDRAILS: Final = "guardrails_hold"

WINDOW_HOURS: Final = 24
"""Window that a kept summary shows by itself: the schedule runs once a day."""
LATE_DAYS: Final = 7
"""Days after an experiment's last follow-up in which late days may still land."""

_EXPOSURES: Final = dg.AssetKey([GROUP, EXPOSURES.name])
_UNITS: Final = dg.AssetKey([GROUP, UNITS.name])
_SUMMARY: Final = dg.AssetKey([GROUP, "summary"])

BY_EXPERIMENT: Final = dg.StaticPartitionsDefinition(sorted(EXPERIMENTS))


def experiment_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Exposures, outcomes and summary, a partition an experiment."""
    return [_exposures(settings), _outcomes(settings), _summary(settings)]


def experiment_schedule() -> dg.Definitions:
    """The job of one experiment; its schedule, switched off at first, runs those that are on."""
    job = dg.define_asset_job(
        JOB,
        selection=dg.AssetSelection.groups(GROUP),
        description="Exposures, outcomes and summary of one experiment, out of landed days.",
    )

    @dg.schedule(
        job=job,
        cron_schedule="30 2 * * *",
        name="daily_experiments",
        description="Every experiment that has started, until its last follow-up is over.",
    )
    def daily_experiments(
        context: dg.ScheduleEvaluationContext, lake: LakeResource
    ) -> Iterator[dg.RunRequest | dg.SkipReason]:
        now_us = to_us(context.scheduled_execution_time.astimezone(UTC))
        day = context.scheduled_execution_time.date().isoformat()
        running = _running(ExperimentReader(lake.blobs, landed_only=True), now_us)
        if not running:
            yield dg.SkipReason("no experiment has started, or all are over")
        for name in running:
            yield dg.RunRequest(run_key=f"{name}:{day}", partition_key=name)

    return dg.Definitions(jobs=[job], schedules=[daily_experiments])


def _running(reader: ExperimentReader, now_us: int) -> list[str]:
    """Defined experiments that have started and can still change."""
    found = []
    for known in reader.known():
        defined, run = known.experiment, known.run
        if defined is None or run is None or run.started_us is None:
            continue
        last_us = run.started_us + defined.horizon_us + defined.follow_up_us
        if now_us < last_us + LATE_DAYS * DAY_US:
            found.append(known.name)
    return found


def _all_days(spec: TableSpec) -> dg.AssetDep:
    """An experiment reads every landed day it ran on."""
    return dg.AssetDep([RAW, spec.name], partition_mapping=dg.AllPartitionMapping())


def _table(
    spec: TableSpec, settings: Settings, *, deps: Sequence[dg.AssetDep | dg.AssetKey]
) -> Callable[[Callable[..., dg.MaterializeResult[None]]], dg.AssetsDefinition]:
    """Makes a step the asset of a table that has a partition an experiment."""
    return dg.asset(
        key=[GROUP, spec.name],
        deps=deps,
        group_name=GROUP,
        owners=[ML_PLATFORM],
        kinds={"parquet"},
        description=spec.description,
        partitions_def=BY_EXPERIMENT,
        retry_policy=monitoring_retries(settings),
        metadata={"dagster/column_schema": table_schema(spec)},
    )


def _written(
    rows: pa.Table, spec: TableSpec, context: dg.AssetExecutionContext, lake: LakeResource
) -> Receipt:
    """`rows` committed as the partition of the run's experiment."""
    return lake.tables.write(
        f"{FOLDER}/{spec.name}",
        context.partition_key,
        rows,
        spec=spec,
        precommit=live_run_check(context),
    )


def _exposures(settings: Settings) -> dg.AssetsDefinition:
    @_table(EXPOSURES, settings, deps=[_all_days(PREDICTIONS)])
    @fails_fast
    def exposures(
        context: dg.AssetExecutionContext, lake: LakeResource
    ) -> dg.MaterializeResult[None]:
        experiment = experiment_named(context.partition_key)
        reader = ExperimentReader(lake.blobs, landed_only=True)
        run = reader.run(experiment)
        rows = reader.exposures(experiment, run, reader.answers(experiment, run))
        receipt = _written(rows, EXPOSURES, context, lake)
        return dg.MaterializeResult(
            metadata={
                **summary(receipt),
                "designed_entries": str(sorted(run.designed)),
                "deviations": list(run.deviations),
            },
            data_version=dg.DataVersion(receipt.sha256),
        )

    return exposures


def _outcomes(settings: Settings) -> dg.AssetsDefinition:
    upstream = (PREDICTIONS, EXPERIMENT_OUTCOMES, OUTCOMES)

    @_table(UNITS, settings, deps=[_EXPOSURES, *map(_all_days, upstream)])
    @fails_fast
    def outcomes(
        context: dg.AssetExecutionContext, lake: LakeResource
    ) -> dg.MaterializeResult[None]:
        experiment = experiment_named(context.partition_key)
        reader = ExperimentReader(lake.blobs, landed_only=True)
        run = reader.run(experiment)
        # Asked before anything is read: what lands meanwhile is counted the next time.
        as_of_us = reader.known_until_us(experiment, run, now_us=time.time_ns() // 1_000)
        exposed = lake.tables.read(f"{FOLDER}/{EXPOSURES.name}", [experiment.id], spec=EXPOSURES)
        rows = reader.units(
            experiment, run, exposed, reader.answers(experiment, run), as_of_us=as_of_us
        )
        receipt = _written(rows, UNITS, context, lake)
        return dg.MaterializeResult(
            metadata={**summary(receipt), "as_of": dg.MetadataValue.timestamp(as_of_us / 1e6)},
            data_version=dg.DataVersion(receipt.sha256),
        )

    return outcomes


def _summary(settings: Settings) -> dg.AssetsDefinition:
    @dg.asset(
        key=_SUMMARY,
        deps=[_UNITS],
        group_name=GROUP,
        owners=[ML_PLATFORM],
        kinds={"json", "numpy"},
        description=(
            "Where an experiment stands: rates by arm, the effect at each look with its bound, "
            "guardrails, the sample ratio, and what to do."
        ),
        partitions_def=BY_EXPERIMENT,
        retry_policy=monitoring_retries(settings),
        check_specs=[
            dg.AssetCheckSpec(
                SAMPLE_RATIO, asset=_SUMMARY, description="Arms have the users they should have."
            ),
            dg.AssetCheckSpec(
                GUARDRAILS, asset=_SUMMARY, description="No guardrail metric is worse than allowed."
            ),
        ],
    )
    @fails_fast
    def standing(
        context: dg.AssetExecutionContext, lake: LakeResource
    ) -> Iterator[dg.MaterializeResult[None]]:
        experiment = experiment_named(context.partition_key)
        run = ExperimentReader(lake.blobs).run(experiment)
        rows = lake.tables.read(f"{FOLDER}/{UNITS.name}", [experiment.id], spec=UNITS)
        as_of_us = int(integers(rows["as_of_ts"], null=0).max(initial=run.started_us or 0))
        found = summarise(
            experiment, run, units_of(rows), as_of_us=as_of_us, window_hours=WINDOW_HOURS
        )
        stored = store_summary(lake.blobs, found, precommit=live_run_check(context))
        yield dg.MaterializeResult(
            metadata={
                **_shown(found),
                "document": dg.MetadataValue.path(lake.blobs.location(stored)),
                "arms": _arms(found),
                **_guardrails(found),
                **_looks(found),
                "effect": _effect(experiment, found),
            },
            check_results=[_ratio_check(found), _guardrail_check(found)],
        )

    return standing


def _shown(found: ExperimentSummary) -> dict[str, str | int | float | dg.MetadataValue]:
    """What says it all in a line."""
    verdict, fixed = found.verdict, found.fixed_horizon
    evidence = "".join(f"\n- {line}" for line in verdict.evidence)
    numbers = {
        "difference": fixed.difference,
        "fixed_horizon_p_value": fixed.p_value,
        "sample_ratio_p_value": found.sample_ratio.anytime_p,
        "users": found.plan.users,
        "users_needed": found.plan.users_needed,
    }
    return {
        "decision": verdict.decision,
        "state": found.state,
        "as_of": dg.MetadataValue.timestamp(datetime.fromisoformat(found.as_of)),
        "verdict": dg.MetadataValue.md(f"**{verdict.decision}**: {verdict.reason}\n{evidence}"),
        **{name: value for name, value in numbers.items() if value is not None},
    }


def _arms(found: ExperimentSummary) -> dg.MetadataValue:
    return records(
        {
            "arm": arm.variant,
            "model": ", ".join(found.models[arm.variant]),
            "share": arm.share,
            "exposed": arm.exposed,
            "users": arm.users,
            "events": arm.events,
            "rate": _cell(arm.rate),
            "rate_per_answer": _cell(arm.answer_rate),
        }
        for arm in found.arms
    )


def _guardrails(found: ExperimentSummary) -> dict[str, dg.MetadataValue]:
    rows = [
        {
            "metric": rail.metric,
            "control": _cell(rail.control_rate),
            "treatment": _cell(rail.treatment_rate),
            "low": rail.low,
            "high": rail.high,
            "worst_difference": rail.worst_difference,
            "state": rail.state,
        }
        for rail in found.guardrails
    ]
    return {"guardrails": records(rows)} if rows else {}


def _looks(found: ExperimentSummary) -> dict[str, dg.MetadataValue]:
    rows = [
        {
            "look": look.number,
            "users": look.users,
            "at": look.at,
            "z": look.z,
            "bound": look.bound,
            "difference": look.difference,
            "low": look.low,
            "high": look.high,
            "crossed": look.crossed,
        }
        for look in found.sequential.looks
    ]
    return {"looks": records(rows)} if rows else {}


def _cell(value: float | None) -> str | float:
    return "" if value is None else value


def _effect(experiment: Experiment, found: ExperimentSummary) -> dg.MetadataValue:
    """The effect at each look, with intervals that hold together."""
    looks = found.sequential.looks
    if not looks:
        return dg.MetadataValue.md(
            f"The first look comes at {found.sequential.next_look_users or 0:,} users."
        )
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    axis = figure.subplots()
    users = [look.users for look in looks]
    axis.axhline(0, color="#9ca3af", linewidth=0.8)
    axis.axhline(
        experiment.wanted_effect, color="#9ca3af", linewidth=0.8, linestyle=":", label="wanted"
    )
    axis.fill_between(
        users, [look.low for look in looks], [look.high for look in looks],
        color="#4338ca", alpha=0.15, label="interval over all looks",
    )  # fmt: skip
    axis.plot(users, [look.difference for look in looks], color="#4338ca", marker=".")
    # The first intervals span everything; the last ones are what people look for.
    reach = 4 * max(experiment.minimal_effect, *(abs(look.difference) for look in looks[-3:]))
    axis.set_ylim(-reach, reach)
    axis.set_xlabel("users", fontsize=8)
    axis.set_ylabel(f"{experiment.metric}, treatment - control", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=7, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return png(buffer.getvalue(), "effect by look")


def _ratio_check(found: ExperimentSummary) -> dg.AssetCheckResult:
    ratio = found.sample_ratio
    return dg.AssetCheckResult(
        check_name=SAMPLE_RATIO,
        asset_key=_SUMMARY,
        passed=not ratio.mismatch,
        description=f"p = {ratio.anytime_p:.3g} at any time, alarm below {ratio.alpha:g}",
        metadata={
            "expected_share": ratio.expected_share,
            "treatment_share": _cell(ratio.treatment_share),
            "anytime_p_value": ratio.anytime_p,
        },
    )


def _guardrail_check(found: ExperimentSummary) -> dg.AssetCheckResult:
    breached = [rail.metric for rail in found.guardrails if rail.state == "breached"]
    return dg.AssetCheckResult(
        check_name=GUARDRAILS,
        asset_key=_SUMMARY,
        passed=not breached,
        description=f"breached: {', '.join(breached)}" if breached else "none is breached",
        metadata=_guardrails(found),
    )
