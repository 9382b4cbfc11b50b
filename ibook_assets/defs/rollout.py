"""Rollouts as assets: each look materialises what was found, each decision its evidence."""

import io
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from ibook_assets.core.analysis.findings import Analysis, shown
from ibook_assets.core.errors import ContractError, StoreUnavailableError
from ibook_assets.core.rollout_log import HELD_STATES, Standing
from ibook_assets.core.settings import Settings
from ibook_assets.core.times import MINUTE_US
from ibook_assets.core.use_cases import USE_CASES, UseCase
from ibook_assets.defs.metadata import png, records
from ibook_assets.defs.partitions import ML_PLATFORM
from ibook_assets.defs.resources import LakeResource
from ibook_assets.defs.runs import IN_FLIGHT, actor_of, fails_fast, live_run_check, training_retries
from ibook_assets.defs.tracking import TrackingResource
from ibook_assets.stores.rollouts import Rollouts

if TYPE_CHECKING:
    from ibook_assets.training.rollout import Looked

ROLLOUT: Final = "rollout"
"""Group and job of the rollouts: apart from training, whose every run would look at them."""
USE_CASE: Final = "ibook/rollout"
"""Tag of a run: whose rollout it looks at."""
SECONDS_BETWEEN: Final = 5

_LOG_10: Final = math.log(10)

Clock = Callable[[], float]


def rollout_key(use_case: UseCase) -> dg.AssetKey:
    """The asset that tells how far the rollout of a `use_case` model is."""
    return dg.AssetKey([use_case.name, ROLLOUT])


def rollout_defs(settings: Settings, *, clock: Clock = time.time) -> dg.Definitions:
    """An asset and a sensor a use case, and their job; `clock` gives seconds since 1970."""
    job = dg.define_asset_job(
        ROLLOUT,
        selection=dg.AssetSelection.groups(ROLLOUT),
        description="One look at the rollouts: carry out, judge, decide what comes next.",
    )
    return dg.Definitions(
        assets=[_rollout(use_case, settings) for use_case in USE_CASES.values()],
        sensors=[_looking(use_case, settings, clock) for use_case in USE_CASES.values()],
        jobs=[job],
    )


def _rollout(use_case: UseCase, settings: Settings) -> dg.AssetsDefinition:
    @dg.asset(
        key=rollout_key(use_case),
        deps=[[use_case.name, "promotion"], ["raw", "predictions"]],
        group_name=ROLLOUT,
        owners=[ML_PLATFORM],
        kinds={"json"},
        description=(
            "How far the newest rollout is: a gated model scores unseen, answers a growing share "
            "of users, and becomes the champion, or is taken back when it does worse than is "
            "tolerated. One materialisation is one look; those that decide show the evidence."
        ),
        retry_policy=training_retries(settings),
    )
    @fails_fast
    def rollout(
        context: dg.AssetExecutionContext, lake: LakeResource, tracking: TrackingResource
    ) -> dg.MaterializeResult[None]:
        from ibook_assets.core.model_card_page import card_page
        from ibook_assets.training.cards import write_card
        from ibook_assets.training.rollout import Watcher

        actor = actor_of(context.run.run_id)
        commit = live_run_check(context)
        watcher = Watcher(lake.tables, use_case, settings, actor=actor, precommit=commit)
        looked = watcher.look()
        metadata = _told(looked, Rollouts(lake.blobs))
        standing = looked.standing
        if standing is None:
            return dg.MaterializeResult(metadata=metadata)
        if standing.state == "champion" or (looked.moved and standing.state in HELD_STATES):
            card = write_card(lake.blobs, use_case, standing.entry.version)
            metadata["card"] = dg.MetadataValue.md(card_page(card).decode())
        # Also what the look left undone that decided it, where that was killed.
        if not standing.active or _untold(context.instance, standing, use_case):
            _show_in_mlflow(context, tracking, lake, use_case, standing)
        version = dg.DataVersion(standing.entry.sha256)
        return dg.MaterializeResult(metadata=metadata, data_version=version)

    return rollout


def _show_in_mlflow(
    context: dg.AssetExecutionContext,
    tracking: TrackingResource,
    lake: LakeResource,
    use_case: UseCase,
    standing: Standing,
) -> None:
    from ibook_assets.stores.rollout_export import export_rollouts

    try:
        registry = tracking.registry(use_case.name)
        if standing.state == "champion":
            registry.mirror_champion(lake.promotions.history(use_case.name))
        export_rollouts(lake.blobs, use_case.name, registry)
    except (StoreUnavailableError, ContractError) as error:
        # The logs have decided already; MLflow is for people who look there.
        context.log.warning("MLflow does not show all of the rollout yet: %s", error)


def _told(looked: "Looked", rollouts: Rollouts) -> dict[str, Any]:
    told: dict[str, Any] = {"note": looked.note, "moved": looked.moved}
    standing, analysis = looked.standing, looked.analysis
    if standing is not None:
        entry = standing.entry
        told |= {
            "state": standing.state,
            "title": entry.title,
            "version": entry.version,
            "champion": entry.champion,
            "rollout_entry": entry.sequence,
            "reason": entry.reason,
        }
        if standing.effect is not None:
            told["promotion_entry"] = standing.effect.sequence
        if looked.moved and entry.evidence is not None:
            told["evidence"] = dg.MetadataValue.path(rollouts.location(entry.evidence))
    if analysis is not None:
        told |= {
            "verdict": analysis.verdict,
            "log10_e_value": analysis.log_e / _LOG_10,
            "log10_bound": analysis.log_bound / _LOG_10,
            "findings": records(shown(analysis.findings)),
        }
        if looked.moved:
            told["plot"] = _plot(analysis)
    return told


def _plot(analysis: Analysis) -> dg.MetadataValue:
    """E-value over time against its bound, and each metric's rate by arm."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    over_time, by_arm = figure.subplots(2, 1)
    times, path = analysis.path
    minutes = [(t - analysis.since_us) / MINUTE_US for t in times]
    over_time.step(minutes, path / _LOG_10, where="post", color="#4338ca", linewidth=1.4)
    over_time.axhline(analysis.log_bound / _LOG_10, color="#b91c1c", linewidth=1, linestyle="--")
    over_time.set_xlabel("minutes in this step", fontsize=8)
    over_time.set_ylabel("log10 e-value", fontsize=8)
    names = [finding.metric for finding in analysis.findings]
    for rates, marker, color, label in (
        ([f.champion_rate for f in analysis.findings], "o", "#64748b", analysis.champion_version),
        ([f.challenger_rate for f in analysis.findings], "x", "#4338ca", analysis.version),
    ):
        found = [(rate, name) for rate, name in zip(rates, names, strict=True) if rate is not None]
        by_arm.plot(
            [rate for rate, _ in found],
            [names.index(name) for _, name in found],
            marker,
            color=color,
            label=label,
        )
    by_arm.set_yticks(range(len(names)), names)
    by_arm.set_xlabel("share of units", fontsize=8)
    by_arm.legend(fontsize=7, frameon=False)
    for axis in (over_time, by_arm):
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return png(buffer.getvalue(), f"{analysis.stage} of {analysis.version}")


def _looking(use_case: UseCase, settings: Settings, clock: Clock) -> dg.SensorDefinition:
    @dg.sensor(
        job_name=ROLLOUT,
        name=f"{use_case.name}_rollout",
        minimum_interval_seconds=SECONDS_BETWEEN,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Looks at the {use_case.name} rollout every IBOOK_ROLLOUT_LOOK_SECONDS.",
    )
    def looking(
        context: dg.SensorEvaluationContext, lake: LakeResource
    ) -> dg.RunRequest | dg.SkipReason:
        standing = Rollouts(lake.blobs).standing(use_case.name)
        if standing is None or not (
            standing.on_its_way or _untold(context.instance, standing, use_case)
        ):
            return dg.SkipReason("no rollout is on its way")
        now = clock()
        waits = _waits(context.instance, use_case, settings, now=now)
        if waits is not None:
            return dg.SkipReason(waits)
        return dg.RunRequest(
            # A look of its own every time: the logs, not the key, keep anything from happening
            # twice.
            run_key=f"{use_case.name}#{standing.entry.sequence}@{now:.0f}",
            tags={USE_CASE: use_case.name},
            asset_selection=[rollout_key(use_case)],
        )

    return looking


def _untold(instance: dg.DagsterInstance, standing: Standing, use_case: UseCase) -> bool:
    """Whether no look has told of the newest decision, so that what follows may be undone."""
    event = instance.get_latest_materialization_event(rollout_key(use_case))
    told = event.asset_materialization if event is not None else None
    tags = (told.tags or {}) if told is not None else {}
    return tags.get(DATA_VERSION_TAG) != standing.entry.sha256


def _waits(
    instance: dg.DagsterInstance, use_case: UseCase, settings: Settings, *, now: float
) -> str | None:
    """Why the next look must wait; None when it need not."""
    tags = {USE_CASE: use_case.name}
    running = instance.get_runs(dg.RunsFilter(tags=tags, statuses=IN_FLIGHT), limit=1)
    if running:
        return f"run {running[0].run_id} is looking"
    last = instance.get_run_records(dg.RunsFilter(tags=tags), limit=1)
    if last:
        due = last[0].create_timestamp.timestamp() + settings.rollout_look_seconds
        if now < due:
            return f"the next look is in {due - now:.0f} s"
    return None
