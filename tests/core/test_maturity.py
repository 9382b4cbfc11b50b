"""Label maturity and time splits: nothing from the future, nothing on two sides."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibook_assets.core.errors import ContractError
from ibook_assets.core.maturity import admitted, labels_as_of, split_by_time, unseen

OUTCOMES = pa.table(
    {
        # 1: settled, then charged back later; 2: settled; 3: charged back.
        "transaction_id": [1, 1, 2, 3],
        "known_ts": [50, 80, 50, 60],
        "is_fraud": [0, 1, 0, 1],
    }
)


def test_a_row_is_admitted_once_its_label_could_have_arrived() -> None:
    # 100 - 30 = 70: known at 70 is in, at 71 not yet.
    known_ts = np.array([10, 70, 71])
    assert admitted(known_ts, as_of_us=100, maturity_us=30).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("as_of_us", "expected"),
    [(59, [0, 0, 0, 0]), (60, [0, 0, 1, 0]), (79, [0, 0, 1, 0]), (80, [1, 0, 1, 0])],
)
def test_a_label_is_what_was_known_then(as_of_us: int, expected: list[int]) -> None:
    ids = np.array([1, 2, 3, 4])
    assert labels_as_of(ids, OUTCOMES, as_of_us=as_of_us).tolist() == expected


@given(st.lists(st.integers(0, 200), min_size=1), st.integers(0, 200))
def test_later_knowledge_never_takes_a_fraud_back(ids: list[int], as_of_us: int) -> None:
    now = labels_as_of(np.array(ids), OUTCOMES, as_of_us=as_of_us)
    later = labels_as_of(np.array(ids), OUTCOMES, as_of_us=as_of_us + 10)
    assert (later >= now).all()


@given(
    st.lists(st.integers(0, 50), min_size=30, max_size=200),
    st.floats(0.1, 0.5),
    st.integers(0, 3),
)
def test_parts_lie_in_order_and_never_overlap(
    times: list[int], evaluation_share: float, gap_us: int
) -> None:
    known_ts = np.array(times)
    try:
        split = split_by_time(known_ts, evaluation_share=evaluation_share, gap_us=gap_us)
    except ContractError:
        return
    fitting, calibration = split.fitting(known_ts), split.calibration(known_ts)
    evaluation = split.evaluation(known_ts)
    assert (fitting.astype(int) + calibration + evaluation <= 1).all()
    assert known_ts[fitting].max() < known_ts[calibration].min()
    assert known_ts[calibration].max() + gap_us < known_ts[evaluation].min()
    assert (split.training(known_ts) == (fitting | calibration)).all()
    assert (unseen(known_ts, trained_until_us=split.training_until_us) >= evaluation).all()


def test_distinct_times_are_cut_by_their_shares() -> None:
    known_ts = np.random.default_rng(0).permutation(1_000)
    split = split_by_time(known_ts, evaluation_share=0.25, calibration_share=0.2)
    # 250 of 1,000, then 150 of the other 750, each to within the row on the edge.
    assert split.evaluation(known_ts).sum() == pytest.approx(250, abs=1)
    assert split.calibration(known_ts).sum() == pytest.approx(150, abs=1)


@pytest.mark.parametrize("times", [[], [7] * 50], ids=["empty", "one moment"])
def test_refuses_rows_that_cannot_be_cut(times: list[int]) -> None:
    with pytest.raises(ContractError, match=r"label maturity|LABEL_MATURITY"):
        split_by_time(np.array(times, dtype=np.int64))
