"""The skew asset on real features: zero when online equals batch, one count for each fault."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.settings import Settings
from ibook_assets.core.skew import FEATURE_SKEW, definition_of
from ibook_assets.core.tables import FEATURE_LOG
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.local_blobs import LocalBlobs
from ibook_assets.stores.skew_days import FEATURE_LOG_TABLE, SKEW_TABLE, batch_vectors
from tests.defs.conftest import run

DAY = "2026-01-03"
SKEW = ["monitoring", "feature_skew"]
DAILY = [
    ["raw", "events"],
    *(["raw", name] for name in ("transactions", "views", "refunds", "outcomes")),
    *(["facts", name] for name in ("transactions", "views", "refunds", "outcomes")),
    *(["features", view.name] for view in FEATURE_VIEWS),
]
Vector = dict[str, Any]


def settings_in(home: Path) -> Settings:
    return Settings(
        home=home,
        sim_users=400,
        sim_events=20,
        sim_orders_per_day=240,
        label_maturity_days=5,
        task_retries=0,
    )


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of two days."""
    home = tmp_path_factory.mktemp("days")
    run(settings_in(home), DAILY, days=("2026-01-02", DAY))
    return home / "lake"


@pytest.fixture
def shop(days: Path, tmp_path: Path) -> Settings:
    """A platform of its own with those features and no vector logged."""
    shutil.copytree(days, tmp_path / "home" / "lake", copy_function=os.link)
    return settings_in(tmp_path / "home")


def lake_of(settings: Settings) -> Lake:
    return Lake(LocalBlobs(settings.lake))


def as_computed(settings: Settings) -> list[Vector]:
    """What the online side logs when it computes what batch does, in the order of time."""
    batch = batch_vectors(lake_of(settings), FRAUD.features, DAY)
    assert len(batch.values) > 30
    assert np.isnan(batch.values).any()
    return [
        {
            "transaction_id": int(order),
            "known_ts": int(known_ts),
            "definition": definition_of(FRAUD.features),
            "vector": values.astype("<f4").tobytes(),
        }
        for order, known_ts, values in zip(
            batch.transaction_ids, batch.known_ts, batch.values, strict=True
        )
    ]


def judged(
    settings: Settings, logged: Sequence[Vector]
) -> tuple[dg.AssetCheckEvaluation, list[Vector]]:
    """The check's verdict once `logged` is the day's feature log, and the rows it recorded."""
    lake = lake_of(settings)
    log = pa.Table.from_pylist(list(logged), schema=FEATURE_LOG.schema)
    lake.write(FEATURE_LOG_TABLE, DAY, log, spec=FEATURE_LOG)
    result = run(settings, [SKEW], days=(DAY, DAY))
    (check,) = result.get_asset_check_evaluations()
    return check, lake.read(SKEW_TABLE, [DAY], spec=FEATURE_SKEW).to_pylist()


def counts(check: dg.AssetCheckEvaluation) -> dict[str, Any]:
    names = ("vectors", "mismatch", "missing", "extra")
    return {name: check.metadata[name].value for name in names}


def offenders(check: dg.AssetCheckEvaluation) -> list[Any]:
    shown: Any = check.metadata["offenders"].value
    return [record.data for record in shown.records]


def test_vectors_that_batch_computes_alike_are_no_skew(shop: Settings) -> None:
    logged = as_computed(shop)
    check, rows = judged(shop, logged)
    assert check.passed
    assert counts(check) == {"vectors": len(logged), "mismatch": 0, "missing": 0, "extra": 0}
    assert rows == []


def test_one_flipped_bit_fails_the_check_and_is_named(shop: Settings) -> None:
    logged = as_computed(shop)
    values = np.frombuffer(logged[7]["vector"], "<u4").copy()
    column = int(np.flatnonzero(~np.isnan(values.view("<f4")))[-1])
    values[column] ^= 1
    logged[7]["vector"] = values.tobytes()
    check, (row,) = judged(shop, logged)
    assert not check.passed
    assert (counts(check)["mismatch"], counts(check)["missing"], counts(check)["extra"]) == (
        1,
        0,
        0,
    )
    assert row["transaction_id"] == logged[7]["transaction_id"]
    assert row["feature"] == FRAUD.features[column]
    assert row["logged"] != row["batch"]
    assert [shown["transaction_id"] for shown in offenders(check)] == [row["transaction_id"]]


def test_a_logged_order_that_batch_lost_fails_the_check(shop: Settings) -> None:
    logged = as_computed(shop)
    logged.insert(9, {**logged[8], "transaction_id": 2**60})
    check, (row,) = judged(shop, logged)
    assert not check.passed
    assert counts(check) == {"vectors": len(logged), "mismatch": 0, "missing": 1, "extra": 0}
    assert (row["transaction_id"], row["kind"]) == (2**60, "missing")


def test_an_order_that_was_not_logged_fails_the_check(shop: Settings) -> None:
    logged = as_computed(shop)
    lost = logged.pop(5)
    check, (row,) = judged(shop, logged)
    assert not check.passed
    assert counts(check) == {"vectors": len(logged), "mismatch": 0, "missing": 0, "extra": 1}
    assert (row["transaction_id"], row["kind"]) == (lost["transaction_id"], "extra")


def test_a_day_without_logged_vectors_passes_and_says_so(shop: Settings) -> None:
    check, rows = judged(shop, [])
    assert check.passed
    assert check.description is not None
    assert "nothing to compare" in check.description
    assert rows == []


def test_vectors_of_another_definition_are_skew_until_a_rerun_finds_none(
    shop: Settings,
) -> None:
    logged = as_computed(shop)
    check, _ = judged(shop, [{**v, "definition": "of last week"} for v in logged])
    assert counts(check)["mismatch"] == len(logged)
    assert len(offenders(check)) == min(50, len(logged))
    assert {shown["reason"] for shown in offenders(check)} == {"definition"}
    again, rows = judged(shop, logged)
    assert again.passed
    assert rows == []
