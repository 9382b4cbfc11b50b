"""Runs of the simulator's scenarios as judged reports; the checks are the run's validators."""

from collections.abc import Iterator, Mapping, Sequence
from math import isnan
from typing import Any, Final

import dagster as dg
import numpy as np
from pydantic import Field

from ibook_assets.core.settings import Settings
from ibook_assets.defs.metadata import daily_plot, records
from ibook_assets.defs.partitions import ML_PLATFORM, SIMULATION, by_scenario
from ibook_assets.defs.resources import LakeResource
from ibook_assets.defs.runs import fails_fast, feature_retries, live_run_check
from ibook_assets.defs.scenario_days import scenario_day_assets
from ibook_sim.judging.findings import RunResult
from ibook_sim.judging.validators import FAMILIES, Check, Family, held, judged, quantile
from ibook_sim.offline.planning import plan_of
from ibook_sim.offline.running import run
from ibook_sim.orders.placed import Scorer
from ibook_sim.report.kept import KeptReport, keep_report
from ibook_sim.scenarios import scenarios

REPORT: Final = dg.AssetKey([SIMULATION, "report"])

_BINS: Final = 60


class ScenarioRun(dg.Config):
    """Options of a run, as `ibook sim run` has them."""

    seed: int | None = Field(default=None, ge=0, description="Default: IBOOK_SIM_SEED")
    duration: str | None = Field(
        default=None, description="Minutes, or 90s, 10m: scales the orders. Default: its own"
    )
    drift_level: float | None = Field(
        default=None, ge=0.0, le=1.0, description="Default: the scenario's"
    )
    drift_seed: int | None = Field(default=None, ge=0, description="Seed of the coins")
    drift_transactions: int | None = Field(
        default=None, ge=100, le=5_000_000, description="Orders, instead of a duration"
    )
    model: str | None = Field(
        default=None,
        description="Who scores: champion, or a folder with a model. Default: the row posterior",
    )


def simulation_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """The days of the scenarios, and the report of each scenario."""
    return [*scenario_day_assets(settings), _report(settings)]


def verdict(family: Family, checks: Sequence[Check], *, name: str) -> dg.AssetCheckResult:
    """Whether all objectives of `family` hold; without any it passes and says `not judged`.

    Dagster keeps the newest result of a check, whatever the partition, so it says whose it is.
    """
    own = [check for check in checks if check.family == family]
    said = "; ".join(map(_said, own)) or "not judged, the scenario has no such objective"
    return dg.AssetCheckResult(
        asset_key=REPORT,
        check_name=family,
        passed=all(check.passed for check in own),
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"{name}: {said}",
        metadata={
            "scenario": name,
            "judged": bool(own),
            **_values(own),
            **{f"{check.name}, limit": check.limit for check in own},
            **({"objectives": _table(own)} if own else {}),
        },
    )


def _report(settings: Settings) -> dg.AssetsDefinition:
    @dg.asset(
        key=REPORT,
        group_name=SIMULATION,
        owners=[ML_PLATFORM],
        kinds={"html", "json"},
        description=(
            "A scenario run offline and judged against its objectives, with a check for each kind "
            "of objective; compared with the scenario's run before."
        ),
        partitions_def=by_scenario(list(scenarios())),
        retry_policy=feature_retries(settings),
        check_specs=[
            dg.AssetCheckSpec(family, asset=REPORT, description=_judges(family))
            for family in FAMILIES
        ],
    )
    @fails_fast
    def report(
        context: dg.AssetExecutionContext, config: ScenarioRun, lake: LakeResource
    ) -> Iterator[dg.MaterializeResult[None]]:
        options = config.model_dump(exclude={"model", "seed"})
        seed = settings.sim_seed if config.seed is None else config.seed
        plan = plan_of(context.partition_key, seed=seed, **options)
        result = run(plan, scorer=_scorer(config.model, settings))
        kept = keep_report(
            lake.blobs, result, run=context.run.run_id, precommit=live_run_check(context)
        )
        checks = judged(result)
        yield dg.MaterializeResult(
            metadata=_shown(result, checks, kept),
            check_results=[verdict(family, checks, name=plan.scenario.name) for family in FAMILIES],
            data_version=dg.DataVersion(result.digest),
        )

    return report


def _judges(family: Family) -> str:
    return f"Every objective about {family} that the scenario has holds."


def _scorer(model: str | None, settings: Settings) -> Scorer | None:
    if model is None:
        return None
    # It loads XGBoost, which a run without a model does not need.
    from ibook_sim.offline.scoring import model_scorer

    return model_scorer(model, settings)


def _shown(
    result: RunResult, checks: Sequence[Check], kept: KeptReport
) -> Mapping[str, dg.MetadataValue | float | str]:
    broken = [check.name for check in checks if not check.passed]
    return {
        "verdict": f"failed: {', '.join(broken)}" if broken else "passed",
        "report": dg.MetadataValue.path(kept.page),
        "figures": dg.MetadataValue.path(kept.figures),
        "seed": result.seed,
        "digest": result.digest,
        "same_as_previous": _compared(result, kept.previous),
        "scorer": result.scorer,
        "orders": int(result.seen.score.size),
        "frauds": int((result.seen.archetype > 0).sum()),
        "objectives": _table(checks, kept.previous),
        "timeline": _timeline(result),
        **_values(checks),
    }


def _values(checks: Sequence[Check]) -> Mapping[str, float]:
    """Measured values by objective; Dagster plots numbers over the runs."""
    return {check.name: check.value for check in checks if not isnan(check.value)}


def _compared(result: RunResult, previous: Mapping[str, Any] | None) -> str:
    if previous is None:
        return "no previous run"
    return "yes" if previous.get("digest") == result.digest else "no"


def _table(checks: Sequence[Check], previous: Mapping[str, Any] | None = None) -> dg.MetadataValue:
    before = {c["name"]: c["value"] for c in previous["checks"]} if previous else {}
    return records(
        {
            "objective": check.name,
            "value": _number(check.value),
            "limit": f"{check.sense} {check.limit:.6g}",
            **({"previous": _number(before.get(check.name))} if previous else {}),
            "passed": check.passed,
            "about": check.about,
        }
        for check in checks
    )


def _said(check: Check) -> str:
    verb = "holds" if check.passed else "is broken"
    return f"{check.name} {verb}: {_number(check.value)}, {check.sense} {check.limit:.4g}"


def _number(value: float | None) -> str:
    return "not measured" if value is None or isnan(value) else f"{value:.6g}"


def _timeline(result: RunResult) -> dg.MetadataValue:
    """Plot of the run: orders a second, latency, orders without an answer, held orders."""
    seen = result.seen
    width = result.duration_seconds / _BINS
    which = np.clip((seen.sent_seconds / width).astype(np.int64), 0, _BINS - 1)
    sent = np.bincount(which, minlength=_BINS)
    some = np.maximum(sent, 1)
    slow = [quantile(seen.latency_ms[which == n], 0.99) for n in range(_BINS)]
    return daily_plot(
        [f"{n * width:.4g} s" for n in range(_BINS)],
        {
            "orders a second": list(sent / width),
            "p99 latency (ms)": slow,
            "unanswered": list(np.bincount(which, ~seen.answered, _BINS) / some),
            "held": list(np.bincount(which, held(seen), _BINS) / some),
        },
    )
