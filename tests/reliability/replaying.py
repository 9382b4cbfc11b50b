"""Every prediction made again: a server of several variants, processes killed, replay, tampering.

`python -m tests.reliability.replaying --requests 10000` is the long form.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np

from ibook_assets.core.canonical import canonical_json
from ibook_assets.core.manifest import SnapshotManifest
from ibook_assets.core.predictions import Trace
from ibook_assets.core.rollout import Entrant
from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import PREDICTIONS, TRANSACTIONS
from ibook_assets.core.times import day_of
from ibook_assets.models.bundle import ModelBundle
from ibook_assets.stores.blobs import Blobs, open_blobs
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.log_files import LogFiles
from ibook_assets.stores.replay import Replayer
from ibook_assets.stores.trace_archive import TraceArchive
from ibook_assets.stores.traces import open_traces
from tests.serving.harness import RunningServer, challenge, eventually, promote, running
from tests.serving.harness import small_bundle as a_bundle
from tests.serving.history import orders, publish_history

ROWS: Final = 20
"""Orders in a request."""
CLIENTS: Final = 4
API_SHARE: Final = 0.5
"""Share of the kills that API processes get, which die so often at most; the recorder the rest."""
PHASES: Final = ("champion", "canary", "experiment")
DAYS: Final = ("2026-01-01", "2026-01-02", "2026-01-03")

Key = tuple[str, str, int]


@dataclass(slots=True)
class Figures:
    """What happened; `lost`, `twice`, `not_reproduced` and `wrong` must be zero."""

    answered: int = 0
    """Predictions that clients got."""
    traced: int = 0
    """Scores in the trace store, shadows' included."""
    in_memory: int = 0
    """Answered predictions whose trace was in the memory of a killed process."""
    lost: int = 0
    """Traces in the store that did not land."""
    twice: int = 0
    """Traces that landed more than once after repetitions were left out."""
    repeated: int = 0
    """Rows of the log's files that repeat a trace."""
    wrong: int = 0
    """Traces whose score, version or variant is not what the client was told."""
    kills: int = 0
    reproduced: int = 0
    not_reproduced: int = 0
    variants: dict[str, int] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)
    """What was tampered with, and what replay named."""
    replay_seconds: float = 0.0


def serve_and_replay(home: Path, *, requests: int, kills: int, seed: int = 7) -> Figures:
    """Answer about `requests` orders through every variant, killing processes, then replay all."""
    settings = Settings(home=home)
    blobs = open_blobs(settings.lake)
    models = [_learnt(a_bundle(f"fraud-v{n}", seed=n), blobs) for n in (1, 2, 3)]
    promote(settings, models[0])
    publish_history(settings)
    figures = Figures()
    told: dict[str, dict[str, Any]] = {}
    rng = np.random.default_rng(seed)
    with running(settings, processes=2) as server:
        for number, phase in enumerate(PHASES):
            _enter(settings, server, phase, models)
            mine = kills // len(PHASES) + (number < kills % len(PHASES))
            told |= _ask(server, requests // len(PHASES), rng, kills=mine)
        figures.kills = kills
        server.terminate()
    figures.answered = len(told)
    _account(settings, figures, told)
    traces = list(TraceArchive(blobs).recent())
    _replay(blobs, traces, figures)
    _tamper(blobs, traces, figures)
    return figures


def _learnt(bundle: ModelBundle, blobs: Blobs) -> ModelBundle:
    """`bundle` as if it had learnt from days of the lake, with their manifest."""
    lake = Lake(blobs)
    rows = TRANSACTIONS.schema.empty_table()
    manifest = SnapshotManifest(
        entries=tuple(lake.write("facts/transactions", day, rows).entry for day in DAYS),
        parameters={"model": bundle.version},
    )
    blobs.put(f"manifests/{manifest.snapshot_id}.json", canonical_json(manifest))
    info = bundle.info.model_copy(update={"training_snapshot": manifest.snapshot_id})
    return ModelBundle(info, bundle.files()["model.ubj"])


def _enter(
    settings: Settings, server: RunningServer, phase: str, models: list[ModelBundle]
) -> None:
    """Bring the promotion log to what `phase` needs, and wait until every process follows."""
    if phase == "champion":
        return
    if phase == "canary":
        challenge(settings, models[2], Entrant("shadow", 0.5, None))
        record = challenge(settings, models[1], Entrant("canary", 0.4, None))
    else:
        promote(settings, models[0])
        challenge(settings, models[2], Entrant("shadow", 1.0, None))
        record = challenge(settings, models[1], Entrant("treatment", 0.5, "fees"))
    eventually(
        lambda: server.asked_anew("record_sequence") == {record.sequence},
        what=f"every process serves entry {record.sequence}",
    )


def _ask(
    server: RunningServer, count: int, rng: np.random.Generator, *, kills: int
) -> dict[str, dict[str, Any]]:
    """Answers by request id; API processes and recorders are killed meanwhile, in turns."""
    bodies = [
        {"requests": orders(ROWS, seed=int(rng.integers(2**31)))} for _ in range(count // ROWS)
    ]
    told: dict[str, dict[str, Any]] = {}

    def ask(body: dict[str, Any]) -> None:
        # A connection each: one that was open to a killed process is no failure of the server.
        with httpx.Client(base_url=server.url, timeout=30) as client:
            try:
                answer = client.post("/predict?explain=false", json=body)
            except httpx.TransportError:
                return
        if answer.status_code == httpx.codes.OK:
            told.update({p["request_id"]: p for p in answer.json()["predictions"]})

    with ThreadPoolExecutor(CLIENTS) as pool:
        asked = [pool.submit(ask, body) for body in bodies]
        for kill in range(kills):
            due = (kill + 1) * len(asked) // (kills + 1)
            eventually(lambda: sum(f.done() for f in asked) >= due, what="requests", seconds=120)  # noqa: B023
            eventually(lambda: _is_whole(server), what="the dead are replaced")
            victims = server.api_processes() if rng.random() < API_SHARE else [server.recorder()]
            victim = victims[int(rng.integers(len(victims)))]
            os.kill(victim, signal.SIGKILL)
            eventually(lambda: _state(str(victim)) in "ZX", what="it is dead")  # noqa: B023
        for future in asked:
            future.result()
    return told


def _is_whole(server: RunningServer) -> bool:
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    alive = [pid for pid in children.read_text().split() if _state(pid) not in "ZX"]
    names = Counter(Path(f"/proc/{pid}/comm").read_text().strip() for pid in alive)
    return len(alive) == 3 and names["ibook-recorder"] == 1


def _state(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def _key(trace: Trace) -> Key:
    return trace.request_id, trace.variant, trace.known_ts


def _account(settings: Settings, figures: Figures, told: dict[str, dict[str, Any]]) -> None:
    """Hold the store, the log's files and what clients were told against each other."""
    store = open_traces(settings)
    kept = [store.trace_of(stored) for stored in store.predictions.newest(10**7)]
    figures.traced = len(kept)
    blobs = open_blobs(settings.lake)
    archive = TraceArchive(blobs)
    landed = Counter(_key(trace) for trace in archive.recent())
    rows = LogFiles(blobs).rows(PREDICTIONS.name).num_rows
    figures.repeated = rows - len(landed)
    figures.twice = sum(count - 1 for count in landed.values())
    figures.lost = sum(_key(trace) not in landed for trace in kept)
    answered = {trace.request_id: trace for trace in kept if trace.served}
    figures.in_memory = sum(request_id not in answered for request_id in told)
    figures.wrong = sum(
        (p["score"], p["model_version"], p["variant"])
        != (trace.score, trace.model_version, trace.variant)
        for request_id, p in told.items()
        if (trace := answered.get(request_id)) is not None
    )
    assert {day_of(trace.known_ts).isoformat() for trace in kept} <= set(archive.days())


def _replay(blobs: Blobs, traces: list[Trace], figures: Figures) -> None:
    began = time.monotonic()
    replayed = Replayer(blobs).replay(traces)
    figures.replay_seconds = time.monotonic() - began
    figures.reproduced = sum(one.fault is None for one in replayed)
    figures.not_reproduced = len(replayed) - figures.reproduced
    figures.variants = dict(Counter(one.trace.variant for one in replayed if one.fault is None))


def _tamper(blobs: Blobs, traces: list[Trace], figures: Figures) -> None:
    """Flip one bit each in an artefact, a vector and a partition, and see what replay names."""
    trace = traces[0]
    flipped = bytes([trace.vector[0] ^ 1]) + trace.vector[1:]
    (vector,) = Replayer(blobs).replay([_changed(trace, flipped)])
    _expect(figures, "vector", vector.fault, trace.request_id)
    (partition,) = blobs.list(f"facts/transactions/dt={DAYS[1]}/")[1:]
    _flip(blobs, partition)
    (snapshot, *_) = Replayer(blobs).snapshots([trace])
    _expect(figures, "partition", snapshot.faults[0], f"facts/transactions/{DAYS[1]}")
    _flip(blobs, f"promoted/fraud/{trace.artefact}/model.ubj")
    (artefact,) = Replayer(blobs).replay([trace])
    _expect(figures, "artefact", artefact.fault, "model.ubj")


def _changed(trace: Trace, vector: bytes) -> Trace:
    fields = {name: getattr(trace, name) for name in trace.__struct_fields__}
    return Trace(**(fields | {"vector": vector}))


def _expect(figures: Figures, culprit: str, fault: Any, what: str) -> None:
    assert fault is not None, f"nobody noticed a changed {culprit}"
    assert (fault.culprit, what in fault.what) == (culprit, True), fault
    figures.named[culprit] = what


def _flip(blobs: Blobs, key: str) -> None:
    place = Path(blobs.location(key))
    content = bytearray(place.read_bytes())
    content[len(content) // 2] ^= 1
    place.write_bytes(content)


def main() -> None:
    """Run the long form and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000, help="orders to answer")
    parser.add_argument("--kills", type=int, default=8, help="processes to kill meanwhile")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = serve_and_replay(Path(folder), requests=options.requests, kills=options.kills)
    for name, value in asdict(figures).items():
        sys.stdout.write(f"{name}: {value}\n")


if __name__ == "__main__":
    main()
