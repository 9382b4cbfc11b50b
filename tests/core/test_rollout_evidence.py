"""The evidence of a rollout as numbers: those of the analysis, and nothing where nothing was."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibook_assets.core.analysis.findings import Analysis, Finding
from ibook_assets.core.errors import ContractError
from ibook_assets.core.rollout_evidence import evidence_numbers

FLAGS = Finding(
    metric="flags",
    detail="held, higher",
    champion_rate=0.02,
    challenger_rate=0.05,
    champion_units=500,
    challenger_units=400,
    evidence=np.array([math.log(10), math.log(1_000)]),
    times_us=(1_000_000, 2_000_000),
    enough=True,
    required=True,
)
SILENCE = Finding(
    metric="silence",
    detail="at most 1.0%",
    champion_rate=None,
    challenger_rate=None,
    champion_units=0,
    challenger_units=0,
    evidence=np.zeros(0),
    times_us=(),
    enough=False,
    required=True,
)


def document(*findings: Finding, **changes: Any) -> bytes:
    found = Analysis(
        stage="shadow",
        version="v2",
        champion_version="v1",
        since_us=0,
        until_us=90_000_000,
        false_alarm_rate=0.01,
        findings=findings,
    )
    return json.dumps({**found.as_dict(), **changes}).encode()


def test_every_number_has_a_name_and_what_was_not_seen_has_none() -> None:
    found = evidence_numbers(document(FLAGS, SILENCE), stage="shadow", path="p")
    # Of two metrics, one at 1 and one at 1,000: their mean is 500.5.
    assert found == pytest.approx(
        {
            "rollout.shadow.log10_e_value": math.log10(500.5),
            "rollout.shadow.log10_bound": 2.0,
            "rollout.shadow.watched_seconds": 90.0,
            "rollout.shadow.flags.log10_e_value": 3.0,
            "rollout.shadow.flags.challenger_rate": 0.05,
            "rollout.shadow.flags.challenger_units": 400.0,
            "rollout.shadow.flags.champion_rate": 0.02,
            "rollout.shadow.flags.champion_units": 500.0,
            "rollout.shadow.silence.log10_e_value": 0.0,
            "rollout.shadow.silence.challenger_units": 0.0,
            "rollout.shadow.silence.champion_units": 0.0,
        },
        abs=1e-3,
    )


@given(
    st.lists(st.floats(-1_000, 700), max_size=5),
    st.none() | st.floats(0, 1),
    st.integers(0, 10**9),
)
def test_whatever_was_found_the_numbers_are_finite(
    evidence: list[float], rate: float | None, units: int
) -> None:
    finding = Finding(
        metric="scores",
        detail="scores from 0.5, lower",
        champion_rate=rate,
        challenger_rate=rate,
        champion_units=units,
        challenger_units=units,
        evidence=np.array(evidence),
        times_us=tuple(range(len(evidence))),
        enough=True,
        required=True,
    )
    found = evidence_numbers(document(finding), stage="canary", path="p")
    assert all(math.isfinite(value) for value in found.values())
    assert ("rollout.canary.scores.champion_rate" in found) is (rate is not None)


@pytest.mark.parametrize("damaged", [b"{}", b"not JSON", document(FLAGS, log_e=None)])
def test_what_is_no_evidence_is_refused_by_its_path(damaged: bytes) -> None:
    with pytest.raises(ContractError, match=r"^lake/x\.json is no evidence of a rollout"):
        evidence_numbers(damaged, stage="shadow", path="lake/x.json")
