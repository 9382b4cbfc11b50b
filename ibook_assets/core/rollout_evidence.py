"""The evidence of a rollout's decision as numbers with names, as trackers of experiments plot them.

```
rollout.shadow.log10_e_value                  of the step, beside log10_bound, which is too much
rollout.canary.latency.challenger_rate        of each finding, beside the champion's
```
"""

from __future__ import annotations

import math
from typing import Final

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from ibook_assets.core.errors import ContractError
from ibook_assets.core.times import SECOND_US

_LOG_10: Final = math.log(10)


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Finding(_Stored):
    metric: str
    champion_rate: FiniteFloat | None
    challenger_rate: FiniteFloat | None
    champion_units: int
    challenger_units: int
    evidence: tuple[FiniteFloat, ...]


class _Evidence(_Stored):
    """What `Analysis.as_dict` wrote."""

    since_us: int
    until_us: int
    log_bound: FiniteFloat
    log_e: FiniteFloat
    findings: tuple[_Finding, ...]


def evidence_numbers(document: bytes, *, stage: str, path: str) -> dict[str, float]:
    """The numbers of stored evidence about a `stage` of a rollout; what was not seen is left out.

    Raises:
        ContractError: it is no evidence this code can read; names its `path`.
    """
    try:
        found = _Evidence.model_validate_json(document)
    except ValidationError as error:
        msg = f"{path} is no evidence of a rollout ({error}); restore it from a copy"
        raise ContractError(msg) from error
    numbers: dict[str, float | None] = {
        "log10_e_value": found.log_e / _LOG_10,
        "log10_bound": found.log_bound / _LOG_10,
        "watched_seconds": (found.until_us - found.since_us) / SECOND_US,
    }
    for finding in found.findings:
        last = finding.evidence[-1] if finding.evidence else 0.0
        numbers |= {
            f"{finding.metric}.log10_e_value": last / _LOG_10,
            f"{finding.metric}.challenger_rate": finding.challenger_rate,
            f"{finding.metric}.challenger_units": finding.challenger_units,
            f"{finding.metric}.champion_rate": finding.champion_rate,
            f"{finding.metric}.champion_units": finding.champion_units,
        }
    return {
        f"rollout.{stage}.{name}": float(value)
        for name, value in numbers.items()
        if value is not None
    }
