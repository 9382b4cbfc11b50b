"""Real models, a real promotion log and real server processes for the serving tests."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import xgboost as xgb

from ibook_assets.core.promotion import (
    GateRecord,
    PromotedModel,
    PromotionDraft,
    PromotionRecord,
)
from ibook_assets.core.rollout import Entrant, entering
from ibook_assets.core.settings import Settings
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.models.bundle import BundleInfo, ModelBundle, model_bytes, sha256_hex
from ibook_assets.models.calibration import BetaCalibration
from ibook_assets.stores.artefacts import publish_artefact
from ibook_assets.stores.blobs import open_blobs
from ibook_assets.stores.promotions import PromotionLog

ADMIN_KEY: Final = "correct-horse-battery-staple"
ORDER: Final = {"user_id": 1042, "event_id": 17, "amount": 120.5}
WHO: Final = {"actor": "test", "reason": "serving tests"}
START_SECONDS: Final = 60.0
MOST_ASKED: Final = 200
"""Connections after which a process that took none of them is taken to be starting."""
ROOT: Final = Path(__file__).parents[2]
HAND_OVER: Final = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Becomes a command that listens on a socket handed over, as systemd starts one."""


def small_bundle(
    version: str, *, seed: int, threshold: float = 0.5, rounds: int = 15
) -> ModelBundle:
    """A fraud model over the whole catalogue, fitted on noise and the amount."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(400, len(FRAUD.features))).astype(np.float32)
    amount_cents = rng.uniform(0, 500_000, 400)
    x[:, FRAUD.features.index("order_context:amount")] = amount_cents
    x[rng.random(x.shape) < 0.3] = np.nan
    y = (amount_cents + rng.normal(0, 60_000, 400) > 250_000).astype(np.int64)
    booster = xgb.train(
        {"objective": "binary:logistic", "max_depth": 4, "nthread": 1, "seed": seed},
        xgb.DMatrix(x, y),
        num_boost_round=rounds,
    )
    model = model_bytes(booster)
    info = BundleInfo(
        use_case=FRAUD.name,
        version=version,
        feature_names=FRAUD.features,
        spec_hashes=FRAUD.spec_hashes,
        calibration=BetaCalibration(),
        threshold=threshold,
        training_snapshot="ab" * 32,
        trained_until_us=1,
        training_rows=400,
        training_frauds=int(y.sum()),
        parameters={},
        metrics={},
        libraries={},
        model_sha256=sha256_hex(model),
    )
    return ModelBundle(info, model)


def promote(settings: Settings, bundle: ModelBundle) -> PromotionRecord:
    """Publish and promote `bundle` as the promotion asset does."""
    log = promotions(settings)
    current = log.current(FRAUD.name)
    draft = PromotionDraft(use_case=FRAUD.name, model=published(settings, bundle, current), **WHO)
    return log.promote(draft, expected_parent=current.sha256 if current else None)


def challenge(settings: Settings, bundle: ModelBundle, wanted: Entrant) -> PromotionRecord:
    """Publish `bundle` and let it stand beside the champion as the promotion asset does."""
    log = promotions(settings)
    current = log.require_current(FRAUD.name)
    draft = entering(current, published(settings, bundle, current), wanted, **WHO)
    return log.challenge(draft, expected_parent=current.sha256)


def promotions(settings: Settings) -> PromotionLog:
    """The promotion log."""
    return PromotionLog(open_blobs(settings.lake))


def published(
    settings: Settings, bundle: ModelBundle, champion: PromotionRecord | None
) -> PromotedModel:
    """`bundle` with an open gate, its files where serving reads them."""
    blobs = open_blobs(settings.lake)
    return PromotedModel(
        model_version=bundle.version,
        artefact=publish_artefact(blobs, FRAUD.name, bundle.files(), sha256=bundle.sha256()),
        feature_names=bundle.feature_names,
        spec_hashes=bundle.info.spec_hashes,
        threshold=bundle.threshold,
        training_snapshot=bundle.info.training_snapshot,
        git_sha="0" * 40,
        gate=GateRecord(
            use_case=FRAUD.name,
            version=bundle.version,
            champion_version=champion.model_version if champion else None,
            passed=True,
            rules=(),
        ),
    )


def eventually(condition: Callable[[], bool], *, what: str, seconds: float = 30.0) -> None:
    """Wait until `condition` holds; fail naming `what` when it does not in good time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.02)


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class RunningServer:
    """A server process of ours, its address and its logs."""

    settings: Settings
    process: subprocess.Popen[str]
    url: str
    client: httpx.Client
    log_path: Path
    outputs: list[str] = field(default_factory=list)

    def log(self) -> list[dict[str, Any]]:
        """What it logged so far; every line must be JSON."""
        return [json.loads(line) for line in self.log_path.read_text().splitlines()]

    def events(self, event: str) -> list[dict[str, Any]]:
        """Log lines of one event."""
        return [line for line in self.log() if line["event"] == event]

    def api_processes(self) -> list[int]:
        """Its children that answer requests."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        found = children.read_text().split()
        return [int(pid) for pid in found if not _is_recorder(pid)]

    def recorder(self) -> int:
        """Its child that ships traces."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        (found,) = (int(pid) for pid in children.read_text().split() if _is_recorder(pid))
        return found

    def readiness(self) -> dict[str, Any]:
        """GET /readyz of one of the processes."""
        return dict(self.client.get("/readyz").json())

    def asked_anew(self, field: str) -> set[Any]:
        """What `/readyz` says in `field`, each process asked anew: any may take a connection.

        A process that does not answer yet is left out once the others have answered often.
        """
        said: dict[int, Any] = {}
        for _ in range(MOST_ASKED):
            connection = HTTPConnection("127.0.0.1", self.client.base_url.port, timeout=20)
            with closing(connection):
                connection.request("GET", "/readyz")
                answer = json.loads(connection.getresponse().read())
            said[answer["process"]] = answer[field]
            if said.keys() >= {*self.api_processes()}:
                break
        return set(said.values())

    def versions(self) -> set[str | None]:
        """Model versions that its processes answer with."""
        return self.asked_anew("model_version")

    def predict(self, *orders: Mapping[str, object], **query: str) -> list[dict[str, Any]]:
        """Predictions for `orders`."""
        answer = self.client.post(
            "/predict", json={"requests": list(orders) or [ORDER]}, params=query
        )
        assert answer.status_code == 200, answer.text
        return list(answer.json()["predictions"])

    def terminate(self) -> int:
        """SIGTERM and wait; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


def _is_recorder(pid: str) -> bool:
    return Path(f"/proc/{pid}/comm").read_text().strip() == "ibook-recorder"


@contextmanager
def running(
    settings: Settings,
    *,
    processes: int = 1,
    environment: Mapping[str, str] | None = None,
    port: int | None = None,
    listener: socket.socket | None = None,
) -> Iterator[RunningServer]:
    """A real server, ended and waited for whatever happens.

    It listens on `port`, a free one if none is given, or on a `listener` that is open already.
    """
    port = listener.getsockname()[1] if listener else port or free_port()
    log_path = settings.home / f"server-{port}.log"
    settings.home.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-W", "error::DeprecationWarning:ibook", "-m", "ibook_serving"]
    command += ["--port", str(port), "--processes", str(processes)]
    descriptors = [listener.fileno()] if listener else []
    for descriptor in descriptors:
        command = [sys.executable, "-c", HAND_OVER, str(descriptor), *command]
    with log_path.open("a") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "IBOOK_HOME": str(settings.home), **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            pass_fds=descriptors,
        )
    url = f"http://127.0.0.1:{port}"
    with process, httpx.Client(base_url=url, timeout=20) as client:
        try:
            assert process.stdout is not None
            server = RunningServer(settings, process, url, client, log_path)
            server.outputs = [process.stdout.readline(), process.stdout.readline()]
            assert process.poll() is None, log_path.read_text()
            yield server
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(timeout=30)
                finally:
                    process.kill()
