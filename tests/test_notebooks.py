"""The notebooks: each runs from first to last cell on a small platform, and changes nothing."""

from __future__ import annotations

import dataclasses
import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import matplotlib.pyplot as plt
import numpy as np
import pytest

from ibook_assets.core.errors import IbookError
from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.settings import Settings
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.stores.feature_days import feature_days, feature_table
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.local_blobs import LocalBlobs
from ibook_assets.stores.promotions import PromotionLog
from ibook_assets.stores.training_data import (
    read_training_data,
    read_training_set,
    store_training_data,
)
from ibook_assets.training.candidates import new_candidate, store_candidate
from ibook_assets.training.pipeline import train
from ibook_assets.training.promote import judge_candidate, promote_candidate
from ibook_assets.training.verdicts import store_verdict, verdict_key
from tests.defs.conftest import run
from tests.quick_fraud import QUICK

FOLDER: Final = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS: Final = sorted(FOLDER.glob("*.py"))
MATURITY_DAYS: Final = 5
EASY: Final = dataclasses.replace(QUICK, bootstrap_replicates=FRAUD.bootstrap_replicates)
"""Quick, but with the bounds that the notebooks draw."""

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A platform of thirty small days that has promoted a model and stored its report."""
    settings = Settings(
        home=tmp_path_factory.mktemp("home"),
        sim_users=2_000,
        sim_events=30,
        sim_orders_per_day=400,
        label_maturity_days=MATURITY_DAYS,
    )
    names = ("transactions", "views", "refunds", "outcomes")
    keys = [[group, name] for group in ("raw", "facts") for name in names]
    days = ("2026-01-01", "2026-01-30")
    run(settings, [["raw", "events"], ["truth", "orders"], *keys], days=days)
    lake = Lake(LocalBlobs(settings.lake))
    for view in FEATURE_VIEWS:
        for day, values in feature_days(lake, view, lake.partitions("facts/transactions")):
            lake.write(feature_table(view), day, values)
    promote_a_model(lake, settings.home / "studies.db")
    return settings.home


def promote_a_model(lake: Lake, studies: Path) -> None:
    data = read_training_data(lake, EASY, maturity_days=MATURITY_DAYS)
    store_training_data(lake, EASY, data, precommit=lambda: None)
    snapshot = data.manifest.snapshot_id
    trained = train(data.table, EASY, snapshot=snapshot, studies=studies, trials=1, threads=1)
    candidate = new_candidate(trained.fitted.bundle, git_sha="unknown", mlflow_run_id=None)
    store_candidate(lake.blobs, trained.fitted.bundle, candidate)
    store_verdict(lake.blobs, EASY, judge_candidate(lake, EASY, candidate))
    promote_candidate(lake, EASY, candidate, actor="a test", reason="the first")


@pytest.fixture
def lake(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Lake]:
    """The platform's lake, which notebooks find by the environment wherever they are started."""
    monkeypatch.setenv("IBOOK_HOME", str(home))
    monkeypatch.setenv("IBOOK_LABEL_MATURITY_DAYS", str(MATURITY_DAYS))
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("Agg")
    yield Lake(LocalBlobs(home / "lake"))
    plt.close("all")


def play(name: str) -> dict[str, Any]:
    """What a notebook's cells leave, once it was seen to draw and to write nothing at home."""
    root = Settings().home
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    left = runpy.run_path(str(FOLDER / f"{name}.py"))
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert plt.get_fignums()
    return left


def test_exploration_counts_what_the_training_set_counts(lake: Lake) -> None:
    left = play("01_exploration")
    admitted = read_training_set(lake, FRAUD.name, columns=[FRAUD.label])
    frauds = int(admitted[FRAUD.label].to_numpy().sum())
    (totals,) = left["totals"].to_dict("records")
    assert (totals["mature_orders"], totals["mature_frauds"]) == (admitted.num_rows, frauds)
    segments = left["segments"].groupby("dimension")
    assert set(segments["orders"].sum()) == {admitted.num_rows}
    weighted = left["segments"].eval("orders * fraud_rate").groupby(left["segments"]["dimension"])
    assert weighted.sum().to_numpy() == pytest.approx(frauds)
    assert left["delay_days"].size == frauds
    assert 0 < left["known_in_time"] < 1
    assert left["absent_features"].keys() == {view.name for view in FEATURE_VIEWS}


@pytest.mark.usefixtures("lake")
def test_features_are_the_bits_of_sql_and_know_no_future() -> None:
    left = play("02_features")
    assert left["differing"] == 0
    assert left["stored"].values > 0
    assert left["stored"].mismatches == 0
    assert left["history"].num_rows == left["as_of_each"].num_rows > 1
    leaking, honest, base_rate = left["leak"].values()
    assert base_rate <= leaking <= 1
    assert honest < leaking
    assert left["lift"].keys() == set(left["CANDIDATE"].feature_names)
    assert left["candidate"]["transaction_id"].equals(left["asked"]["transaction_id"])


def test_training_learns_from_the_past_only_and_meets_the_champion(lake: Lake) -> None:
    left = play("03_training")
    known_ts = left["examples"].known_ts
    fitting, calibration, evaluation = (known_ts[rows] for rows in left["parts"].values())
    assert fitting.max() < calibration.min()
    assert calibration.max() < evaluation.min()
    assert fitting.size + calibration.size + evaluation.size == known_ts.size
    champion = PromotionLog(lake.blobs).require_current(FRAUD.name)
    judged = left["evaluation"]
    assert judged.champion_version == champion.model_version != judged.version
    assert judged.rows == evaluation.size
    assert judged.base_rate < judged.average_precision.value <= 1
    assert left["difference"].low <= left["difference"].value <= left["difference"].high
    assert len(left["fitted"].validation_curve) >= left["fitted"].rounds
    assert set(left["gains"].index) <= set(left["bundle"].feature_names)


def test_evaluation_has_the_figures_of_the_stored_report(lake: Lake) -> None:
    left = play("04_evaluation")
    champion = PromotionLog(lake.blobs).require_current(FRAUD.name)
    stored = json.loads(lake.blobs.get(verdict_key(FRAUD.name, champion.model_version)))
    # The notebook draws as the report did, so that even its bounds are the same.
    assert left["evaluation"].headline == stored["evaluation"]["headline"]
    assert left["evaluation"].oracle_average_precision is not None
    assert np.all(left["low"] <= left["high"])
    in_use = left["decisions"].iloc[1]
    decided = left["evaluation"].decisions
    assert (in_use["held"], in_use["recall"]) == pytest.approx((decided.held_share, decided.recall))
    assert in_use["saved"] * 100 == pytest.approx(left["evaluation"].saved_cents.value)
    assert set(left["groups"]["dimension"]) == {"tier", "channel", "category", "amount"}


@each_notebook
def test_an_empty_lake_is_told_with_the_next_step(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("IBOOK_HOME", str(tmp_path / "new"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(IbookError, match="make demo"):
        runpy.run_path(str(path))
    assert not (tmp_path / "new").exists()


@each_notebook
def test_cells_are_told_before_they_are_run(path: Path) -> None:
    before, *cells = re.split(r"^# %%(.*)\n", path.read_text(), flags=re.MULTILINE)
    assert before == "", "what stands before the first cell belongs to none"
    kinds, texts = cells[::2], cells[1::2]
    assert texts[0].startswith(f"# # {int(path.stem[:2])}. ")
    assert kinds == [" [markdown]", ""] * (len(kinds) // 2), "text, code, text, code"
    for kind, text in zip(kinds, texts, strict=True):
        lines = text.splitlines()
        assert any(lines)
        if kind:
            assert all(line.startswith("#") for line in lines if line)


def test_notebooks_are_numbered_in_their_order() -> None:
    assert [int(path.stem[:2]) for path in NOTEBOOKS] == list(range(1, len(NOTEBOOKS) + 1))
