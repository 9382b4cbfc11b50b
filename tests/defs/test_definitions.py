"""The graph as a whole: complete descriptions, both sources, what it loads."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.settings import Settings
from ibook_assets.definitions import build_defs

HEAVY = ("mlflow", "optuna", "xgboost", "matplotlib", "evidently", "pandera")


def graph_of(settings: Settings) -> Any:
    return build_defs(settings).resolve_asset_graph()


def test_every_asset_says_what_it_is(small: Settings) -> None:
    graph = graph_of(small)
    for key in graph.materializable_asset_keys:
        node = graph.get(key)
        assert node.description, key
        assert node.group_name != "default", key
        assert node.owners, key
        assert node.kinds, key


def test_there_is_an_asset_for_each_feature_view(small: Settings) -> None:
    keys = graph_of(small).materializable_asset_keys
    assert {key.path[1] for key in keys if key.path[0] == "features"} == {
        view.name for view in FEATURE_VIEWS
    }


def test_a_file_source_has_no_truth_of_its_orders(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path,
        source="files",
        files_transactions=tmp_path / "orders.csv",
        files_map="user=u,event=e,amount=a,time=t,label=l",
    )
    keys = graph_of(settings).materializable_asset_keys
    assert dg.AssetKey(["truth", "orders"]) not in keys
    assert dg.AssetKey(["fraud", "promotion"]) in keys


def test_retries_follow_the_settings(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, task_retries=2, model_training_retries=0)
    defs = build_defs(settings)

    def retries(*path: str) -> int:
        policy = defs.resolve_assets_def(dg.AssetKey(path)).op.retry_policy
        return policy.max_retries if policy else 0

    assert retries("facts", "transactions") == 2
    assert retries("fraud", "model") == 0


def test_schedules_and_their_jobs_resolve(small: Settings) -> None:
    defs = build_defs(small)
    names = {"daily_catalogue", "daily_data", "daily_publication", "weekly_training"}
    assert {defs.resolve_schedule_def(name).name for name in names} == names


@pytest.mark.parametrize("module", HEAVY)
def test_definitions_load_without(module: str) -> None:
    code = f"import sys, ibook_assets.definitions; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
