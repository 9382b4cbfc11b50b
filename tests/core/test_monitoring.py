"""Drift of two windows: distances, faults of data, the verdict's false alarms, its power."""

import json
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from scipy.spatial.distance import jensenshannon

from ibook_assets.core.errors import ContractError
from ibook_assets.core.monitoring import (
    DRIFT_SCORE_THRESHOLD,
    ColumnDrift,
    DriftDecision,
    Kind,
    Reference,
    Values,
    Windows,
    drift_of,
)
from ibook_assets.core.monitoring.calibration import Calibration, days_apart, from_days
from ibook_assets.core.monitoring.columns import ColumnBins, shifts
from ibook_assets.core.monitoring.decision import persists
from ibook_assets.core.monitoring.distances import distance

ROWS, CURRENT = 8_000, 1_000
numbers = arrays(np.float64, st.integers(6, 60), elements=st.floats(-1e6, 1e6, width=32))
Window = dict[str, Values]


def normal(rng: np.random.Generator, rows: int, columns: int = 4) -> Window:
    return {f"c{i}": rng.normal(size=rows) for i in range(columns)}


def numeric(window: Mapping[str, Values]) -> dict[str, Kind]:
    return dict.fromkeys(window, "numeric")


def column(decision: DriftDecision, name: str) -> ColumnDrift:
    (found,) = [column for column in decision.columns if column.name == name]
    return found


@given(numbers, numbers)
def test_numeric_distance_is_scipys_wasserstein_in_standard_deviations(
    reference: Values, current: Values
) -> None:
    found = distance(reference, current, "numeric")
    if found.method == "wasserstein":
        norm = max(float(np.std(reference)), 0.001)
        wanted = stats.wasserstein_distance(reference, current) / norm
        assert found.value == pytest.approx(wanted, rel=1e-6, abs=1e-9)


@given(
    st.lists(st.sampled_from("abcd"), min_size=1), st.lists(st.sampled_from("abcde"), min_size=1)
)
def test_categorical_distance_is_scipys_jensen_shannon(
    reference: list[str], current: list[str]
) -> None:
    shares = [
        [texts.count(letter) / len(texts) for letter in "abcde"] for texts in (reference, current)
    ]
    found = distance(np.array(reference), np.array(current), "categorical").value
    assert found == pytest.approx(jensenshannon(*shares), abs=1e-7)


@given(numbers)
def test_a_window_does_not_drift_from_itself(window: Values) -> None:
    assert distance(window, window, "numeric").value == 0.0


def test_worked_example_of_the_wasserstein_distance() -> None:
    # Moving all of 0..9 by 1 costs 1; the standard deviation of 0..9 is sqrt(8.25) = 2.872.
    reference = np.arange(10.0)
    assert distance(reference, reference + 1, "numeric").value == pytest.approx(
        1 / 2.8723, abs=1e-4
    )


def test_nothing_moved_is_stable_and_one_moved_column_is_drift() -> None:
    rng = np.random.default_rng(1)
    reference, current = normal(rng, ROWS), normal(rng, CURRENT)
    still = drift_of(reference, current, numeric(reference))
    assert (still.state, still.score, still.score_fires) == ("stable", 0.0, False)
    current["c2"] = current["c2"] + 0.5
    moved = drift_of(reference, current, numeric(reference))
    assert moved.drifted
    assert moved.columns[0].name == "c2"
    assert [c.name for c in moved.columns if c.drifted] == ["c2"]
    # One of four columns: 0.25 is below the score's threshold, which alone would have missed it.
    assert moved.score == 0.25 < DRIFT_SCORE_THRESHOLD
    assert not moved.score_fires


def test_the_score_fires_at_its_threshold() -> None:
    rng = np.random.default_rng(2)
    reference, current = normal(rng, ROWS, 10), normal(rng, CURRENT, 10)
    for name in ("c0", "c1", "c2"):
        current[name] = current[name] + 1.0
    decision = drift_of(reference, current, numeric(reference))
    assert decision.score == pytest.approx(0.30)
    assert decision.score_fires


def test_nulls_that_the_distance_rule_ignores_are_drift() -> None:
    rng = np.random.default_rng(3)
    reference, current = normal(rng, ROWS), normal(rng, CURRENT)
    current["c0"][rng.random(CURRENT) < 0.3] = np.nan
    decision = drift_of(reference, current, numeric(reference))
    found = column(decision, "c0")
    assert decision.drifted
    assert found.drifted
    assert not found.distant
    assert found.current_nulls == pytest.approx(0.3, abs=0.05)


def test_a_column_that_loses_all_values_has_drifted_by_every_measure() -> None:
    rng = np.random.default_rng(4)
    reference, current = normal(rng, ROWS), normal(rng, CURRENT)
    current["c1"][:] = np.nan
    found = column(drift_of(reference, current, numeric(reference)), "c1")
    assert (found.drifted, found.distant, found.distance, found.shift) == (True, True, None, 1.0)


def test_a_column_without_any_value_in_both_windows_hides_nothing() -> None:
    rng = np.random.default_rng(5)
    reference, current = normal(rng, ROWS), normal(rng, CURRENT)
    reference["c0"][:] = np.nan
    current["c0"][:] = np.nan
    current["c3"] = current["c3"] * 2
    decision = drift_of(reference, current, numeric(reference))
    assert [c.name for c in decision.columns if c.drifted] == ["c3"]
    assert column(decision, "c0").distance == 0.0


@pytest.mark.parametrize("sign", [1, -1], ids=["inf", "-inf"])
def test_infinities_are_seen_and_do_not_hide_the_rest(sign: int) -> None:
    rng = np.random.default_rng(6)
    reference, current = normal(rng, ROWS), normal(rng, CURRENT)
    current["c0"][:100] = sign * np.inf
    current["c1"][0] = sign * np.inf
    current["c1"][1:] += 1.0
    decision = drift_of(reference, current, numeric(reference))
    assert column(decision, "c0").drifted
    assert column(decision, "c0").unseen == pytest.approx(0.1)
    assert column(decision, "c1").drifted
    assert column(decision, "c1").distance == pytest.approx(1.0, abs=0.15)


def test_a_constant_that_stays_is_stable_and_one_that_jumps_has_drifted() -> None:
    rng = np.random.default_rng(7)
    reference, current = normal(rng, ROWS), normal(rng, CURRENT)
    reference["c0"], current["c0"] = np.full(ROWS, 7.0), np.full(CURRENT, 7.0)
    reference["c1"], current["c1"] = np.full(ROWS, 7.0), np.full(CURRENT, 8.0)
    decision = drift_of(reference, current, numeric(reference))
    assert [c.name for c in decision.columns if c.drifted] == ["c1"]


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_category_never_seen_before_is_drift(share: float) -> None:
    rng = np.random.default_rng(8)
    reference: Window = {"tier": rng.choice(["a", "b", "c"], ROWS)}
    current: Window = {"tier": np.where(rng.random(CURRENT) < share, "new", "a").astype(object)}
    current["tier"][:3] = None
    decision = drift_of(reference, current, {"tier": "categorical"})
    assert decision.drifted
    assert decision.columns[0].unseen == pytest.approx(share, abs=0.05)
    assert decision.columns[0].current_nulls == pytest.approx(0.003)


def test_categories_that_turn_from_numbers_to_texts_have_all_never_been_seen() -> None:
    rng = np.random.default_rng(9)
    reference: Window = {"tier": rng.integers(0, 3, ROWS)}
    found = drift_of(reference, {"tier": np.array(["gold"] * CURRENT)}, {"tier": "categorical"})
    assert found.drifted
    assert found.columns[0].unseen == 1.0


@pytest.mark.parametrize(
    ("reference", "current", "lacking"),
    [(1_000, 1_000, "reference rows"), (8_000, 199, "current rows"), (8_000, 0, "current rows")],
)
def test_few_rows_are_insufficient_and_not_stable(
    reference: int, current: int, lacking: str
) -> None:
    rng = np.random.default_rng(10)
    windows = normal(rng, reference), normal(rng, current)
    decision = drift_of(*windows, numeric(windows[0]))
    assert (decision.state, decision.score) == ("insufficient_data", None)
    assert not decision.drifted
    assert not decision.score_fires
    assert lacking in str(decision.reason)


def test_refusals_name_what_is_wrong() -> None:
    rng = np.random.default_rng(11)
    reference = normal(rng, ROWS)
    with pytest.raises(ContractError, match=r"current window lacks \['c3'\]"):
        drift_of(reference, normal(rng, CURRENT, 3), numeric(reference))
    with pytest.raises(ContractError, match="they must have the same"):
        drift_of(reference, normal(rng, CURRENT) | {"c1": np.zeros(3)}, numeric(reference))
    with pytest.raises(ContractError, match="declare its kind categorical"):
        drift_of({"t": np.array(["x"] * ROWS)}, {"t": np.zeros(CURRENT)}, {"t": "numeric"})
    with pytest.raises(ContractError, match="no column to compare"):
        drift_of(reference, reference, {})


def test_a_decision_survives_json() -> None:
    rng = np.random.default_rng(12)
    reference, current = normal(rng, ROWS), normal(rng, CURRENT)
    current["c0"][:] = np.inf
    decision = drift_of(reference, current, numeric(reference))
    text = decision.model_dump_json()
    assert json.loads(text)["state"] == "drifted"
    assert DriftDecision.model_validate_json(text) == decision


def test_undrifted_windows_are_called_drifted_at_the_stated_rate_at_most() -> None:
    rng = np.random.default_rng(13)
    alarms = 0
    for _ in range(100):
        reference, current = normal(rng, 2_000, 6), normal(rng, 300, 6)
        alarms += drift_of(reference, current, numeric(reference)).drifted
    # 1 % of 100 is 1; six or more have a probability below 0.1 %.
    assert alarms <= 5


def days_of(rng: np.random.Generator, count: int, rows: int = 600) -> tuple[Window, Values]:
    """Days that differ from one another: each has a level of its own in every column."""
    day = np.repeat(np.arange(count), rows)
    return {
        f"c{i}": rng.normal(size=day.size) + rng.normal(scale=0.15, size=count)[day]
        for i in range(6)
    }, day


def test_days_that_differ_by_themselves_are_no_drift_and_a_shift_beyond_them_is() -> None:
    rng = np.random.default_rng(14)
    by_rows = by_days = 0
    for _ in range(20):
        window, day = days_of(rng, 29)
        before = day < 28
        reference = {name: values[before] for name, values in window.items()}
        current = {name: values[~before] for name, values in window.items()}
        windows = Windows(day[before], day[~before])
        by_rows += drift_of(reference, current, numeric(reference)).drifted
        by_days += drift_of(reference, current, numeric(reference), windows=windows).drifted
        moved = current | {"c0": current["c0"] + 2.0}
        assert drift_of(reference, moved, numeric(reference), windows=windows).drifted
    # Rows of one day depend on each other: who takes them for independent sees drift every day.
    assert by_rows >= 16
    assert by_days <= 1


def test_a_column_that_is_never_still_does_not_count_in_the_score() -> None:
    rng = np.random.default_rng(15)
    window, day = days_of(rng, 29)
    before = day < 28
    decision = drift_of(
        {name: values[before] for name, values in window.items()},
        {name: values[~before] for name, values in window.items()},
        numeric(window),
        windows=Windows(day[before], day[~before]),
    )
    assert decision.distance_share is not None
    assert decision.distance_share >= DRIFT_SCORE_THRESHOLD
    assert decision.score == 0.0


def test_a_reference_of_few_days_is_insufficient() -> None:
    window, day = days_of(np.random.default_rng(16), 8)
    before = day < 7
    decision = drift_of(
        {name: values[before] for name, values in window.items()},
        {name: values[~before] for name, values in window.items()},
        numeric(window),
        windows=Windows(day[before], day[~before]),
    )
    assert decision.state == "insufficient_data"
    assert decision.reason == "7 reference days of the 8 needed for 1 current ones"


def test_drift_persists_when_the_newest_windows_all_show_it() -> None:
    rng = np.random.default_rng(17)
    reference, current = normal(rng, ROWS), normal(rng, CURRENT)
    still = drift_of(reference, current, numeric(reference))
    moved = drift_of(reference, current | {"c0": current["c0"] + 1}, numeric(reference))
    assert persists([still, moved, moved], 2)
    assert not persists([moved, still, moved], 2)
    assert not persists([moved], 2)


def calibrated(by_day: np.ndarray, rows: int, *, seed: int = 0) -> Calibration:
    """What is usual of the days counted in `by_day`, shape (days, bins), for a day of `rows`."""
    bins = ColumnBins("numeric", np.arange(by_day.shape[1] - 2, dtype=np.float64))
    rng = np.random.default_rng(seed)
    return from_days({"c": (bins, by_day)}, length=1, rate=0.01, rows=rows, rng=rng)


def test_a_day_of_few_rows_is_held_to_days_of_as_few() -> None:
    # Days of 4,000 rows of one law: a day of 100 is off by chance sqrt(4000 / 100) = 6 times more.
    shares = np.r_[np.full(10, 0.1), 0, 0]
    by_day = np.random.default_rng(18).multinomial(4_000, shares, size=28)
    many, few = calibrated(by_day, 4_000), calibrated(by_day, 100)
    assert few.mean[0] / many.mean[0] == pytest.approx(6.3, rel=0.25)
    # Busier days say no less of a busy one.
    assert calibrated(by_day, 40_000).mean[0] == many.mean[0]


def test_undrifted_days_of_any_size_are_called_drifted_at_the_stated_rate_at_most() -> None:
    rng = np.random.default_rng(19)
    shares = np.r_[np.full(20, 0.05), 0, 0]
    alarms = 0
    for _ in range(60):
        by_day = np.stack([rng.multinomial(n, shares) for n in rng.integers(300, 6_000, 29)])
        usual = calibrated(by_day[:28], int(by_day[28].sum()))
        reference, current = by_day[:28].sum(axis=0)[None], by_day[28:]
        moved, nulls = shifts("numeric", reference, current)
        alarms += usual.deviation(0, (float(moved[0]), float(nulls[0]))) > usual.threshold
    # 1 % of 60 is 0.6; four or more have a probability of 0.3 %.
    assert alarms <= 3


def test_reference_days_are_judged_by_days_that_share_no_rows_with_them() -> None:
    # Each day resembles its neighbours: the level walks. Held to days far off it deviates more.
    level = np.abs(np.linspace(-0.5, 0.5, 28))
    by_day = np.stack(
        [np.round(4_000 * np.r_[0.5 - x / 2, 0.5 + x / 2, 0, 0]).astype(np.int64) for x in level]
    )
    assert days_apart(28) == 4
    near = calibrated(by_day[np.random.default_rng(20).permutation(28)], 4_000)
    assert calibrated(by_day, 4_000).threshold > near.threshold


def test_one_reference_judges_many_windows_as_if_each_had_its_own() -> None:
    rng = np.random.default_rng(21)
    window, day = days_of(rng, 28)
    reference = Reference(window, numeric(window), days=day)
    for rows in (250, 900):
        current = normal(rng, rows, 6)
        found = reference.judged(current, days=np.zeros(rows, np.int64))
        windows = Windows(day, np.zeros(rows, np.int64))
        assert found == drift_of(window, current, numeric(window), windows=windows)
    with pytest.raises(ContractError, match="names the days of 2 rows, its columns have 250"):
        reference.judged(normal(rng, 250, 6), days=np.zeros(2, np.int64))
