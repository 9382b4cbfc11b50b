"""A run as one JSON document of plain values; the page is made of nothing else."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final

import numpy as np

from ibook_assets.core.errors import ContractError
from ibook_assets.core.monitoring import DriftDecision
from ibook_assets.core.tables import ARCHETYPES
from ibook_sim.judging.calibration import calibration_table
from ibook_sim.judging.findings import PartFound, RunResult, Seen
from ibook_sim.judging.validators import (
    held,
    honest_revenue,
    judged,
    oracle_precision,
    quantile,
    saved_cents,
    scored,
)
from ibook_sim.world.randomness import Bools, Floats

BINS: Final = 60
"""Points of a timeline."""
_CURVE: Final = (*np.linspace(0.0, 0.9, 46), *np.linspace(0.91, 0.999, 90), 1.0)
"""Shares at which the distribution of latency is drawn: finely where it matters."""


def summary(result: RunResult) -> dict[str, Any]:
    """The run in plain values; equal runs give equal documents."""
    seen = result.seen
    checks = judged(result)
    return {
        "scenario": result.scenario.name,
        "description": result.scenario.description,
        "mode": result.mode,
        "passed": not result.interrupted and all(check.passed for check in checks),
        "interrupted": result.interrupted,
        "seed": result.seed,
        "digest": result.digest,
        "scorer": result.scorer,
        "duration_seconds": result.duration_seconds,
        "orders": seen.score.size,
        "frauds": int((seen.archetype > 0).sum()) if seen.truth_known else None,
        "answered": int(seen.answered.sum()),
        "dropped": int(seen.dropped.sum()),
        "refused": int(seen.refused.sum()),
        "failed": int(seen.failed.sum()),
        "duplicated": sum(part.books.duplicated for part in result.parts),
        "latency_ms": {str(q): _plain(quantile(seen.latency_ms, q)) for q in (0.5, 0.95, 0.99)},
        **(_against_truth(seen) if seen.truth_known else {}),
        "drift": _drift(result),
        "parts": [_part(part) for part in result.parts],
        "checks": [
            {
                "family": check.family,
                "name": check.name,
                "about": check.about,
                "value": _plain(check.value),
                "sense": check.sense,
                "limit": check.limit,
                "passed": check.passed,
            }
            for check in checks
        ],
        "timeline": _timeline(result),
        "latency_curve": _latency_curve(seen),
        "realtime": dict(result.pace.figures) if result.pace else None,
        "configuration": result.scenario.model_dump(mode="json"),
    }


def read_summary(path: Path) -> dict[str, Any]:
    """A previous run's document.

    Raises:
        ContractError: `path` holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{path} is not JSON ({error}); give the .json file beside a report"
        raise ContractError(msg) from error
    checks = found.get("checks") if isinstance(found, dict) else None
    if not isinstance(checks, list) or not all(
        isinstance(c, dict) and {"name", "value"} <= c.keys() for c in checks
    ):
        msg = f"{path} is not the document of a run; give the .json file beside a report"
        raise ContractError(msg)
    return dict(found)


def _against_truth(seen: Seen) -> dict[str, Any]:
    own, bound = oracle_precision(seen)
    saved, possible = saved_cents(seen)
    kept, honest = honest_revenue(seen)
    return {
        "average_precision": {"score": _plain(own), "bound": _plain(bound)},
        "money_cents": {
            "saved": saved,
            "saved_at_best": possible,
            "honest_kept": kept,
            "honest": honest,
        },
        "confusion": _confusion(seen),
        "calibration": _calibration(seen),
    }


def _confusion(seen: Seen) -> dict[str, dict[str, int]]:
    stopped, answered = held(seen), seen.answered
    return {
        name: {
            "passed": int((mine & answered & ~stopped).sum()),
            "held": int((mine & stopped).sum()),
            "unanswered": int((mine & ~answered).sum()),
        }
        for code, name in enumerate(ARCHETYPES)
        for mine in (seen.archetype == code,)
    }


def _calibration(seen: Seen) -> list[dict[str, Any]]:
    rows = scored(seen)
    if not rows.any():
        return []
    found = calibration_table(seen.archetype[rows] > 0, seen.score[rows], seen.account[rows])
    return [
        {
            "predicted": one.predicted,
            "observed": one.observed,
            "low": one.rate_low,
            "high": one.rate_high,
            "orders": one.orders,
            "calibrated": one.calibrated,
        }
        for one in found
    ]


def _drift(result: RunResult) -> dict[str, Any]:
    """The drift of the part that moved most; a run that is no mix has one part."""
    return {"part": result.moved.scenario.name, **_part(result.moved)["drift"]}


def _part(part: PartFound) -> dict[str, Any]:
    drift = part.scenario.drift
    labels = part.labels
    return {
        "scenario": part.scenario.name,
        "orders": part.orders,
        "drift": {
            "level": drift.level,
            "axes": list(drift.axes) if drift.level else [],
            "seed": drift.seed,
            "reached": {share.axis: _plain(share.share) for share in part.drifted},
            "score": part.index,
            "columns": {d.column: [d.stability_index, d.total_variation] for d in part.divergences},
        },
        "platform_drift": _platform(part.platform),
        "labels": None
        if labels is None
        else {
            "in_time_share": _plain(labels.in_time_share),
            "delay_p95_days": _plain(labels.delay_p95_days),
        },
    }


def _platform(found: DriftDecision | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "score": found.score,
        "threshold": found.score_threshold,
        "fires": found.score_fires,
        "verdict": found.state,
        "reason": found.reason,
        "drifted": [column.name for column in found.columns if column.drifted],
        "columns": len(found.columns),
    }


def _timeline(result: RunResult) -> dict[str, list[float | None]]:
    """Figures over the run, one for each of `BINS` slices of it."""
    seen = result.seen
    edges = np.linspace(0.0, result.duration_seconds, BINS + 1)
    which = np.clip(np.searchsorted(edges, seen.sent_seconds, side="right") - 1, 0, BINS - 1)
    sent = np.bincount(which, minlength=BINS)
    slices = [seen.latency_ms[which == b] for b in range(BINS)]
    columns = {
        "seconds": (edges[1:] + edges[:-1]) / 2,
        "orders_per_second": sent / (edges[1] - edges[0]),
        "latency_p50_ms": np.array([quantile(part, 0.5) for part in slices]),
        "latency_p99_ms": np.array([quantile(part, 0.99) for part in slices]),
        "unanswered_share": _share(which, ~seen.answered),
        "held_share": _share(which, held(seen)),
    }
    if seen.truth_known:
        columns["fraud_share"] = _share(which, seen.archetype > 0)
    return {
        name: [_plain(float(f"{v:.6g}")) for v in values.tolist()]
        for name, values in columns.items()
    }


def _share(which: np.ndarray[Any, Any], hit: Bools) -> Floats:
    total = np.bincount(which, minlength=BINS).astype(np.float64)
    total[total == 0] = np.nan
    return np.asarray(np.bincount(which, hit, BINS) / total)


def _latency_curve(seen: Seen) -> list[list[float]]:
    """(milliseconds, share of orders answered within them), rising."""
    present = seen.latency_ms[~np.isnan(seen.latency_ms)]
    if not present.size:
        return []
    found = np.quantile(present, _CURVE)
    return [[float(f"{ms:.6g}"), share] for ms, share in zip(found, _CURVE, strict=True)]


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
