"""Signals on a stored lake: stable when nothing happens, each drifted by what it is there for."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ibook_assets.core.arrow import Column
from ibook_assets.core.errors import ContractError
from ibook_assets.core.monitoring.signals import Signal, SignalName
from ibook_assets.stores.drift_days import compare_day
from ibook_assets.stores.feature_days import feature_table
from ibook_assets.stores.feature_windows import (
    FeatureWindows,
    data_quality_of,
    feature_windows,
    score_drift_of,
)
from ibook_assets.stores.labelled_days import fraud_rate_of, performance_of
from ibook_assets.stores.promoted_models import load_promoted
from ibook_assets.stores.signal_records import signal_record, signal_records, store_signal
from ibook_assets.training.attribution import attribution_drift, attribution_drift_of
from ibook_assets.training.domain import domain_drift_of, undrifted_days
from tests.monitored_lake import (
    MATURITY_DAYS,
    ORDER_CONTEXT,
    TELLING,
    TRAINED_DAYS,
    Change,
    Day,
    MonitoredLake,
    an_ordinary_day,
    column,
    day_name,
)

DAYS = 16


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("monitored")
    MonitoredLake(root).train()
    return root


@pytest.fixture
def shop(trained: Path, tmp_path: Path) -> MonitoredLake:
    shutil.copytree(trained, tmp_path / "lake", copy_function=os.link)
    return MonitoredLake(tmp_path / "lake")


def judged(shop: MonitoredLake, name: SignalName, day: str) -> Signal:
    lake, champion = shop.lake, shop.champion
    if name == "performance":
        return performance_of(lake, ORDER_CONTEXT, champion, day, maturity_days=MATURITY_DAYS)
    if name == "fraud_rate":
        return fraud_rate_of(lake, champion, day, maturity_days=MATURITY_DAYS)
    judges = {
        "data_quality": data_quality_of,
        "score_drift": score_drift_of,
        "domain_drift": domain_drift_of,
        "attribution_drift": attribution_drift_of,
    }
    return judges[name](lake, ORDER_CONTEXT, champion, day)


def fraud_hides(day: Day, _: np.random.Generator) -> Day:
    x = day.x.copy()
    for name in TELLING:
        x[day.frauds == 1, column(name)] -= 0.8
    return replace(day, x=x)


def twice_the_fraud(day: Day, _: np.random.Generator) -> Day:
    number = int(day.ids[0]) // 10_000
    return an_ordinary_day(number, fraud_share=0.20)


def nulls_in_the_top_feature(day: Day, rng: np.random.Generator) -> Day:
    x = day.x.copy()
    x[rng.random(len(x)) < 0.30, column(TELLING[0])] = np.nan
    return replace(day, x=x)


def features_that_go_together(day: Day, _: np.random.Generator) -> Day:
    """Each feature lies as ever; six that had nothing to do with one another are now alike."""
    x = day.x.copy()
    noise = [i for i in range(x.shape[1]) if np.unique(x[:, i]).size > 3][-6:]
    x[:, noise] = x[:, noise[:1]]
    return replace(day, x=x)


def larger_amounts(day: Day, _: np.random.Generator) -> Day:
    x = day.x.copy()
    x[:, column(TELLING[0])] += 1.5
    return replace(day, x=x)


def test_nothing_fires_when_nothing_happens(shop: MonitoredLake) -> None:
    day = shop.follow(DAYS)
    names: tuple[SignalName, ...] = (
        "performance", "fraud_rate", "data_quality", "score_drift", "domain_drift",
        "attribution_drift",
    )  # fmt: skip
    found = {name: judged(shop, name, day) for name in names}
    assert {name: signal.state for name, signal in found.items()} == dict.fromkeys(names, "stable")
    evidence: Any = found["performance"].evidence
    # Newest matured day, scored offline: there is no prediction log.
    newest = day_name(TRAINED_DAYS + DAYS - 1 - MATURITY_DAYS)
    assert evidence["judged"] == newest
    assert [found["logged"] for found in evidence["matured"]] == [0] * DAYS


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("performance", fraud_hides),
        ("fraud_rate", twice_the_fraud),
        ("data_quality", nulls_in_the_top_feature),
        ("score_drift", larger_amounts),
        ("domain_drift", features_that_go_together),
    ],
)
def test_each_signal_sees_what_it_is_for(
    shop: MonitoredLake, name: SignalName, change: Change
) -> None:
    signal = judged(shop, name, shop.follow(DAYS, change))
    assert (signal.state, signal.acts) == ("drifted", True)


@pytest.mark.parametrize(
    "change", [fraud_hides, nulls_in_the_top_feature], ids=["concept", "nulls"]
)
def test_what_harms_is_missed_by_the_share_of_drifted_columns(
    shop: MonitoredLake, change: Change
) -> None:
    day = shop.follow(DAYS, change)
    decision = compare_day(shop.lake, ORDER_CONTEXT, day, shop.champion).record.decision
    assert decision.distance_share is not None
    assert decision.distance_share < 0.30
    harm = judged(shop, "performance", day)
    assert harm.drifted
    assert float(str(harm.evidence["loss"])) >= 0.05


def test_more_fraud_is_no_loss_of_performance(shop: MonitoredLake) -> None:
    assert judged(shop, "performance", shop.follow(DAYS, twice_the_fraud)).state == "stable"


def test_what_clients_were_answered_counts_before_what_would_have_been(
    shop: MonitoredLake,
) -> None:
    day = shop.follow(DAYS)
    number = TRAINED_DAYS + DAYS - 1 - MATURITY_DAYS
    orders = an_ordinary_day(number)
    rows = len(orders.ids)
    told: dict[str, Column] = {
        "transaction_id": orders.ids,
        "known_ts": orders.known_ts,
        "use_case": ["fraud"] * rows,
        # Half of them were a shadow's.
        "served": [True, False] * (rows // 2),
        "model_version": [shop.champion.model.model_version] * rows,
        "score": np.linspace(0, 1, rows),
    }
    shop.lake.write("raw/predictions", day_name(number), pa.table(told))
    days: Any = judged(shop, "performance", day).evidence["matured"]
    assert [d["logged"] for d in days[-2:]] == [0, rows // 2]


def recorded(shop: MonitoredLake, signal: Signal, day: str) -> None:
    """Keep `signal` as what was said of `day`."""
    record = signal_record(
        shop.lake.blobs,
        signal,
        use_case="fraud",
        day=day,
        champion=shop.champion,
        new_days=DAYS - 1,
    )
    store_signal(shop.lake.blobs, record, precommit=lambda: None)


def test_days_judged_before_are_taken_from_the_record(shop: MonitoredLake) -> None:
    day = shop.follow(DAYS)
    before = day_name(TRAINED_DAYS + DAYS - 2)
    recorded(shop, judged(shop, "performance", before), before)
    afresh = judged(shop, "performance", day)
    # The first matured day can no longer be scored; its figures stand in the record.
    first = f"{feature_table('order_context')}/dt={day_name(TRAINED_DAYS - MATURITY_DAYS)}/"
    for key in shop.lake.blobs.list(first):
        shop.lake.blobs.delete(key)
    assert judged(shop, "performance", day) == afresh


def test_days_judged_by_fewer_measures_are_judged_anew(shop: MonitoredLake) -> None:
    day = shop.follow(DAYS)
    before = day_name(TRAINED_DAYS + DAYS - 2)
    signal = judged(shop, "performance", before)
    matured: Any = signal.evidence["matured"]
    old = [{name: told for name, told in found.items() if name != "log_auc"} for found in matured]
    afresh = judged(shop, "performance", day)
    evidence = {**signal.evidence, "matured": old}
    recorded(shop, signal.model_copy(update={"evidence": evidence}), before)
    assert judged(shop, "performance", day) == afresh


def test_labels_are_of_one_age_however_old_the_day_is(shop: MonitoredLake) -> None:
    day = shop.follow(DAYS)
    late = an_ordinary_day(10)
    before = judged(shop, "fraud_rate", day)
    outcomes: dict[str, Column] = {
        "transaction_id": late.ids,
        "known_ts": late.known_ts + (MATURITY_DAYS + 2) * 86_400_000_000,
        "is_fraud": pa.array(np.ones(len(late.ids)), pa.int64()),
    }
    shop.lake.write("facts/outcomes", day_name(12 + MATURITY_DAYS), pa.table(outcomes))
    after = judged(shop, "fraud_rate", day)
    # That day's own frauds of two days later were overwritten; late ones of day 10 do not count.
    assert float(str(after.evidence["usual"])) <= float(str(before.evidence["usual"]))


def test_a_column_that_is_gone_is_a_fault_and_no_crash(shop: MonitoredLake) -> None:
    day = shop.follow(DAYS)
    table = feature_table("order_context")
    rows = shop.lake.read(table, [day]).drop_columns(["account_age"])
    shop.lake.write(table, day, rows)
    signal = judged(shop, "data_quality", day)
    assert signal.acts
    faults: Any = signal.evidence["faults"]
    assert [(fault["column"], fault["kind"]) for fault in faults] == [
        ("order_context:account_age", "missing column")
    ]


def test_without_matured_days_there_is_no_verdict(shop: MonitoredLake) -> None:
    day = day_name(TRAINED_DAYS - 1)
    assert "has matured since" in str(judged(shop, "performance", day).reason)
    assert "0 days of the 7" in str(judged(shop, "fraud_rate", day).reason)


def test_attributions_of_a_day_are_held_to_those_of_days_apart_from_it(
    shop: MonitoredLake,
) -> None:
    bundle = load_promoted(shop.lake.blobs, shop.champion)
    names = list(bundle.feature_names)
    day = shop.follow(DAYS)
    found = feature_windows(shop.lake, ORDER_CONTEXT, shop.champion, names, day)
    # Shares that wander: each day resembles its neighbours and is far from the others.
    wandering = np.full((28, len(names)), 1.0)
    wandering[:, 0] += np.linspace(0, 2, 28)
    wandering /= wandering.sum(axis=1, keepdims=True)
    mixed = wandering[np.random.default_rng(1).permutation(28)]
    thresholds = [
        attribution_drift(found, bundle, undrifted=by_day).threshold or 0.0
        for by_day in (wandering, mixed)
    ]
    assert thresholds[0] > 1.05 * thresholds[1]
    few = replace(found, current=found.current[:199])
    assert attribution_drift(few, bundle).reason == "199 rows of the 200 needed"


def test_the_classifier_tells_reference_days_from_days_apart_from_them() -> None:
    rng = np.random.default_rng(2)
    days = np.repeat(np.arange(24), 250)
    x = rng.normal(size=(days.size, 12)).astype(np.float32)

    def told(level: np.ndarray) -> float:
        names = tuple(f"c{i}" for i in range(12))
        reference = x + level[days, None].astype(np.float32)
        windows = FeatureWindows(names, reference, days, days, reference[:0], days[:0])
        return float(undrifted_days(windows).log_odds.mean())

    wandering = np.abs(np.linspace(-0.8, 0.8, 24))
    assert told(wandering) > told(wandering[rng.permutation(24)])


def test_a_damaged_record_says_what_to_do(shop: MonitoredLake) -> None:
    shop.lake.blobs.put("monitoring/fraud_rate/fraud/dt=2026-03-01/decision.json", b"{}")
    with pytest.raises(ContractError, match="materialise that day of fraud_rate again"):
        signal_records(shop.lake.blobs, "fraud_rate", "fraud", until="2026-03-02", days=1)


def test_a_verdict_is_confirmed_by_the_day_before_of_the_same_champion(
    shop: MonitoredLake,
) -> None:
    signal = Signal(name="fraud_rate", state="drifted", false_alarm_rate=0.01, acts=True)
    told: Any = {"use_case": "fraud", "champion": shop.champion, "new_days": 3}
    first = signal_record(shop.lake.blobs, signal, day="2026-03-01", **told)
    assert not first.confirmed
    store_signal(shop.lake.blobs, first, precommit=lambda: None)
    assert signal_record(shop.lake.blobs, signal, day="2026-03-02", **told).confirmed
    assert not signal_record(shop.lake.blobs, signal, day="2026-03-03", **told).confirmed
    other = first.model_copy(update={"champion_version": "v0"})
    store_signal(shop.lake.blobs, other, precommit=lambda: None)
    assert not signal_record(shop.lake.blobs, signal, day="2026-03-02", **told).confirmed
