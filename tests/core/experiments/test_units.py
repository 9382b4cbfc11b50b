"""Units: each user once, by the first answer, followed for as long as defined."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibook_assets.core.experiments.definition import Experiment
from ibook_assets.core.experiments.metrics import METRICS
from ibook_assets.core.experiments.units import (
    UNITS,
    Units,
    answers_of,
    exposures_of,
    followed,
    labels_of,
    units_of,
)
from ibook_assets.core.tables import EXPERIMENT_OUTCOMES, OUTCOMES
from tests.core.experiments.made import SOUND, STARTED_US, an_experiment, answer, rows

HOUR_US = 3_600_000_000
NEVER = 2**62


def reported(**fields: Any) -> dict[str, Any]:
    said = {"outcome_id": "o", "occurred_ts": 0, "experiment": "fees", "outcome": "fraud"}
    return {name: (said | fields).get(name) for name in EXPERIMENT_OUTCOMES.column_names}


def counted(
    answers: pa.Table,
    outcomes: list[dict[str, Any]] | None = None,
    experiment: Experiment | None = None,
    until_us: int = NEVER,
) -> Units:
    chosen = experiment or an_experiment(follow_up_hours=24)
    found = answers_of(answers, chosen, SOUND)
    spec = OUTCOMES if chosen.outcomes == "chargebacks" else EXPERIMENT_OUTCOMES
    labels = labels_of(pa.Table.from_pylist(outcomes or [], schema=spec.schema), found, chosen)
    exposures = exposures_of(found, until_us=until_us)
    return units_of(
        followed(
            exposures,
            found,
            labels,
            follow_up_us=chosen.follow_up_us,
            as_of_us=STARTED_US,
        )
    )


def test_the_first_answer_decides_the_arm_and_a_switch_is_told() -> None:
    found = counted(
        rows(
            answer("b", user_id=7, known_ts=STARTED_US + 5, variant="treatment"),
            answer("a", user_id=7, known_ts=STARTED_US + 1, decision="review"),
            answer("c", user_id=3, known_ts=STARTED_US + 3, variant="treatment"),
        )
    )
    assert found.user_id.tolist() == [7, 3]
    assert found.treated.tolist() == [False, True]
    assert found.switched.tolist() == [True, False]
    assert found.answers.tolist() == [2, 1]
    assert found.events["review_rate"].tolist() == [1, 0]
    assert found.events["approval_rate"].tolist() == [1, 1]


def test_what_is_not_the_experiments_does_not_count() -> None:
    found = counted(
        rows(
            answer("a", user_id=1),
            answer("shadow", user_id=2, served=False, variant="shadow"),
            answer("other", user_id=3, experiment="colours"),
            answer("none", user_id=4, experiment=None, variant="champion"),
            answer("pricing", user_id=5, use_case="pricing"),
        )
    )
    assert found.user_id.tolist() == [1]


def test_a_request_id_used_twice_is_two_answers_and_one_exposure() -> None:
    first = answer("a", user_id=1, decision="review")
    found = counted(rows(first, answer("a", user_id=1, known_ts=STARTED_US + 9)))
    assert found.user_id.tolist() == [1]
    assert found.answers.tolist() == [2]
    assert found.events["review_rate"].tolist() == [1]


def test_answers_count_to_the_end_of_the_follow_up() -> None:
    late = STARTED_US + 24 * HOUR_US
    found = counted(
        rows(
            answer("a", user_id=1),
            answer("b", user_id=1, known_ts=late, decision="review"),
            answer("c", user_id=1, known_ts=late + 1, decision="review"),
        )
    )
    assert found.events["review_rate"].tolist() == [1]
    first_only = counted(
        rows(answer("a", user_id=1), answer("b", user_id=1, known_ts=STARTED_US + 1)),
        experiment=an_experiment(follow_up_hours=0),
    )
    assert first_only.answers.tolist() == [1]


def test_who_comes_after_the_end_or_outside_the_design_is_told_apart() -> None:
    found = counted(
        rows(
            answer("a", user_id=1, record_sequence=9),
            answer("b", user_id=1, known_ts=STARTED_US + 1),
            answer("c", user_id=2, known_ts=STARTED_US + 2),
            answer("d", user_id=3, known_ts=STARTED_US + 3),
        ),
        until_us=STARTED_US + 3,
    )
    assert found.user_id.tolist() == [1, 2]
    assert found.designed.tolist() == [False, True]


@pytest.mark.parametrize("decision", ["approve", "review"])
@pytest.mark.parametrize("outcome", ["fraud", "legitimate", None])
def test_outcomes_make_frauds_missed_and_false_reviews(decision: str, outcome: str | None) -> None:
    outcomes = [] if outcome is None else [reported(request_id="a", known_ts=0, outcome=outcome)]
    found = counted(rows(answer("a", user_id=1, decision=decision)), outcomes)
    missed = (decision, outcome) == ("approve", "fraud")
    false = (decision, outcome) == ("review", "legitimate")
    assert found.events["fraud_missed_rate"].tolist() == [missed]
    assert found.events["false_review_rate"].tolist() == [false]


def test_the_latest_outcome_known_in_time_counts() -> None:
    answers = rows(answer("a", user_id=1, transaction_id=77))
    hours = (1, 2, 25)
    said = [
        reported(transaction_id=77, known_ts=STARTED_US + hours[0] * HOUR_US, outcome="legitimate"),
        reported(request_id="a", known_ts=STARTED_US + hours[1] * HOUR_US, outcome="fraud"),
        reported(request_id="a", known_ts=STARTED_US + hours[2] * HOUR_US, outcome="legitimate"),
    ]
    assert counted(answers, said).events["fraud_missed_rate"].tolist() == [1]
    assert counted(answers, said[:1]).events["fraud_missed_rate"].tolist() == [0]
    other = [reported(request_id="a", known_ts=STARTED_US, experiment="colours")]
    assert counted(answers, other).events["fraud_missed_rate"].tolist() == [0]


def test_chargebacks_come_from_the_platforms_outcomes() -> None:
    experiment = an_experiment(follow_up_hours=24, outcomes="chargebacks")
    answers = rows(
        answer("a", user_id=1, transaction_id=77),
        answer("b", user_id=2, transaction_id=78),
        answer("c", user_id=3),
    )
    said = [
        {"transaction_id": 77, "known_ts": STARTED_US + 5, "is_fraud": 1, "amount_cents": 1},
        {"transaction_id": 78, "known_ts": STARTED_US + 5, "is_fraud": 0, "amount_cents": 1},
    ]
    found = counted(answers, said, experiment)
    assert found.events["fraud_missed_rate"].tolist() == [1, 0, 0]


def test_an_experiment_without_answers_has_no_units() -> None:
    found = counted(rows())
    assert found.user_id.size == 0
    assert all(events.size == 0 for events in found.events.values())


answers_lists = st.lists(
    st.fixed_dictionaries(
        {
            "user_id": st.integers(0, 5),
            "known_ts": st.integers(0, 60).map(lambda hours: STARTED_US + hours * HOUR_US),
            "variant": st.sampled_from(["control", "treatment"]),
            "decision": st.sampled_from(["approve", "review"]),
            "transaction_id": st.none() | st.integers(0, 6),
        }
    ),
    max_size=25,
).map(lambda found: [answer(f"r-{i}", **fields) for i, fields in enumerate(found)])
outcome_lists = st.lists(
    st.fixed_dictionaries(
        {
            "request_id": st.none() | st.integers(0, 24).map("r-{}".format),
            "transaction_id": st.none() | st.integers(0, 6),
            "known_ts": st.integers(0, 80).map(lambda hours: STARTED_US + hours * HOUR_US),
            "outcome": st.sampled_from(["fraud", "legitimate"]),
        }
    ).map(lambda fields: reported(**fields)),
    max_size=15,
)


@given(answers_lists, outcome_lists)
def test_arrays_count_what_a_plain_loop_counts(
    answers: list[dict[str, Any]], outcomes: list[dict[str, Any]]
) -> None:
    found = counted(rows(*answers), outcomes)
    told = {
        user: (arm, n, *(int(found.events[name][i]) for name in METRICS))
        for i, (user, arm, n) in enumerate(
            zip(found.user_id.tolist(), found.treated.tolist(), found.answers.tolist(), strict=True)
        )
    }
    assert told == naive(answers, outcomes)
    assert (np.diff(found.exposed_ts) >= 0).all()


def naive(answers: list[dict[str, Any]], outcomes: list[dict[str, Any]]) -> dict[int, Any]:
    """The same, one answer after the other."""
    units: dict[int, Any] = {}
    for row in sorted(answers, key=lambda a: (a["known_ts"], a["request_id"])):
        first = units.setdefault(
            row["user_id"], [row["known_ts"] + 24 * HOUR_US, row["variant"], 0, 0, 0, 0, 0, 0]
        )
        if row["known_ts"] > first[0]:
            continue
        label = newest(row, outcomes, first[0])
        reviewed = row["decision"] == "review"
        first[2] += 1
        first[3] += not reviewed
        first[4] += reviewed
        first[5] += not reviewed and label == "fraud"
        first[6] += reviewed and label == "legitimate"
    return {user: (unit[1] == "treatment", *unit[2:]) for user, unit in units.items()}


def newest(row: dict[str, Any], outcomes: list[dict[str, Any]], cutoff: int) -> str | None:
    order = row["transaction_id"]
    about = [
        (said["known_ts"], said["outcome"] == "fraud", said["outcome"])
        for said in outcomes
        if said["known_ts"] <= cutoff
        and (
            said["request_id"] == row["request_id"]
            or (order is not None and said["transaction_id"] == order)
        )
    ]
    return max(about)[2] if about else None


def test_the_table_of_units_holds_every_metric() -> None:
    assert set(METRICS) < set(UNITS.column_names)
