"""Row 7: models are swapped under load while processes die and the server restarts.

`python -m tests.reliability.swapping` runs the minute that `docs/reliability.md` has the figures of
and prints them as JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from ibook_assets.core.promotion import PromotionRecord
from ibook_assets.core.rollout import Entrant
from ibook_assets.core.settings import Settings
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.models.bundle import ModelBundle
from ibook_assets.stores.online import OnlineSnapshot, current_snapshot_id, fetch_online_features
from ibook_assets.stores.traces import open_traces
from ibook_serving.api import Order
from ibook_serving.http.decode import order_row
from tests.reliability.asking import Client, Failed, Predicted
from tests.serving.harness import (
    WHO,
    RunningServer,
    challenge,
    eventually,
    promote,
    promotions,
    running,
    small_bundle,
)
from tests.serving.history import USERS, publish_history

MODELS: Final = 4
ORDERS: Final = 200
BODIES: Final = 100
BATCH: Final = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens while clients ask."""

    seconds: float
    promotions: int
    rollbacks: int
    challenges: int
    clients: int = 8
    requests_per_second: int = 400
    processes: int = 2

    def actions(self) -> list[str]:
        """What to do, spread over the time in this order."""
        often = {"promote": self.promotions, "rollback": self.rollbacks}
        often["challenge"] = self.challenges
        placed = [((i + 0.5) / times, name) for name, times in often.items() for i in range(times)]
        return [
            name
            for _, name in sorted(
                [*placed, (0.3, "kill api"), (0.5, "kill recorder"), (0.7, "restart")]
            )
        ]


@dataclass(frozen=True, slots=True)
class Figures:
    """What happened; `wrong`, `mixed`, `traces_wrong`, `failed` and
    `failed_while_restarting` must be zero."""

    seconds: float
    requests: int
    """Requests answered."""
    predictions: int
    promotions: int
    rollbacks: int
    challenges: int
    api_kills: int
    recorder_kills: int
    restarts: int
    versions_seen: int
    wrong: int
    """Predictions that are not what the version they name says of the order."""
    mixed: int
    """Requests whose predictions no single entry of the promotion log accounts for."""
    traces_wrong: int
    """Traces that tell of another version, variant, score or entry than the answer."""
    untraced: int
    """Predictions without a trace: the last moment of the killed process."""
    failed_in_killed_process: int
    """Requests that were in flight when a process was killed."""
    failed_while_restarting: int
    """Requests that were in flight between SIGTERM and the new server's first answer."""
    failed: int
    """Requests that failed at any other time, or were not answered with 200."""
    restart_gap_seconds: float


@dataclass
class Operator:
    """Carries the actions out and remembers when what was away."""

    settings: Settings
    bundles: Sequence[ModelBundle]
    processes: int
    listener: socket.socket
    stack: ExitStack
    killed: list[tuple[float, float]] = field(default_factory=list)
    restarting: list[tuple[float, float]] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    _next: int = 0

    def begin(self) -> None:
        """Start the server."""
        started = running(self.settings, processes=self.processes, listener=self.listener)
        self.server: RunningServer = self.stack.enter_context(started)

    def do(self, action: str) -> None:
        """One action of a plan."""
        {
            "promote": self._promote,
            "rollback": self._rollback,
            "challenge": self._challenge,
            "kill api": self._kill_api,
            "kill recorder": lambda: os.kill(self.server.recorder(), signal.SIGKILL),
            "restart": self._restart,
        }[action]()
        self.done.append(action)

    def _fresh(self) -> ModelBundle:
        """A model that does not serve at the moment."""
        head = promotions(self.settings).require_current(FRAUD.name)
        serving = {model.model_version for model in head.models}
        while True:
            self._next += 1
            found = self.bundles[self._next % len(self.bundles)]
            if found.version not in serving:
                return found

    def _promote(self) -> None:
        promote(self.settings, self._fresh())

    def _rollback(self) -> None:
        promotions(self.settings).rollback(FRAUD.name, **WHO)

    def _challenge(self) -> None:
        canary = Entrant("canary", 0.3, variant=f"canary-{self._next}")
        challenge(self.settings, self._fresh(), canary)

    def _kill_api(self) -> None:
        pid = self.server.api_processes()[0]
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        # Its connections live as long as its last thread, and then the supervisor buries it.
        eventually(lambda: not Path(f"/proc/{pid}").exists(), what=f"the end of {pid}")
        self.killed.append((began, time.monotonic()))

    def _restart(self) -> None:
        began = time.monotonic()
        assert self.server.terminate() == 0, self.server.log_path.read_text()
        self.begin()
        self.restarting.append((began, time.monotonic()))


def swap_under_load(settings: Settings, plan: Plan) -> Figures:
    """Serve, ask, act as `plan` says, then judge every answer offline."""
    bundles = [small_bundle(f"fraud-v{i}", seed=i) for i in range(1, MODELS + 1)]
    publish_history(settings)
    for bundle in bundles[:2]:
        promote(settings, bundle)
    orders = _orders()
    bodies = list(_bodies(orders))
    stop = threading.Event()
    with ExitStack() as stack:
        # Kept by somebody who stays, as systemd does: a restart refuses nobody.
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=128))
        operator = Operator(settings, bundles, plan.processes, listener, stack)
        operator.begin()
        port = listener.getsockname()[1]
        every = plan.clients / plan.requests_per_second
        clients = [Client(port, bodies, every, stop, seed) for seed in range(plan.clients)]
        began = time.monotonic()
        for client in clients:
            client.start()
        actions = plan.actions()
        for i, action in enumerate(actions):
            due = began + plan.seconds * (i + 1) / (len(actions) + 1)
            time.sleep(max(0.0, due - time.monotonic()))
            operator.do(action)
        time.sleep(max(0.0, began + plan.seconds - time.monotonic()))
        stop.set()
        for client in clients:
            client.join()
        seconds = time.monotonic() - began
        newest = {promotions(settings).require_current(FRAUD.name).sequence}
        eventually(
            lambda: operator.server.asked_anew("record_sequence") == newest,
            what=f"every process serves entry {newest}",
        )
    return _judged(operator, orders, clients, seconds)


def _orders() -> list[dict[str, Any]]:
    rng = np.random.default_rng(7)
    return [
        {
            "user_id": int(rng.integers(3 * USERS)),
            "event_id": int(rng.integers(8)),
            "amount": float(rng.integers(100, 500_000)) / 100,
            "occurred_at": "2026-02-16T12:00:00Z",
        }
        for _ in range(ORDERS)
    ]


def _bodies(orders: Sequence[dict[str, Any]]) -> Iterator[tuple[tuple[int, ...], bytes]]:
    rng = np.random.default_rng(8)
    for i in range(BODIES):
        chosen = tuple(int(k) for k in rng.integers(len(orders), size=BATCH if i % 2 else 1))
        yield chosen, json.dumps({"requests": [orders[k] for k in chosen]}).encode()


def _expected(
    settings: Settings, bundles: Sequence[ModelBundle], orders: Sequence[dict[str, Any]]
) -> dict[str, list[float]]:
    """What each version says of each order, computed here."""
    newest = current_snapshot_id(settings.online_path)
    assert newest is not None
    snapshot = OnlineSnapshot(settings.online_path / newest)
    rows = [order_row(msgspec.convert(order, Order), path="$", now_us=0) for order in orders]
    return {
        bundle.version: bundle.score(
            fetch_online_features(bundle.feature_names, rows, snapshot).values
        ).tolist()
        for bundle in bundles
    }


def _judged(
    operator: Operator,
    orders: Sequence[dict[str, Any]],
    clients: Sequence[Client],
    seconds: float,
) -> Figures:
    expected = _expected(operator.settings, operator.bundles, orders)
    log = promotions(operator.settings).history(FRAUD.name)
    entries = [_entry(record, orders) for record in log]
    answered = [a for client in clients for a in client.answered]
    failures = [f for client in clients for f in client.failures]
    made = [(k, p) for a in answered for k, p in zip(a.orders, a.predictions, strict=False)]
    traces = _traces(operator.settings, made, entries)
    killed = [f for f in failures if _overlaps(f, operator.killed)]
    restarting = [f for f in failures if f not in killed and _overlaps(f, operator.restarting)]
    lost = [f for f in failures if f not in killed and f not in restarting]
    for failure in lost:
        sys.stderr.write(f"{failure}, kills {operator.killed}, restarts {operator.restarting}\n")
    return Figures(
        seconds=round(seconds, 1),
        requests=len(answered),
        predictions=len(made),
        promotions=operator.done.count("promote"),
        rollbacks=operator.done.count("rollback"),
        challenges=operator.done.count("challenge"),
        api_kills=operator.done.count("kill api"),
        recorder_kills=operator.done.count("kill recorder"),
        restarts=operator.done.count("restart"),
        versions_seen=len({said.version for _, said in made}),
        wrong=sum(said.score != expected[said.version][k] for k, said in made),
        mixed=sum(
            not any(
                all(
                    entry[k] == (said.variant, said.version)
                    for k, said in zip(a.orders, a.predictions, strict=True)
                )
                for entry in entries
            )
            for a in answered
            if a.status == 200
        ),
        traces_wrong=traces.count("wrong"),
        untraced=traces.count("missing"),
        failed_in_killed_process=len(killed),
        failed_while_restarting=len(restarting),
        failed=len(lost) + sum(a.status != 200 for a in answered),
        restart_gap_seconds=round(sum(end - start for start, end in operator.restarting), 2),
    )


def _traces(
    settings: Settings,
    made: Sequence[tuple[int, Predicted]],
    entries: Sequence[Sequence[tuple[str, str]]],
) -> list[str]:
    """What the trace of each prediction is: `right`, `wrong` or `missing`."""
    store = open_traces(settings)
    found = []
    for k, said in made:
        traces = [trace for trace in store.find(said.request_id) if trace.served]
        right = [
            (t.model_version, t.variant, t.score) == said[:3]
            and entries[t.record_sequence - 1][k] == (t.variant, t.model_version)
            for t in traces
        ]
        found.append("missing" if not right else "right" if right == [True] else "wrong")
    return found


def _entry(record: PromotionRecord, orders: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Variant and version that `record` gives each order's user."""
    route = record.routing
    versions = {c.variant: c.model.model_version for c in record.challengers}
    versions[route.base] = record.model_version
    variants = [route.assign(order["user_id"]) for order in orders]
    return [(variant, versions[variant]) for variant in variants]


def _overlaps(failure: Failed, moments: Sequence[tuple[float, float]]) -> bool:
    return any(failure.sent <= end and start <= failure.ended for start, end in moments)


def main() -> None:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--requests-per-second", type=int, default=400)
    options = parser.parse_args()
    plan = Plan(
        options.seconds,
        promotions=20,
        rollbacks=5,
        challenges=5,
        requests_per_second=options.requests_per_second,
    )
    with tempfile.TemporaryDirectory() as folder:
        figures = swap_under_load(Settings(home=Path(folder) / "home"), plan)
    sys.stdout.write(json.dumps(dataclasses.asdict(figures), indent=2) + "\n")
    sys.exit(1 if figures.wrong + figures.mixed + figures.traces_wrong + figures.failed else 0)


if __name__ == "__main__":
    main()
