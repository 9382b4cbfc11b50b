"""The gate between a trained challenger and promotion: every rule, its bound and the evidence."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ibook_assets.core.errors import GateClosedError
from ibook_assets.core.metrics import Interval


@dataclass(frozen=True, slots=True)
class GateSpec:
    """Bounds of one use case. Rates and precisions in 0..1."""

    min_rows: int
    """Rows the evaluation window must hold."""
    min_frauds: int
    """Frauds among them; fewer cannot carry a verdict."""
    min_lift: float
    """Average precision must be surely above this multiple of the base rate."""
    max_calibration_error: float
    """Upper bound of the expected calibration error."""
    max_fpr: float
    """False-positive rate at which recall is judged."""
    min_recall: float
    """Recall there must surely reach this."""
    non_inferiority_margin: float
    """Average precision the challenger may at most surely lose against the champion."""
    min_oracle_share: float
    """Share of the oracle's average precision that is due where the truth is known."""


@dataclass(frozen=True, slots=True)
class GateEvidence:
    """What the gate judges, all measured on one mature evaluation window."""

    rows: int
    frauds: int
    average_precision: Interval
    recall_at_fpr: Interval
    calibration_error: float
    difference: Interval | None = None
    """Challenger's minus champion's average precision, paired; None without a champion."""
    oracle_share: Interval | None = None
    """Challenger's share of the oracle's average precision; None on real data."""
    champion_version: str | None = None

    @property
    def base_rate(self) -> float:
        """Average precision of a model without skill."""
        return self.frauds / self.rows if self.rows else math.nan


@dataclass(frozen=True, slots=True)
class GateRule:
    """One rule of the gate as it was judged."""

    name: str
    value: float
    comparison: Literal[">=", "<="]
    bound: float
    passed: bool
    evidence: str

    def __str__(self) -> str:
        """`name value >= bound (evidence)`."""
        return f"{self.name} {self.value:.4g} {self.comparison} {self.bound:.4g} ({self.evidence})"


@dataclass(frozen=True, slots=True)
class GateReport:
    """The gate's verdict on one challenger."""

    use_case: str
    version: str
    champion_version: str | None
    rules: tuple[GateRule, ...]

    @property
    def passed(self) -> bool:
        """Whether every rule holds."""
        return all(rule.passed for rule in self.rules)

    @property
    def failures(self) -> tuple[str, ...]:
        """The rules that do not hold, in words."""
        return tuple(f"needs {rule}" for rule in self.rules if not rule.passed)

    def require(self) -> None:
        """GateClosedError unless every rule holds."""
        if not self.passed:
            raise GateClosedError(use_case=self.use_case, failures=self.failures)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, for the promotion record and metadata; non-finite numbers are None."""
        rules = [
            {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in r.items()}
            for r in map(asdict, self.rules)
        ]
        return {
            "use_case": self.use_case,
            "version": self.version,
            "champion_version": self.champion_version,
            "passed": self.passed,
            "rules": rules,
        }


def check_gate(
    spec: GateSpec, evidence: GateEvidence, *, use_case: str, version: str
) -> GateReport:
    """Judge `evidence` by `spec`. A bound that cannot be computed counts as not met.

    The first model of a use case has no champion to compare with and is held to the floors alone.
    """
    ap, recall = evidence.average_precision, evidence.recall_at_fpr
    floor = spec.min_lift * evidence.base_rate
    rules = [
        _at_least("evaluation_rows", evidence.rows, spec.min_rows, "rows with mature labels"),
        _at_least("evaluation_frauds", evidence.frauds, spec.min_frauds, "confirmed frauds"),
        _at_least(
            "average_precision",
            ap.low,
            floor,
            f"lower bound of {_show(ap)}; no skill is {evidence.base_rate:.4f}",
        ),
        _at_least(
            "recall_at_fpr",
            recall.low,
            spec.min_recall,
            f"lower bound of {_show(recall)} at FPR {spec.max_fpr:.2%}",
        ),
        _at_most(
            "calibration_error",
            evidence.calibration_error,
            spec.max_calibration_error,
            "mean gap of predicted and observed rate over ten equal bins",
        ),
    ]
    if evidence.difference is not None:
        rules.append(
            _at_least(
                "gain_over_champion",
                evidence.difference.low,
                -spec.non_inferiority_margin,
                f"lower bound of {_show(evidence.difference)} against {evidence.champion_version}",
            )
        )
    if evidence.oracle_share is not None:
        rules.append(
            _at_least(
                "oracle_share",
                evidence.oracle_share.value,
                spec.min_oracle_share,
                f"{_show(evidence.oracle_share)} of the best possible average precision",
            )
        )
    return GateReport(use_case, version, evidence.champion_version, tuple(rules))


def _show(interval: Interval) -> str:
    return f"{interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}] at {interval.level:.0%}"


def _at_least(name: str, value: float, bound: float, evidence: str) -> GateRule:
    return GateRule(name, float(value), ">=", float(bound), value >= bound, evidence)


def _at_most(name: str, value: float, bound: float, evidence: str) -> GateRule:
    return GateRule(name, float(value), "<=", float(bound), value <= bound, evidence)
