"""Who takes part in the serving benchmark, and how each is started."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from bench.serving_stage import Stage
from tests.services.processes import free_port

PROCESSES: Final = 2
START_SECONDS: Final = 120.0
PEERS_PYTHON: Final = Path(".venv-peers/bin/python")
_IBOOK: Final = ("-m", "ibook_serving", "--processes", str(PROCESSES), "--port", "{port}")
_UVICORN: Final = (
    *("-m", "uvicorn", "--port", "{port}", "--workers", str(PROCESSES), "--no-access-log"),
    *("--log-level", "warning"),
)


class NotStartedError(Exception):
    """A server did not answer."""


@dataclass(frozen=True)
class Contender:
    """One server; `{port}` in its command is filled in."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    python: Path = Path(sys.executable)
    path: str = "/predict"
    frame_body: bool = False
    """Whether it takes the same orders as `dataframe_records` only."""
    needs: str | None = None
    """Why it cannot take part here; None when it can."""


def contenders(stage: Stage, redis_url: str | None) -> list[Contender]:
    """All of them, those that cannot run here included."""
    redis = {"IBOOK_ONLINE_SOURCE": "live", "IBOOK_ONLINE_URL": redis_url or ""}
    no_redis = None if redis_url else "redis-server (apt-get install redis-server)"
    no_peers = None if PEERS_PYTHON.exists() else "make bench-peers"
    return [
        Contender("raw ASGI app", (*_UVICORN, "bench.serving_peers.raw_asgi:app")),
        _ibook("ibook, scoring only", stage, {"IBOOK_ONLINE_SOURCE": "snapshot"}),
        _ibook("ibook, live features (LMDB)", stage, {"IBOOK_ONLINE_SOURCE": "live"}),
        _ibook("ibook, live features (Redis)", stage, redis, needs=no_redis),
        _ibook(
            "ibook, live features (LMDB), predictions logged",
            stage,
            {"IBOOK_ONLINE_SOURCE": "live", "IBOOK_PREDICTION_LOG": "lake"},
        ),
        Contender("FastAPI", (*_UVICORN, "bench.serving_peers.fastapi_app:app")),
        Contender("LitServe, defaults", ("-m", "bench.serving_peers.litserve_app", "{port}")),
        Contender(
            "BentoML",
            ("-m", "bentoml", "serve", "bench.serving_peers.bentoml_app:Scoring", "-p", "{port}"),
            python=PEERS_PYTHON,
            needs=no_peers,
        ),
        Contender(
            "MLflow's server",
            (
                *("-m", "mlflow", "models", "serve", "-m", str(_mlflow_model(stage))),
                *("--env-manager", "local", "-p", "{port}", "--workers", str(PROCESSES)),
            ),
            path="/invocations",
            frame_body=True,
        ),
    ]


def _ibook(
    name: str, stage: Stage, environment: Mapping[str, str], needs: str | None = None
) -> Contender:
    home = {"IBOOK_HOME": str(stage.home), "IBOOK_PREDICTION_LOG": "off"}
    return Contender(name, _IBOOK, home | dict(environment), needs=needs)


def _mlflow_model(stage: Stage) -> Path:
    """Where `save_mlflow_model` puts the model."""
    return stage.home.parent / "mlflow"


def save_mlflow_model(stage: Stage) -> None:
    """The model as MLflow serves it: from code, no pickle."""
    import mlflow

    target = _mlflow_model(stage)
    shutil.rmtree(target, ignore_errors=True)
    mlflow.pyfunc.save_model(
        target,
        python_model="bench/serving_peers/mlflow_model.py",
        pip_requirements=["mlflow", "xgboost"],
    )


def bodies_of(contender: Contender, stage: Stage) -> Path:
    """The file of request bodies that `contender` understands."""
    if not contender.frame_body:
        return stage.bodies
    bodies = msgspec.msgpack.decode(stage.bodies.read_bytes(), type=list[bytes])
    target = stage.bodies.with_name("frames.msgpack")
    frames = [b.replace(b'{"requests":', b'{"dataframe_records":', 1) for b in bodies]
    target.write_bytes(msgspec.msgpack.encode(frames))
    return target


@contextmanager
def started(contender: Contender, stage: Stage, bodies: Path) -> Iterator[tuple[int, int]]:
    """Process id and port of a running `contender` that has answered; ended afterwards."""
    port = free_port()
    body = msgspec.msgpack.decode(bodies.read_bytes(), type=list[bytes])[0]
    command = [str(contender.python.absolute()), *contender.command]
    log = (stage.home.parent / "server.log").open("w")
    environment = {
        **os.environ,
        "MODEL": str(stage.model),
        "PYTHONPATH": str(Path.cwd()),
        # MLflow looks for uvicorn there.
        "PATH": f"{contender.python.absolute().parent}:{os.environ['PATH']}",
    }
    with (
        log,
        subprocess.Popen(
            [part.format(port=port) for part in command],
            env=environment | {"OMP_NUM_THREADS": "1"} | dict(contender.environment),
            stdout=log,
            stderr=log,
            start_new_session=True,
        ) as process,
    ):
        try:
            _wait(process, f"http://127.0.0.1:{port}{contender.path}", body, Path(log.name))
            yield process.pid, port
        finally:
            _end(process)


def _wait(process: subprocess.Popen[bytes], url: str, body: bytes, log: Path) -> None:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                answer.read()
                return
        except (urllib.error.URLError, OSError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                msg = f"no answer from {url} ({error}):\n{log.read_text()[-2000:]}"
                raise NotStartedError(msg) from error
            time.sleep(0.2)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        pass
    finally:
        # Some servers leave their workers behind; the session is ours alone.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
