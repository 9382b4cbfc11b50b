"""Settings: complete example file, clear refusals, one object from the environment."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from ibook_assets.core.settings import Settings
from scripts.env_example import render


def test_env_example_lists_every_setting_with_its_default() -> None:
    assert Path(".env.example").read_text() == render(), "run python -m scripts.env_example"


def test_environment_overrides_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IBOOK_SIM_SEED", "11")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    settings = Settings()
    assert settings.sim_seed == 11
    assert settings.tracking_uri == "http://127.0.0.1:5000"


@pytest.mark.parametrize(
    ("variable", "value", "field", "expected"),
    [
        ("AIRFLOW_TASK_RETRIES", "0", "task_retries", 0),
        ("ML_MONITORING_PIPELINE_RETRIES", "5", "ml_monitoring_retries", 5),
        ("CANARY_SPLIT", "0.1", "rollout_shares", "0.1"),
        ("DRIFT_REFERENCE_PATH", "a.csv", "drift_reference_path", Path("a.csv")),
        ("DRIFT_CURRENT_PATH", "b.csv", "drift_current_path", Path("b.csv")),
    ],
)
def test_names_of_other_systems_are_understood(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, field: str, expected: object
) -> None:
    monkeypatch.setenv(variable, value)
    assert getattr(Settings(), field) == expected


def test_files_source_needs_a_file_and_a_mapping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IBOOK_SOURCE", "files")
    with pytest.raises(ValidationError, match="IBOOK_FILES_TRANSACTIONS"):
        Settings()


def test_a_secret_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_ADMIN_API_KEY", "correct horse")
    assert "correct horse" not in repr(Settings())
