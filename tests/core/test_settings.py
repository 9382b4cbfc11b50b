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


def test_files_source_needs_a_file_and_a_mapping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IBOOK_SOURCE", "files")
    with pytest.raises(ValidationError, match="IBOOK_FILES_TRANSACTIONS"):
        Settings()


def test_a_secret_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_ADMIN_API_KEY", "correct horse")
    assert "correct horse" not in repr(Settings())
