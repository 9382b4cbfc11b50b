"""The flows and their schedules: what each asks for at its tick, and how often it tries."""

from pathlib import Path

import dagster as dg
import pytest

from ibook_assets.core.settings import Settings
from ibook_assets.definitions import build_defs


@pytest.mark.parametrize(
    ("variable", "asset"),
    [
        ("AIRFLOW_TASK_RETRIES", ("raw", "transactions")),
        ("FEATURE_ENGINEERING_PIPELINE_RETRIES", ("features", "order_context")),
        ("MODEL_TRAINING_PIPELINE_RETRIES", ("fraud", "model")),
        ("ML_MONITORING_PIPELINE_RETRIES", ("fraud", "feature_drift")),
        ("ML_MONITORING_PIPELINE_RETRIES", ("fraud", "fraud_rate")),
        ("ML_MONITORING_PIPELINE_RETRIES", ("experiments", "summary")),
        ("IBOOK_ML_MONITORING_RETRIES", ("fraud", "performance")),
    ],
)
def test_retries_follow_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, asset: tuple[str, ...]
) -> None:
    monkeypatch.setenv(variable, "7")
    defs = build_defs(Settings(home=tmp_path))
    policy = defs.resolve_assets_def(dg.AssetKey(asset)).op.retry_policy
    assert policy is not None
    assert policy.max_retries == 7
