"""The gate: each rule closes it alone, and says why."""

import json
from dataclasses import replace

import pytest

from ibook_assets.core.errors import GateClosedError
from ibook_assets.core.gate import GateEvidence, GateSpec, check_gate
from ibook_assets.core.metrics import Interval

SPEC = GateSpec(
    min_rows=1_000,
    min_frauds=30,
    min_lift=3.0,
    max_calibration_error=0.02,
    max_fpr=0.01,
    min_recall=0.3,
    non_inferiority_margin=0.02,
    min_oracle_share=0.8,
)
GOOD = GateEvidence(
    rows=2_000,
    frauds=60,
    average_precision=Interval(0.60, 0.50, 0.70),
    recall_at_fpr=Interval(0.55, 0.45, 0.65),
    calibration_error=0.004,
    difference=Interval(0.01, -0.015, 0.03),
    oracle_share=Interval(0.9, 0.8, 1.0),
    champion_version="v1",
)


def test_good_evidence_opens_the_gate() -> None:
    report = check_gate(SPEC, GOOD, use_case="fraud", version="v2")
    assert report.passed
    assert report.failures == ()
    report.require()


@pytest.mark.parametrize(
    ("rule", "evidence"),
    [
        ("evaluation_rows", replace(GOOD, rows=999)),
        ("evaluation_frauds", replace(GOOD, frauds=29)),
        # No skill is 60 / 2,000 = 0.03, the floor 3 x 0.03 = 0.09.
        ("average_precision", replace(GOOD, average_precision=Interval(0.2, 0.0899, 0.3))),
        ("recall_at_fpr", replace(GOOD, recall_at_fpr=Interval(0.5, 0.29, 0.6))),
        ("calibration_error", replace(GOOD, calibration_error=0.021)),
        ("gain_over_champion", replace(GOOD, difference=Interval(0.01, -0.021, 0.03))),
        ("oracle_share", replace(GOOD, oracle_share=Interval(0.79, 0.7, 0.9))),
        ("calibration_error", replace(GOOD, calibration_error=float("nan"))),
        ("average_precision", replace(GOOD, average_precision=Interval(0.9, float("nan"), 1.0))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_rule_closes_the_gate_alone(rule: str, evidence: GateEvidence) -> None:
    report = check_gate(SPEC, evidence, use_case="fraud", version="v2")
    assert [r.name for r in report.rules if not r.passed] == [rule]
    with pytest.raises(GateClosedError, match=f"needs {rule}"):
        report.require()


def test_bounds_are_inclusive() -> None:
    edge = replace(GOOD, rows=1_000, frauds=30, calibration_error=0.02)
    assert check_gate(SPEC, edge, use_case="fraud", version="v2").passed


def test_the_first_model_is_held_to_the_floors_alone() -> None:
    first = replace(GOOD, difference=None, oracle_share=None, champion_version=None)
    names = [r.name for r in check_gate(SPEC, first, use_case="fraud", version="v1").rules]
    assert names == [
        "evaluation_rows",
        "evaluation_frauds",
        "average_precision",
        "recall_at_fpr",
        "calibration_error",
    ]


def test_no_evidence_at_all_is_not_a_pass() -> None:
    unknown = Interval(*[float("nan")] * 3)
    empty = GateEvidence(0, 0, unknown, unknown, float("nan"))
    assert len(check_gate(SPEC, empty, use_case="fraud", version="v1").failures) == 5


def test_a_report_is_plain_json_without_nan() -> None:
    unknown = replace(GOOD, recall_at_fpr=Interval(*[float("nan")] * 3))
    plain = check_gate(SPEC, unknown, use_case="fraud", version="v2").as_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["passed"] is False
    assert plain["rules"][3]["value"] is None
