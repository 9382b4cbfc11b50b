"""Rows 5 to 7 for the whole loop: drift to champion and back, with kill -9 at every transition.

`python -m tests.reliability.looping` plays it once on a small drifting world with Dagster's own
daemon, runs in processes of their own and a scoring server under load, and prints the figures as
JSON. Runs kill themselves before and after each thing they write; the daemon, and a process of the
server, are killed when a transition is seen.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import dagster as dg

from ibook_assets.core.promotion import PromotionRecord
from ibook_assets.core.rollout_log import ENDS, RolloutEntry
from ibook_assets.core.rollout_plan import plan_of
from ibook_assets.core.settings import Settings
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.defs.monitoring import drift_key
from ibook_assets.defs.retraining import EPISODE, TRAINING_JOB
from ibook_assets.defs.rollout import ROLLOUT
from ibook_assets.models.bundle import ModelBundle
from ibook_assets.stores.blobs import open_blobs
from ibook_assets.stores.promotions import PromotionLog
from ibook_assets.stores.registry import CHAMPION, ModelRegistry
from ibook_assets.stores.rollouts import Rollouts
from ibook_assets.training.candidates import (
    find_candidate,
    load_candidate,
    new_candidate,
    store_candidate,
)
from tests.reliability.asking import Client, Failed
from tests.reliability.looping_parts import (
    INSTANCE,
    JOB_FILE,
    Daemon,
    asking,
    command,
    environment,
    settings_of,
)
from tests.reliability.looping_world import DRIFT_JOB, DRIFTED_DAYS, HISTORY_DAYS, POINTS, day
from tests.serving.harness import RunningServer, eventually, running
from tests.serving.history import publish_history

STUCK_SECONDS: Final = 900.0
ORDERS: Final = 20_000
FIRST_USER: Final = 100_000

WAY: Final = ("candidate", "gated", "shadow", "canary", "champion")
WAY_BACK: Final = ("candidate", "gated", "canary", "rolled_back")


@dataclass(frozen=True, slots=True)
class Figures:
    """What happened; from `decided_twice` on all must be zero, `loop_closed` true."""

    seconds: float
    points: int
    """Points at which a run was to be killed."""
    run_kills: dict[str, int]
    """By transition: how many runs killed themselves at it."""
    daemon_kills: list[str]
    """Transitions at which the daemon was killed."""
    server_kills: list[str]
    """Transitions at which an API process was killed."""
    training_runs: int
    """Runs of the training job, those that were killed among them."""
    looks: int
    """Runs of the rollout job."""
    requests: int
    failed_in_killed_process: int
    loop_closed: bool
    """Whether the retrained model became the champion and the harmful one was taken back."""
    mirrored: bool
    """Whether MLflow's alias names the champion, and it has its card."""
    episodes: int
    trained: int
    """Training runs that succeeded; one an episode."""
    decided_twice: int
    carried_out_twice: int
    foreign: int
    """Answers that no entry of the log gives that user."""
    failed: int
    """Requests that failed otherwise, or were not answered with 200."""

    @property
    def sound(self) -> bool:
        """Whether everything held."""
        wrong = self.decided_twice + self.carried_out_twice + self.foreign + self.failed
        if sum(self.run_kills.values()) != self.points:
            return False
        if self.points and not (self.daemon_kills and self.server_kills):
            return False
        return self.loop_closed and self.mirrored and wrong == 0 and self.trained == self.episodes


class Loop:
    """The platform while it is killed, and what it has come to."""

    def __init__(
        self, settings: Settings, daemon: Daemon, server: RunningServer, rng: random.Random
    ) -> None:
        self._settings = settings
        self._daemon = daemon
        self._server = server
        self._rng = rng
        self._blobs = open_blobs(settings.lake)
        self.promotions = PromotionLog(self._blobs)
        self.rollouts = Rollouts(self._blobs)
        self.instance = dg.DagsterInstance.from_config(str(settings.home / "dagster"))
        self.daemon_kills: list[str] = []
        self.server_kills: list[str] = []
        self.killed: list[tuple[float, float]] = []
        self._seen: set[str] = set()

    def transitions(self) -> Iterator[str]:
        """What has happened by now, oldest first."""
        runs = self.instance.get_runs(dg.RunsFilter(job_name=TRAINING_JOB))
        if any(EPISODE in run.tags for run in runs):
            yield "run requested"
        if any(run.status is dg.DagsterRunStatus.STARTED for run in runs):
            yield "run started"
        for entry in self.rollouts.history(FRAUD.name):
            yield f"{entry.sequence} {entry.state}"

    def play(self, *, until: Callable[[], bool], kills: bool) -> None:
        """Wait, and kill daemon and server at each new transition."""
        deadline = time.monotonic() + STUCK_SECONDS
        while not until():
            assert time.monotonic() < deadline, f"stuck after {sorted(self._seen)}"
            for transition in self.transitions():
                if transition in self._seen:
                    continue
                self._seen.add(transition)
                sys.stderr.write(f"{time.strftime('%H:%M:%S')} {transition}\n")
                if kills:
                    self._kill(transition)
            time.sleep(0.1)

    def _kill(self, transition: str) -> None:
        time.sleep(self._rng.random() * 0.5)
        if len(self.daemon_kills) <= len(self.server_kills):
            self._daemon.kill()
            self._daemon.start()
            self.daemon_kills.append(transition)
            return
        pid = self._server.api_processes()[0]
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not Path(f"/proc/{pid}").exists(), what=f"the end of {pid}")
        self.killed.append((began, time.monotonic()))
        self.server_kills.append(transition)

    def ended(self, count: int) -> bool:
        """Whether the newest rollout, of `count` entries in all, is carried out to its end."""
        standing = self.rollouts.standing(FRAUD.name)
        if standing is None or standing.entry.sequence < count or standing.pending:
            return False
        return standing.state == "champion" or standing.state in ENDS

    def mirrored(self) -> bool:
        """Whether MLflow names the champion, and its card is there."""
        champion = self.promotions.require_current(FRAUD.name).model_version
        registry = ModelRegistry(self._settings.tracking_uri, FRAUD.name)
        named = registry.version_of(FRAUD.name, CHAMPION)
        carded = self._blobs.exists(f"cards/{FRAUD.name}/{champion}.md")
        return carded and named == registry.registered(FRAUD.name, champion)

    def monitored(self, last: str) -> bool:
        """Whether Dagster knows what that day's features say."""
        found = self.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=drift_key(FRAUD), asset_partitions=[last]), limit=1
        )
        return bool(found.records)

    def harm(self) -> None:
        """Roll out a model that holds far too many orders for review."""
        found = find_candidate(self._blobs, FRAUD.name)
        bundle = load_candidate(self._blobs, found)
        calibration = bundle.info.calibration
        shifted = calibration.model_copy(update={"c": calibration.c + 6.0})
        told = {"version": "fraud-harmful", "calibration": shifted}
        harmful = ModelBundle(bundle.info.model_copy(update=told), bundle.files()["model.ubj"])
        candidate = new_candidate(harmful, git_sha="0" * 40, mlflow_run_id=None)
        store_candidate(self._blobs, harmful, candidate)
        plan = plan_of(self._settings).model_copy(update={"shadow_seconds": 0.0})
        who = {"actor": "ana@ibook.test", "reason": "urgent"}
        self.rollouts.start(FRAUD.name, harmful.version, plan, **who)

    @cached_property
    def orders(self) -> list[int]:
        """Users of the orders that clients ask about."""
        return [FIRST_USER + i for i in range(ORDERS)]


def prepare(settings: Settings) -> None:
    """Make the world in a process of its own: days, a champion, days that have drifted."""
    (settings.home / "dagster").mkdir(parents=True)
    (settings.home / "dagster" / "dagster.yaml").write_text(INSTANCE)
    with (settings.home / "prepare.log").open("ab") as log:
        subprocess.run(
            [sys.executable, "-m", "tests.reliability.looping_world"],
            env=environment(settings, ()),
            check=True,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    publish_history(settings)


def close_the_loop(settings: Settings, crashes: Sequence[str], *, seed: int = 0) -> Figures:
    """Drift, retraining, rollout, and a harmful model taken back, while everything is killed."""
    began = time.monotonic()
    variables = environment(settings, crashes)
    with ExitStack() as stack:
        daemon = Daemon(variables, settings.home / "daemon.log")
        server = stack.enter_context(
            running(settings, processes=2, environment=variables, port=settings.port)
        )
        stack.callback(daemon.stop)
        daemon.start()
        loop = Loop(settings, daemon, server, random.Random(seed))
        clients = stack.enter_context(asking(settings.port, loop.orders))
        _monitor(loop, variables)
        kills = bool(crashes)
        loop.play(until=lambda: loop.ended(len(WAY)) and loop.mirrored(), kills=kills)
        loop.harm()
        loop.play(until=lambda: loop.ended(len(WAY + WAY_BACK)), kills=kills)
        time.sleep(3)
    seconds = time.monotonic() - began
    return _judged(loop, clients, settings, points=len(crashes), seconds=seconds)


def _monitor(loop: Loop, variables: Mapping[str, str]) -> None:
    """Have the last two days monitored, the way they come: drift is confirmed by the second."""
    for number in (2, 1):
        last = day(HISTORY_DAYS + DRIFTED_DAYS - number).isoformat()
        tags = json.dumps({"dagster/partition": last})
        job = ("-f", str(JOB_FILE), "-j", DRIFT_JOB)
        subprocess.run(
            command("dagster", "job", "launch", *job, "--tags", tags),
            env=variables,
            check=True,
            capture_output=True,
        )
        loop.play(until=partial(loop.monitored, last), kills=False)


def _judged(
    loop: Loop, clients: Sequence[Client], settings: Settings, *, points: int, seconds: float
) -> Figures:
    log = loop.promotions.history(FRAUD.name)
    entries = loop.rollouts.history(FRAUD.name)
    answered = [a for client in clients for a in client.answered]
    failures = [f for client in clients for f in client.failures]
    killed = [f for f in failures if _overlaps(f, loop.killed)]
    for failure in failures:
        if failure not in killed:
            sys.stderr.write(f"{failure}, kills {loop.killed}\n")
    runs = loop.instance.get_runs(dg.RunsFilter(job_name=TRAINING_JOB))
    asked = [run for run in runs if EPISODE in run.tags]
    folder = settings.home / "crashed"
    crashed = [path.name for path in folder.iterdir()] if folder.exists() else []
    return Figures(
        seconds=round(seconds, 1),
        points=points,
        run_kills=dict(Counter(name.partition("_")[2].replace("_", " ") for name in crashed)),
        daemon_kills=loop.daemon_kills,
        server_kills=loop.server_kills,
        training_runs=len(asked),
        looks=len(loop.instance.get_runs(dg.RunsFilter(job_name=ROLLOUT))),
        requests=len(answered),
        failed_in_killed_process=len(killed),
        loop_closed=_closed(entries, log),
        mirrored=loop.mirrored(),
        episodes=len({run.tags[EPISODE] for run in asked}),
        trained=sum(run.status is dg.DagsterRunStatus.SUCCESS for run in asked),
        decided_twice=len(entries) - len({(e.version, e.state, e.step) for e in entries}),
        carried_out_twice=len(log) - len({record.actor for record in log}),
        foreign=_foreign(log, answered, loop.orders),
        failed=len(failures) - len(killed) + sum(a.status != 200 for a in answered),
    )


def _closed(entries: Sequence[RolloutEntry], log: Sequence[PromotionRecord]) -> bool:
    states = tuple(entry.state for entry in entries)
    head = log[-1]
    return (
        states == WAY + WAY_BACK
        and (head.model_version, head.challengers) == (entries[0].version, ())
        and [r.action for r in log]
        == ["promote", "challenge", "challenge", "promote"] + ["challenge"] * 2
    )


def _foreign(log: Sequence[PromotionRecord], answered: Sequence[Any], users: Sequence[int]) -> int:
    told = [
        (
            record.routing,
            {c.variant: c.model.model_version for c in record.challengers}
            | {record.routing.base: record.model_version},
        )
        for record in log
    ]
    return sum(
        not any(
            route.assign(users[k]) == said.variant and versions[said.variant] == said.version
            for route, versions in told
        )
        for answer in answered
        for k, said in zip(answer.orders, answer.predictions, strict=False)
    )


def _overlaps(failure: Failed, moments: Sequence[tuple[float, float]]) -> bool:
    return any(failure.sent <= end and start <= failure.ended for start, end in moments)


def main() -> None:
    """Play it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-kills", action="store_true", help="Only the loop.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(Path(folder) / "home")
        prepare(settings)
        figures = close_the_loop(settings, () if options.no_kills else POINTS, seed=options.seed)
    sys.stdout.write(json.dumps(dataclasses.asdict(figures), indent=2) + "\n")
    sys.exit(0 if figures.sound else 1)


if __name__ == "__main__":
    main()
