"""What servers wrote, back in the graph: predictions with their traces, and outcomes."""

import io
from collections.abc import Iterator
from typing import Any, Final

import dagster as dg
import numpy as np
import pyarrow as pa

from ibook_assets.core.arrow import pc
from ibook_assets.core.errors import IntegrityError
from ibook_assets.core.predictions import of_row, verify
from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import EXPERIMENT_OUTCOMES, PREDICTIONS, TableSpec
from ibook_assets.defs.landing import Landed, Landing
from ibook_assets.defs.metadata import png, records, table_schema
from ibook_assets.defs.partitions import LOG, ML_PLATFORM, RAW, SINGLE_RUN, daily
from ibook_assets.defs.raw import NOTHING_QUARANTINED, landed_result
from ibook_assets.defs.resources import LakeResource
from ibook_assets.defs.runs import fails_fast, feature_retries, live_run_check
from ibook_assets.defs.sources import LandedLog

CHECKSUMS_HOLD: Final = "checksums_hold"

FAULTS_SHOWN: Final = 50
"""Traces named whose checksum does not hold."""

SCORE_BINS: Final = 50


def served_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """The prediction log and the outcomes of experiments, a day a partition."""
    return [_predictions(settings), _outcomes(settings)]


def _predictions(settings: Settings) -> dg.AssetsDefinition:
    key = dg.AssetKey([RAW, PREDICTIONS.name])

    @dg.asset(
        key=key,
        deps=[[LOG, PREDICTIONS.name]],
        group_name=RAW,
        owners=[ML_PLATFORM],
        kinds={"parquet"},
        description=PREDICTIONS.description,
        partitions_def=daily(settings),
        backfill_policy=SINGLE_RUN,
        retry_policy=feature_retries(settings),
        metadata={"dagster/column_schema": table_schema(PREDICTIONS)},
        check_specs=[
            _quarantine_check(key),
            dg.AssetCheckSpec(
                CHECKSUMS_HOLD, asset=key, description="Every trace is what its server sealed."
            ),
        ],
    )
    @fails_fast
    def predictions(
        context: dg.AssetExecutionContext, lake: LakeResource
    ) -> Iterator[dg.MaterializeResult[None]]:
        landed = _landed(context, lake, PREDICTIONS)
        faults: list[dict[str, str]] = []
        for one in landed:
            rows = lake.tables.read_files([one.receipt], spec=PREDICTIONS)
            faults += _faults(one.day, rows)
            context.add_asset_metadata(_shown(rows), asset_key=key, partition_key=one.day)
        result = landed_result(context, key, landed)
        yield result._replace(check_results=[*(result.check_results or ()), _sealed(key, faults)])

    return predictions


def _outcomes(settings: Settings) -> dg.AssetsDefinition:
    key = dg.AssetKey([RAW, EXPERIMENT_OUTCOMES.name])

    @dg.asset(
        key=key,
        deps=[[LOG, EXPERIMENT_OUTCOMES.name]],
        group_name=RAW,
        owners=[ML_PLATFORM],
        kinds={"parquet"},
        description=EXPERIMENT_OUTCOMES.description,
        partitions_def=daily(settings),
        backfill_policy=SINGLE_RUN,
        retry_policy=feature_retries(settings),
        metadata={"dagster/column_schema": table_schema(EXPERIMENT_OUTCOMES)},
        check_specs=[_quarantine_check(key)],
    )
    @fails_fast
    def experiment_outcomes(
        context: dg.AssetExecutionContext, lake: LakeResource
    ) -> Iterator[dg.MaterializeResult[None]]:
        yield landed_result(context, key, _landed(context, lake, EXPERIMENT_OUTCOMES))

    return experiment_outcomes


def _quarantine_check(key: dg.AssetKey) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(NOTHING_QUARANTINED, asset=key, description="No row was refused.")


def _landed(context: dg.AssetExecutionContext, lake: LakeResource, spec: TableSpec) -> list[Landed]:
    landing = Landing(LandedLog(lake.blobs), [spec], context.partition_keys)
    landing.run(lake.tables, precommit=live_run_check(context))
    return landing.of(spec)


def _faults(day: str, rows: pa.Table) -> list[dict[str, str]]:
    found = []
    for row in rows.to_pylist():
        trace = of_row(row)
        try:
            verify(trace, where=trace.name)
        except IntegrityError as error:
            found.append({"day": day, "trace": trace.name, "what": str(error)})
    return found


def _shown(rows: pa.Table) -> dict[str, Any]:
    """Rows of each variant, and how their scores are spread."""
    counts = rows.group_by("variant").aggregate([("variant", "count")])
    variants = dict(zip(*(counts[name].to_pylist() for name in counts.column_names), strict=True))
    found: dict[str, Any] = {f"rows_{name}": count for name, count in sorted(variants.items())}
    found["degraded_rows"] = rows.num_rows - rows["degraded"].null_count
    if rows.num_rows:
        found["scores"] = _histogram(rows, sorted(variants))
    return found


def _histogram(rows: pa.Table, variants: list[str]) -> dg.MetadataValue:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    axis = figure.subplots()
    bins = np.linspace(0, 1, SCORE_BINS + 1).tolist()
    for variant in variants:
        scores = rows.filter(pc.field("variant") == variant)["score"].to_numpy()
        axis.hist(scores, bins=bins, histtype="step", label=f"{variant} ({len(scores):,})")
    axis.set_yscale("log")
    axis.set_xlabel("score", fontsize=8)
    axis.set_ylabel("predictions", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=7, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return png(buffer.getvalue(), "scores by variant")


def _sealed(key: dg.AssetKey, faults: list[dict[str, str]]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=CHECKSUMS_HOLD,
        asset_key=key,
        passed=not faults,
        metadata={"traces": records(faults[:FAULTS_SHOWN])} if faults else {},
    )
