"""The serving process: nothing of the orchestrator in it, and options that are checked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN = ("dagster", "mlflow", "matplotlib", "optuna", "evidently", "shap", "sklearn", "boto3")


def test_serving_imports_nothing_of_training_or_the_orchestrator() -> None:
    script = (
        "import sys, json\n"
        "from ibook_serving.__main__ import main\n"
        "assert main(['--port', '70000']) == 2\n"
        "sys.modules['sklearn'] = None\n"
        "import ibook_serving.app\n"
        "print(json.dumps([m for m, v in sys.modules.items() if v is not None]))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in json.loads(run.stdout)}
    assert not loaded & set(FORBIDDEN)
    assert "xgboost" in loaded


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--port", "0"], "port"),
        (["--port", "80"], "1024"),
        (["--processes", "0"], "api_processes"),
        (["--host", "example.org"], "127.0.0.1"),
        (["--port", "eighty"], "invalid int value"),
    ],
)
def test_wrong_options_end_with_2_and_say_what_is_allowed(
    arguments: list[str], hint: str, tmp_path: Path
) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "ibook_serving", *arguments],
        cwd=ROOT,
        env={**os.environ, "IBOOK_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert hint in run.stderr
    assert "Traceback" not in run.stderr
