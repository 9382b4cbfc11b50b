"""Signals beside column drift: thresholds hold their rates, evidence says why, faults are named."""

from typing import Any

import numpy as np
import pytest

from ibook_assets.core.monitoring import Kind, drift_of
from ibook_assets.core.monitoring.fraud_rate import RateDay, fraud_rate
from ibook_assets.core.monitoring.performance import (
    HORIZON_DAYS,
    MEASURES,
    MIN_DAY_FRAUDS,
    MIN_PROMISED_DAYS,
    JudgedDay,
    Promise,
    judged_day,
    performance,
)
from ibook_assets.core.monitoring.quality import data_quality
from ibook_assets.core.monitoring.signals import SIGNALS, Signal, against_days, of_scores


def days_of(precisions: np.ndarray, frauds: int = 90) -> list[JudgedDay]:
    """Days of which only the average precision differs."""
    return [
        JudgedDay(
            day=f"d{n:03d}",
            rows=3_000,
            frauds=frauds,
            average_precision=float(p),
            log_auc=0.8,
            roc_auc=0.9,
        )
        for n, p in enumerate(precisions)
    ]


def ranked_days(rng: np.random.Generator, days: int, *, hidden: float = 0.0) -> list[JudgedDay]:
    """Days of orders of which a share `hidden` of the frauds looks like any other order."""
    found = []
    for n in range(days):
        labels = np.repeat([1, 0], [80, 3_000])
        seen = (labels == 1) & (rng.random(labels.size) >= hidden)
        scores = rng.normal(np.where(seen, 1.6, 0.0), 1.0)
        found.append(judged_day(f"d{n:03d}", labels, scores, fraud_share=0.026))
    return found


def rates(counts: np.ndarray, orders: int = 3_000) -> list[RateDay]:
    return [RateDay(day=f"d{n:03d}", orders=orders, frauds=int(c)) for n, c in enumerate(counts)]


def test_a_champion_as_good_as_promised_is_rarely_called_worse() -> None:
    # 2 % of champions within the horizon; of 80, 5 or more would have a chance of 2 %.
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(80):
        promised = days_of(rng.normal(0.7, 0.04, 42))
        # A CUSUM that ever exceeded its limit shows it here: it is judged each day in use.
        matured = rng.normal(0.7, 0.04, HORIZON_DAYS)
        alarms += performance(promised, days_of(matured)).drifted
    assert alarms < 5


def test_months_that_differ_by_themselves_are_rarely_a_loss() -> None:
    # Each month has a level of its own, a fifth of a day's spread: a limit that is taken at
    # 1 % of runs of days of the promised month is exceeded twice as often.
    rng = np.random.default_rng(10)
    alarms = 0
    for _ in range(40):
        promised = Promise(days_of(rng.normal(rng.normal(0.7, 0.01), 0.05, 42)))
        for _ in range(50):
            month = rng.normal(rng.normal(0.7, 0.01), 0.05, HORIZON_DAYS)
            alarms += promised.judged(days_of(month)).drifted
    assert alarms <= 20


def test_a_small_loss_is_seen_in_a_month_more_often_than_by_average_precision_alone() -> None:
    rng = np.random.default_rng(11)
    seen = {"average_precision": 0, "both": 0}
    for _ in range(20):
        promised, matured = ranked_days(rng, 42), ranked_days(rng, HORIZON_DAYS, hidden=0.07)
        flat = {"log_auc": 0.8}
        alone = [[day.model_copy(update=flat) for day in days] for days in (promised, matured)]
        seen["average_precision"] += performance(*alone).drifted
        signal = performance(promised, matured)
        seen["both"] += signal.drifted
        assert signal.evidence["loss_seen_by"] in MEASURES
    assert seen["both"] > 2 * seen["average_precision"]


def test_what_never_differed_is_not_judged_by() -> None:
    rng = np.random.default_rng(12)
    promised = days_of(rng.normal(0.7, 0.04, 42))
    lower = [day.model_copy(update={"log_auc": 0.79}) for day in days_of(np.full(10, 0.7))]
    signal = performance(promised, lower)
    assert signal.state == "stable"
    assert signal.evidence["loss_seen_by"] == "average_precision"
    assert performance(days_of(np.full(42, 0.7)), lower).state == "insufficient_data"


@pytest.mark.parametrize(("loss", "acts"), [(0.06, False), (0.20, True)], ids=["6 %", "20 %"])
def test_a_loss_is_seen_and_asks_for_training_when_it_matters(loss: float, *, acts: bool) -> None:
    rng = np.random.default_rng(1)
    promised = days_of(rng.normal(0.7, 0.03, 42))
    matured = days_of(np.r_[rng.normal(0.7, 0.03, 5), rng.normal(0.7 * (1 - loss), 0.03, 23)])
    signal = performance(promised, matured)
    assert (signal.state, signal.acts) == ("drifted", acts)
    assert signal.evidence["loss"] == pytest.approx(loss, abs=0.025)
    assert str(signal.evidence["loss_since"]) <= "d008"


def test_days_with_few_frauds_count_less_and_those_with_fewer_not_at_all() -> None:
    rng = np.random.default_rng(2)
    promised = days_of(rng.normal(0.7, 0.03, 42))
    poor = rng.normal(0.66, 0.03, 10)
    many, few = (
        performance(promised, days_of(poor)),
        performance(promised, days_of(poor, frauds=15)),
    )
    assert few.statistic is not None
    assert many.statistic is not None
    assert few.statistic < many.statistic
    assert judged_day("d", np.r_[np.ones(9), np.zeros(91)].astype(int), np.arange(100.0),
                      fraud_share=0.1).average_precision is None  # fmt: skip


@pytest.mark.parametrize(
    ("promised", "matured", "reason"),
    [
        (MIN_PROMISED_DAYS - 1, 5, f"{MIN_PROMISED_DAYS} are needed"),
        (42, 0, f"no day with {MIN_DAY_FRAUDS} frauds has matured"),
    ],
)
def test_too_little_is_no_verdict(promised: int, matured: int, reason: str) -> None:
    rng = np.random.default_rng(3)
    signal = performance(
        days_of(rng.normal(0.7, 0.03, promised)), days_of(rng.normal(0.1, 0.03, matured))
    )
    assert signal.state == "insufficient_data"
    assert reason in str(signal.reason)


def test_average_precision_is_taken_at_the_promised_share_of_fraud() -> None:
    # One fraud above, one below two legitimate orders: precision 1 and 2/4 at equal weights;
    # frauds weighed half, (0.5)/(0.5) = 1 and (1)/(1 + 2) = 1/3; their mean is 2/3.
    labels = np.repeat([1, 0, 1], [10, 20, 10])
    scores = np.repeat([3.0, 2.0, 1.0], [10, 20, 10])
    found = judged_day("d", labels, scores, fraud_share=1 / 3)
    assert found.average_precision == pytest.approx(2 / 3)


def test_the_band_of_fraud_holds_its_rate_where_days_vary_by_themselves() -> None:
    rng = np.random.default_rng(4)
    outside = judged = 0
    for _ in range(15):
        shares = rng.beta(30, 970, size=84 + 28)
        counts = rng.binomial(3_000, shares)
        history = rates(counts[:84])
        for end in (91, 98, 105, 112):
            outside += fraud_rate(history, rates(counts[84:end])).drifted
            judged += 1
    # 1 % of 60 is 0.6; 5 or more would have a chance of 0.05 %.
    assert outside < 5


@pytest.mark.parametrize("factor", [0.5, 1.5], ids=["less fraud", "more fraud"])
def test_fraud_outside_its_band_asks_for_training(factor: float) -> None:
    rng = np.random.default_rng(5)
    usual = rng.binomial(3_000, rng.beta(60, 1_940, size=84))
    now = rng.binomial(3_000, 0.03 * factor, size=7)
    signal = fraud_rate(rates(usual), rates(now))
    assert signal.acts
    low, high = (float(str(signal.evidence[edge])) for edge in ("low", "high"))
    assert not low <= float(str(signal.evidence["rate"])) <= high
    assert signal.statistic is not None
    assert signal.statistic > 1


@pytest.mark.parametrize(
    ("history", "days", "orders", "reason"),
    [(27, 7, 3_000, "27 matured days of the 28"), (28, 6, 3_000, "6 days of the 7"),
     (28, 7, 50, "frauds expected")],
)  # fmt: skip
def test_a_band_needs_history_a_week_and_frauds(
    history: int, days: int, orders: int, reason: str
) -> None:
    counts = np.full(84, orders * 3 // 100)
    signal = fraud_rate(rates(counts[:history], orders), rates(counts[:days], orders))
    assert signal.state == "insufficient_data"
    assert reason in str(signal.reason)


ROWS, DAYS = 400, 20


def columns(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
    amount = rng.normal(size=rows)
    amount[rng.random(rows) < 0.05] = np.nan
    return {"amount": amount, "tier": rng.integers(0, 3, rows).astype(np.float64)}


def quality(now: dict[str, np.ndarray], **more: object) -> Signal:
    reference = columns(np.random.default_rng(6), ROWS * DAYS)
    return data_quality(
        reference,
        now,
        {"amount": "numeric", "tier": "categorical"},
        np.repeat(np.arange(DAYS), ROWS),
        **more,  # type: ignore[arg-type]
    )


def spoilt(name: str, value: float, share: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    now = columns(rng, ROWS)
    now[name][rng.random(ROWS) < share] = value
    return now


def test_sound_days_are_sound() -> None:
    assert [quality(columns(np.random.default_rng(s), ROWS)).state for s in range(8, 28)] == [
        "stable"
    ] * 20


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [("amount", np.nan, "nulls"), ("amount", np.inf, "infinities"), ("tier", 9.0, "unseen codes"),
     ("tier", np.nan, "nulls")],
)  # fmt: skip
def test_faults_are_named(name: str, value: float, kind: str) -> None:
    signal = quality(spoilt(name, value, 0.30))
    assert signal.acts
    faults: Any = signal.evidence["faults"]
    assert [(fault["column"], fault["kind"]) for fault in faults] == [(name, kind)]


def test_what_cannot_be_calibrated_must_be_plainly_broken() -> None:
    assert not quality(spoilt("amount", np.nan, 0.10), uncalibrated=["amount"]).acts
    assert quality(spoilt("amount", np.nan, 0.30), uncalibrated=["amount"]).acts


def test_plainly_broken_is_what_is_beyond_the_worst_of_the_undrifted_days() -> None:
    # Half of the undrifted days have 60 % nulls by themselves, the others none.
    day = np.repeat(np.arange(DAYS), ROWS)
    usual = np.where((day % 2 == 1) & (np.arange(day.size) % 10 < 6), np.nan, 1.0)
    for share, broken in ((0.70, False), (0.80, True)):
        now = np.where(np.arange(ROWS) < share * ROWS, np.nan, 1.0)
        kinds: dict[str, Kind] = {"late": "numeric"}
        signal = data_quality({"late": usual}, {"late": now}, kinds, day, uncalibrated=["late"])
        assert signal.acts is broken


def test_a_day_without_anything_is_a_fault_of_its_columns() -> None:
    signal = data_quality({}, {}, {}, np.zeros(0, np.int64), missing=["a"])
    assert (signal.state, signal.acts) == ("drifted", True)


def test_a_number_of_the_day_is_judged_by_those_of_other_days() -> None:
    null = np.random.default_rng(8).normal(0.6, 0.02, 28)
    assert against_days("domain_drift", 0.62, null, evidence={}).state == "stable"
    assert against_days("domain_drift", 0.80, null, evidence={}).acts
    assert against_days("domain_drift", 0.80, null[:7], evidence={}).state == "insufficient_data"


def test_scores_are_judged_as_a_column_is() -> None:
    rng = np.random.default_rng(9)
    reference = {"score": rng.normal(size=4_000)}
    decision = drift_of(reference, {"score": rng.normal(1.0, size=500)}, {"score": "numeric"})
    signal = of_scores(decision)
    assert (signal.state, signal.statistic) == ("drifted", decision.statistic)
    assert signal.false_alarm_rate == SIGNALS["score_drift"].false_alarm_rate
    few = drift_of(reference, {"score": np.zeros(3)}, {"score": "numeric"})
    assert of_scores(few).reason == few.reason
