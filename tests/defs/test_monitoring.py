"""The drift asset on real features: history, Evidently's page, the sensor that reads it."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

from ibook_assets.core.errors import ContractError
from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.monitoring import Kind, drift_of
from ibook_assets.core.monitoring.record import DriftRecord
from ibook_assets.core.promotion import PromotionRecord
from ibook_assets.core.settings import Settings
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.definitions import build_defs
from ibook_assets.defs.monitoring import MONITORING_JOB, drift_key
from ibook_assets.defs.resources import LakeResource
from ibook_assets.defs.retraining import UNTIL, retraining_sensors
from ibook_assets.stores.drift_days import compare_day, drift_records, report_folder, store_record
from ibook_assets.stores.feature_days import feature_table
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.local_blobs import LocalBlobs
from ibook_assets.stores.promotions import PromotionLog
from ibook_assets.stores.training_data import newest_snapshot
from ibook_assets.training.drift_page import drift_page
from tests.promotion_drafts import a_draft, stored_artefact

FIRST, LAST = "2026-01-01", "2026-01-26"
BEFORE, DAY = "2026-01-25", LAST
DAILY = [
    ["raw", "events"],
    *(["raw", name] for name in ("transactions", "views", "refunds", "outcomes")),
    *(["facts", name] for name in ("transactions", "views", "refunds", "outcomes")),
    *(["features", view.name] for view in FEATURE_VIEWS),
]


def settings_in(home: Path) -> Settings:
    return Settings(
        home=home,
        sim_users=2_000,
        sim_events=40,
        sim_orders_per_day=500,
        label_maturity_days=3,
        task_retries=0,
    )


def materialise(
    settings: Settings, keys: Sequence[Sequence[str]], days: tuple[str, str] | None = None
) -> None:
    """Without the checks, which recompute features in SQL."""
    selection = dg.AssetSelection.assets(*(dg.AssetKey(key) for key in keys)).without_checks()
    job = dg.define_asset_job("without_checks", selection=selection)
    defs = dg.Definitions.merge(build_defs(settings), dg.Definitions(jobs=[job]))
    first, last = days or ("", "")
    tags = {
        "dagster/asset_partition_range_start": first,
        "dagster/asset_partition_range_end": last,
    }
    with dg.DagsterInstance.ephemeral(tempdir=str(settings.home)) as instance:
        found = defs.resolve_job_def("without_checks")
        found.execute_in_process(instance=instance, tags=tags if days else None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of some weeks, a training set, and a champion that learnt from it."""
    home = tmp_path_factory.mktemp("trained")
    settings = settings_in(home)
    materialise(settings, DAILY, days=(FIRST, BEFORE))
    materialise(settings, [["fraud", "training_set"]])
    materialise(settings, DAILY[1:], days=(DAY, DAY))
    lake = lake_of(settings)
    draft = a_draft("v1", artefact=stored_artefact(lake.blobs))
    model = draft.model.model_copy(
        update={
            "training_snapshot": newest_snapshot(lake, FRAUD.name),
            "spec_hashes": FRAUD.spec_hashes,
        }
    )
    PromotionLog(lake.blobs).promote(
        draft.model_copy(update={"model": model}), expected_parent=None
    )
    return home / "lake"


@pytest.fixture
def shop(trained: Path, tmp_path: Path) -> Settings:
    """A platform of its own with those days and that champion."""
    shutil.copytree(trained, tmp_path / "home" / "lake", copy_function=os.link)
    return settings_in(tmp_path / "home")


def lake_of(settings: Settings) -> Lake:
    return Lake(LocalBlobs(settings.lake))


def champion_of(settings: Settings) -> PromotionRecord:
    return PromotionLog(lake_of(settings).blobs).require_current(FRAUD.name)


def spoil(settings: Settings, view: str, days: Sequence[str], **columns: Any) -> None:
    """Overwrite stored features of some days."""
    lake = lake_of(settings)
    table_name = feature_table(view)
    for day in days:
        table = lake.read(table_name, [day])
        for name, change in columns.items():
            values = change(np.array(table[name].to_numpy(), copy=True))
            position = table.column_names.index(name)
            table = table.set_column(position, name, pa.array(values.astype(np.float32)))
        lake.write(table_name, day, table)


def judged(settings: Settings, day: str) -> DriftRecord:
    lake = lake_of(settings)
    return compare_day(lake, FRAUD, day, champion_of(settings)).record


def test_an_undrifted_day_is_stable_and_says_what_it_was_compared_with(shop: Settings) -> None:
    record = judged(shop, DAY)
    assert record.decision.state == "stable"
    assert (record.champion_version, record.confirmed) == ("v1", False)
    # Rows of the last three days were not mature: the reference ends before them.
    assert (record.reference_first_day, record.reference_last_day) == ("2026-01-01", "2026-01-22")
    # One day came after the training set was made.
    assert (record.new_days, judged(shop, BEFORE).new_days) == (1, 0)
    assert len(record.decision.columns) + len(record.left_out) == len(FRAUD.features)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: np.where(np.arange(x.size) % 10 < 4, np.nan, x),
        lambda x: np.full_like(x, np.nan),
        lambda x: np.where(np.arange(x.size) % 10 < 3, np.inf, x),
        lambda x: x * 10,
    ],
    ids=["nulls", "all null", "infinite", "in other units"],
)
def test_harm_to_one_feature_is_seen(shop: Settings, change: Any) -> None:
    spoil(shop, "order_context", [DAY], checkout_duration=change)
    decision = judged(shop, DAY).decision
    assert decision.drifted
    assert decision.columns[0].name == "order_context:checkout_duration"
    assert decision.score is not None
    # What a share of drifted columns cannot see: one of a hundred columns.
    assert not decision.score_fires


def test_a_view_defined_anew_since_training_is_left_out(shop: Settings) -> None:
    champion = champion_of(shop)
    hashes = dict(FRAUD.spec_hashes) | {"order_context": "another"}
    old = champion.model_copy(
        update={"model": champion.model.model_copy(update={"spec_hashes": hashes})}
    )
    record = compare_day(lake_of(shop), FRAUD, DAY, old).record
    assert "order_context:amount" in record.left_out
    none = champion.model_copy(
        update={"model": champion.model.model_copy(update={"spec_hashes": {}})}
    )
    with pytest.raises(ContractError, match="Train fraud again"):
        compare_day(lake_of(shop), FRAUD, DAY, none)


def test_without_a_champion_there_is_no_verdict(shop: Settings) -> None:
    record = compare_day(lake_of(shop), FRAUD, DAY, None).record
    assert record.decision.state == "insufficient_data"
    assert "no fraud model has been promoted" in str(record.decision.reason)


def test_a_day_without_a_champion_materialises_and_says_why_nothing_is_judged(
    small: Settings, instance: dg.DagsterInstance
) -> None:
    job = build_defs(small).resolve_job_def(MONITORING_JOB)
    done = job.execute_in_process(partition_key=DAY, instance=instance)
    (told,) = done.asset_materializations_for_node("fraud__feature_drift")
    assert told.metadata["state"].value == "insufficient_data"
    assert "no fraud model has been promoted" in str(told.metadata["summary"].value)
    assert told.metadata["columns"].value == "no rows"


def test_a_verdict_is_confirmed_by_the_day_before_of_the_same_champion(shop: Settings) -> None:
    spoil(shop, "order_context", [BEFORE, DAY], checkout_duration=lambda x: x * 10)
    lake = lake_of(shop)
    assert not judged(shop, DAY).confirmed
    first = judged(shop, BEFORE)
    assert (first.decision.drifted, first.confirmed) == (True, False)
    store_record(lake.blobs, first, precommit=lambda: None)
    assert judged(shop, DAY).confirmed
    other = first.model_copy(update={"champion_version": "v0"})
    store_record(lake.blobs, other, precommit=lambda: None)
    assert not judged(shop, DAY).confirmed


def test_a_damaged_record_says_what_to_do(shop: Settings) -> None:
    lake = lake_of(shop)
    lake.blobs.put(f"{report_folder(FRAUD.name, BEFORE)}/decision.json", b"{}")
    with pytest.raises(ContractError, match="materialise that day of feature_drift again"):
        drift_records(lake.blobs, FRAUD.name, until=DAY, days=2)


@pytest.mark.slow
def test_the_asset_keeps_page_and_history_and_makes_the_sensor_fire(shop: Settings) -> None:
    dear = {"amount_to_list_price": lambda x: x * 2.5}
    spoil(shop, "order_context", [BEFORE, DAY], **dear)
    spoil(shop, "order_context", [DAY], checkout_duration=lambda x: np.full_like(x, np.nan))
    lake = lake_of(shop)
    store_record(lake.blobs, judged(shop, BEFORE), precommit=lambda: None)
    job = build_defs(shop).resolve_job_def(MONITORING_JOB)
    with dg.DagsterInstance.local_temp(str(shop.home)) as instance:
        done = job.execute_in_process(
            partition_key=DAY, instance=instance, asset_selection=[drift_key(FRAUD)]
        )
        (told,) = done.asset_materializations_for_node("fraud__feature_drift")
        (check,) = done.get_asset_check_evaluations()
        context = dg.build_sensor_context(
            instance=instance,
            definitions=build_defs(shop),
            resources={"lake": LakeResource(uri=shop.lake)},
        )
        (sensor,) = retraining_sensors(shop)
        ticked = sensor.evaluate_tick(context)
    metadata: dict[str, Any] = {name: entry.value for name, entry in told.metadata.items()}
    assert (metadata["state"], metadata["confirmed"], metadata["day"]) == ("drifted", True, DAY)
    assert not check.passed
    assert check.severity is dg.AssetCheckSeverity.WARN
    (request,) = ticked.run_requests or ()
    assert request.tags[UNTIL] == DAY
    assert b"<!DOCTYPE html>" in Path(metadata["evidently_html"]).read_bytes()[:100]
    assert "| `order_context:amount_to_list_price` | wasserstein |" in metadata["evidently"]
    assert "Without a value" in metadata["evidently"]
    page = json.loads(Path(metadata["evidently_json"]).read_text())
    assert metadata["evidently_summary"]["metrics"] == page["metrics"][:1]
    names = {entry["config"].get("column") for entry in page["metrics"]}
    # Evidently cannot draw a column without values; the record keeps it all the same.
    assert "order_context:checkout_duration" not in names
    assert "order_context:amount_to_list_price" in names
    recorded = DriftRecord.model_validate_json(Path(metadata["record"]).read_text())
    assert {c.name for c in recorded.decision.columns if c.drifted} >= {
        "order_context:checkout_duration",
        "order_context:amount_to_list_price",
    }
    history = drift_records(lake.blobs, FRAUD.name, until=DAY, days=9)
    assert [record.day for record in history] == [BEFORE, DAY]
    _evidently_agrees(shop)


def _evidently_agrees(shop: Settings) -> None:
    """On the same rows Evidently's share of drifted columns is the decision's."""
    compared = compare_day(lake_of(shop), FRAUD, DAY, champion_of(shop))
    names = [n for n in compared.kinds if not np.isnan(compared.current[n]).all()][:30]
    reference = {name: compared.reference[name][:4_000] for name in names}
    current = {name: compared.current[name] for name in names}
    kinds = {name: compared.kinds[name] for name in names}
    page = drift_page(reference, current, kinds)
    assert page is not None
    assert {column.name for column in page.columns} == set(names)
    # The brief under the page says what the page does.
    assert sum(column.drifted for column in page.columns) == round(page.share * len(names))
    assert page.share == pytest.approx(drift_of(reference, current, kinds).distance_share)
    assert 0 < page.share < 1


@pytest.mark.slow
def test_columns_of_every_kind_break_no_page_and_count_as_in_the_decision() -> None:
    rng = np.random.default_rng(0)
    rows, now = 3_000, 300
    lone, other = np.full(rows, np.nan), np.full(now, np.nan)
    lone[5], other[3] = 1.0, 2.0
    reference = {
        "constant": np.full(rows, 3.0),
        "jump": np.full(rows, 3.0),
        "one value": lone,
        "texts": np.array(["a", "b", None] * (rows // 3), dtype=object),
        "codes": rng.integers(0, 3, rows).astype(np.float32),
        "infinite": np.r_[np.full(5, np.inf), rng.normal(size=rows - 5)],
        "heavy tail": rng.lognormal(20, 8, rows),
    }
    current = {
        "constant": np.full(now, 3.0),
        "jump": np.full(now, 4.0),
        "one value": other,
        "texts": np.array(["a", "z", None] * (now // 3), dtype=object),
        "codes": rng.integers(0, 4, now).astype(np.float32),
        "infinite": rng.normal(size=now),
        "heavy tail": rng.lognormal(20, 8, now),
    }
    kinds: dict[str, Kind] = dict.fromkeys(reference, "numeric")
    kinds["texts"] = kinds["codes"] = "categorical"
    page = drift_page(reference, current, kinds)
    assert page is not None
    assert page.left_out == ()
    assert sum(column.drifted for column in page.columns) == round(page.share * len(kinds))
    assert page.share == drift_of(reference, current, kinds).distance_share
