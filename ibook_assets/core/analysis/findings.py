"""What an analysis found: one finding a metric, and the verdict they give together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np

from ibook_assets.core.analysis.eprocess import Logs

Verdict = Literal["failed", "sound", "inconclusive"]
"""`failed`: worse than tolerated, at the stated false-alarm rate. `sound`: enough was seen, and
nothing of the kind. `inconclusive`: too little was seen to say anything."""

MOST_EVIDENCE: Final = 700.0
"""Log of the greatest e-value shown; beyond, a float is infinite."""


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """One metric of a challenger beside the champion's."""

    metric: str
    detail: str
    """Which part of the metric moved most, in words."""
    champion_rate: float | None
    """None where it was not seen, or an absolute limit is judged."""
    challenger_rate: float | None
    champion_units: int
    challenger_units: int
    evidence: Logs
    """Shape (m,): the log e-value after each window."""
    times_us: tuple[int, ...]
    """Ends of the windows, ascending."""
    enough: bool
    """Whether enough units were seen for a sound verdict; metrics without it say nothing."""
    required: bool
    """Whether a rollout waits until there is enough of it."""

    @property
    def log_e(self) -> float:
        """The log e-value after the last window; 0 before the first."""
        return float(self.evidence[-1]) if len(self.evidence) else 0.0

    def __str__(self) -> str:
        """`flags: 31.0 % of 412 against 2.1 % of 7,800 (detail)`."""
        told = f"{_share(self.challenger_rate)} of {self.challenger_units:,}"
        if self.champion_rate is not None:
            told += f" against {_share(self.champion_rate)} of {self.champion_units:,}"
        return f"{self.metric}: {told} ({self.detail})"


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """All findings about one challenger in one step of its rollout."""

    stage: str
    version: str
    champion_version: str
    since_us: int
    until_us: int
    false_alarm_rate: float
    """Chance that a challenger within all that is tolerated fails in this step, over all looks."""
    findings: tuple[Finding, ...]

    @property
    def log_bound(self) -> float:
        """The log e-value that is too much."""
        return -math.log(self.false_alarm_rate)

    @property
    def path(self) -> tuple[tuple[int, ...], Logs]:
        """Times and the log of the mean e-value over all metrics, each at its newest window."""
        times = sorted({t for finding in self.findings for t in finding.times_us})
        if not times:
            return (), np.zeros(0)
        levels = []
        for finding in self.findings:
            at = np.searchsorted(finding.times_us, times, side="right")
            levels.append(np.concatenate([[0.0], finding.evidence])[at])
        found: Logs = np.logaddexp.reduce(np.array(levels), axis=0) - math.log(len(levels))
        return tuple(times), found

    @property
    def log_e(self) -> float:
        """The greatest log e-value so far: what has once been too much stays so."""
        _, path = self.path
        return float(max(path, default=0.0))

    @property
    def verdict(self) -> Verdict:
        """What follows."""
        if self.log_e >= self.log_bound:
            return "failed"
        waited_for = [finding for finding in self.findings if finding.required]
        return "sound" if all(finding.enough for finding in waited_for) else "inconclusive"

    @property
    def worst(self) -> Finding:
        """The metric with the most evidence against the challenger."""
        return max(self.findings, key=lambda finding: max(finding.evidence, default=0.0))

    @property
    def missing(self) -> tuple[str, ...]:
        """Metrics a rollout waits for."""
        return tuple(f.metric for f in self.findings if f.required and not f.enough)

    def __str__(self) -> str:
        """The verdict in one line."""
        if self.verdict == "failed":
            return f"failed: {self.worst}; e-value {_e(self.log_e)}, bound {_e(self.log_bound)}"
        if self.verdict == "inconclusive":
            return f"inconclusive: too little seen of {', '.join(self.missing)}"
        return f"sound: e-value {_e(self.log_e)} of {_e(self.log_bound)}"

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values: the evidence that is kept."""
        times, path = self.path
        findings = []
        for finding in self.findings:
            plain = asdict(finding)
            plain["times_us"] = list(finding.times_us)
            plain["evidence"] = [round(float(value), 4) for value in finding.evidence]
            findings.append(plain)
        return {
            "stage": self.stage,
            "version": self.version,
            "champion_version": self.champion_version,
            "since_us": self.since_us,
            "until_us": self.until_us,
            "verdict": self.verdict,
            "summary": str(self),
            "false_alarm_rate": self.false_alarm_rate,
            "log_bound": self.log_bound,
            "log_e": self.log_e,
            "path": {"times_us": list(times), "log_e": [round(float(v), 4) for v in path]},
            "findings": findings,
        }


def shown(findings: Sequence[Finding]) -> list[dict[str, str | int | bool]]:
    """The findings as rows of a table for people."""
    return [
        {
            "metric": finding.metric,
            "challenger": _share(finding.challenger_rate),
            "units": finding.challenger_units,
            "champion": _share(finding.champion_rate),
            "champion_units": finding.champion_units,
            "e_value": _e(finding.log_e),
            "enough": finding.enough,
            "detail": finding.detail,
        }
        for finding in findings
    ]


def _share(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.2%}"


def _e(log_value: float) -> str:
    return f"{math.exp(min(log_value, MOST_EVIDENCE)):.3g}"
