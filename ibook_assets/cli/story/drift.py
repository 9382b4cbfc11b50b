"""The story of drift: what the platform does about it by itself, and about a harmful model.

Nothing here decides or retrains: the acts make days, monitor them and start one rollout, and then
wait for what Dagster's sensors make of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from typing import Any, Final, TypeVar

import dagster as dg
import pyarrow as pa

from ibook_assets.cli.console import console
from ibook_assets.cli.local_servers import (
    dagster,
    prepare_history,
    scoring,
    show_links,
    wait_for_interrupt,
)
from ibook_assets.cli.materialise import keys_of, materialise
from ibook_assets.cli.story.stage import (
    CALM_DAYS,
    DRIFT_FROM,
    HISTORY_DAYS,
    LAST_DAY,
    START,
    TRAFFIC_DAYS,
    Worker,
    alone,
    day,
    prepare,
    worker,
)
from ibook_assets.cli.story.traffic import Scored, Traffic, orders_of
from ibook_assets.core.errors import IbookError
from ibook_assets.core.monitoring.signals import SIGNALS
from ibook_assets.core.rollout_log import ENDS, RolloutState
from ibook_assets.core.rollout_plan import plan_of
from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import EXPERIMENT_OUTCOMES, FEATURE_LOG, PREDICTIONS, TRANSACTIONS
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.defs.monitoring import MONITORING_JOB
from ibook_assets.defs.partitions import FACTS, FEATURES, RAW
from ibook_assets.defs.retraining import EPISODE, SIGNALLED, TRAINING_JOB
from ibook_assets.defs.sources import source_of
from ibook_assets.models.bundle import MODEL_FILE, ModelBundle
from ibook_assets.stores.blobs import open_blobs
from ibook_assets.stores.drift_days import drift_records
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.promotions import PromotionLog
from ibook_assets.stores.rollouts import Rollouts
from ibook_assets.stores.signal_records import signal_records
from ibook_assets.training.candidates import (
    candidate_files,
    find_candidate,
    load_candidate,
    new_candidate,
    store_candidate,
)

PUBLICATION_JOB: Final = "publication"
RETRAINING_SENSOR: Final = f"{FRAUD.name}_retraining"
ACTOR: Final = "ibook story"

HARM: Final = 0.01
"""What the harmful model's threshold is multiplied by: somebody took a share for percent."""

LONGEST_SECONDS: Final = 240.0
"""How long something is waited for that sensors do."""
_POLL_SECONDS: Final = 0.5

_REASON_SHOWN: Final = 160
_NAME_KEPT: Final = 48

_NOT_HISTORY: Final = {
    dg.AssetKey([RAW, spec.name]) for spec in (PREDICTIONS, EXPERIMENT_OUTCOMES, FEATURE_LOG)
}
"""Raw tables of what is served, and not of the world."""

_LOST: Final = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)

T = TypeVar("T")


class StoryError(IbookError):
    """Something of the story did not come true."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that came true."""

    at_seconds: float
    """Since the story began."""
    act: str
    told: str


@dataclass
class Book:
    """What has come true, told as it happens."""

    quiet: bool
    events: list[Event] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    act: str = ""

    def begin(self, act: str) -> None:
        """Open an act."""
        self.act = act
        if not self.quiet:
            console.print(f"\n[bold]{act}[/]", highlight=False)

    def tell(self, told: str) -> None:
        """Note that something came true."""
        event = Event(round(time.monotonic() - self.began, 1), self.act, told)
        self.events.append(event)
        if not self.quiet:
            console.print(f"[dim]{event.at_seconds:6.1f} s[/]  {told}", highlight=False)


def play(
    settings: Settings, *, level: float, rps: float, stay: bool, quiet: bool
) -> dict[str, Any]:
    """Play the story of drift; what came true, as plain JSON values.

    Args:
        settings: where state lives; the story's is a folder of its own there.
        level: how far the world drifts.
        rps: orders scored a second from the first promotion on.
        stay: keep Dagster and the server until Ctrl-C.
        quiet: print nothing.

    Raises:
        StoryError: something did not come true, or a request failed.
        ConflictError: another story plays in the same home.
        ContractError: the working directory is not the project's root.
    """
    book = Book(quiet)
    with ExitStack() as stack:
        stack.enter_context(alone(settings.home.resolve()))
        chosen = prepare(settings, level=level)
        prepare_history()
        logs = chosen.home / "logs"
        warm = stack.enter_context(worker(logs / "worker.log"))
        graph = stack.enter_context(dagster(logs))
        api = stack.enter_context(scoring(chosen, logs))
        instance = stack.enter_context(dg.DagsterInstance.get())
        story = DriftStory(chosen, book, warm, instance, level=level)
        later = story.before(stack.enter_context(ThreadPoolExecutor(1)))
        api.wait()
        traffic = Traffic(api.url, story.orders(day(HISTORY_DAYS), CALM_DAYS), rps=rps)
        with traffic.going():
            book.tell(f"{api.url} answers {rps:g} orders a second from now on")
            story.calm()
            later.result()
            story.drift(traffic)
            story.rollout()
            story.harm()
        scored = traffic.scored()
        story.end(scored)
        if stay:
            show_links({"Dagster": graph.url, "API": f"{api.url}/docs"})
            wait_for_interrupt()
    return {
        "level": level,
        "events": [asdict(event) for event in book.events],
        "scored": asdict(scored),
        "promotions": [record.model_dump(mode="json") for record in story.log.history(FRAUD.name)],
        "rollouts": [e.model_dump(mode="json") for e in story.rollouts.history(FRAUD.name)],
    }


class DriftStory:
    """The acts, in their order."""

    def __init__(
        self,
        settings: Settings,
        book: Book,
        warm: Worker,
        instance: dg.DagsterInstance,
        *,
        level: float,
    ) -> None:
        self._settings = settings
        self._book = book
        self._warm = warm
        self._level = level
        self._lake = Lake(open_blobs(settings.lake))
        self._source = source_of(settings)
        self._instance = instance
        self.log = PromotionLog(self._lake.blobs)
        self.rollouts = Rollouts(self._lake.blobs)

    def orders(self, first: date, days: int) -> pa.Table:
        """Orders of `days` days that the platform has not seen when they are scored."""
        asked = [first + timedelta(days=n) for n in range(days)]
        return orders_of([self._source.delivery(TRANSACTIONS, day).rows for day in asked])

    def before(self, beside: Executor) -> Future[None]:
        """Days without drift and a first champion; then, beside what follows, days that drift."""
        self._book.begin("1  The world before")
        last = day(HISTORY_DAYS - 1)
        self._days(START, last, shown=not self._book.quiet)
        self._book.tell(f"{HISTORY_DAYS} days until {last}: orders, facts, features")
        self._warm.run(PUBLICATION_JOB)
        trained = self._warm.run(TRAINING_JOB)
        # The champion must know no day of those that come now: its rows are read before.
        until("the training set", lambda: trained.done() or self._has_training_set())
        later = beside.submit(self._days, day(HISTORY_DAYS), LAST_DAY, shown=False)
        trained.result()
        champion = self.log.require_current(FRAUD.name)
        self._book.tell(f"{champion.model_version} passed the gate and is the first champion")
        return later

    def calm(self) -> None:
        """Monitor days that have not drifted: nothing fires."""
        self._book.begin("2  Nothing has drifted: nothing fires")
        days = [day(HISTORY_DAYS - CALM_DAYS + n) for n in range(CALM_DAYS)]
        self._monitor(days)
        reason = until("the retraining sensor", self._skipped_since(time.time()))
        runs = self._asked_runs()
        if runs:
            msg = f"the sensor asked for run {runs[0].run_id} although nothing had drifted"
            raise StoryError(msg)
        self._book.tell(f"the sensor {RETRAINING_SENSOR} asks for nothing: {reason}")

    def drift(self, traffic: Traffic) -> None:
        """Monitor days that have drifted: the sensor has a model trained."""
        self._book.begin(f"3  The world drifts, level {self._level:g}: a model is trained")
        self._book.tell(f"days until {LAST_DAY} are there; they drift from {DRIFT_FROM} on")
        self._warm.run(PUBLICATION_JOB).result()
        traffic.turn_to(self.orders(LAST_DAY + timedelta(days=1), TRAFFIC_DAYS))
        self._monitor([LAST_DAY - timedelta(days=1), LAST_DAY])
        run = until("a training run", lambda: next(iter(self._asked_runs()), None))
        signals = run.tags.get(SIGNALLED, "").replace(",", ", ")
        self._book.tell(f"the sensor asks for training run {run.run_id[:8]}: {signals}")
        until("the training run's end", lambda: self._succeeded(run.run_id))
        found = find_candidate(self._lake.blobs, FRAUD.name)
        self._book.tell(f"{found.version} is trained on days that the champion has not seen")

    def rollout(self) -> None:
        """The new model becomes the champion, step by step, without anybody."""
        self._book.begin("4  Shadow, canary, champion")
        version = find_candidate(self._lake.blobs, FRAUD.name).version
        self._follow(version, wanted="champion")

    def harm(self) -> None:
        """A harmful model is put before users: it is found out and taken back."""
        self._book.begin("5  A harmful model is forced into canary: it is rolled back")
        champion = self.log.require_current(FRAUD.name).model_version
        harmful = self._store_harmful(champion)
        plan = plan_of(self._settings).model_copy(update={"shadow_seconds": 0.0})
        reason = "urgent, no time for a shadow"
        self.rollouts.start(FRAUD.name, harmful, plan, actor=ACTOR, reason=reason)
        self._follow(harmful, wanted="rolled_back")
        head = self.log.require_current(FRAUD.name)
        if head.model_version != champion or head.challengers:
            msg = f"{champion} should serve alone, entry {head.sequence} says otherwise"
            raise StoryError(msg)
        self._book.tell(f"{champion} serves alone again")

    def end(self, scored: Scored) -> None:
        """Check what holds for all acts together."""
        self._book.begin("6  What holds for all of it")
        if scored.failed:
            msg = f"{sum(scored.failed.values())} scoring requests failed: {scored.failed}"
            raise StoryError(msg)
        runs = self._asked_runs()
        if len(runs) != 1:
            msg = f"one drift, but training runs {[run.run_id for run in runs]}"
            raise StoryError(msg)
        entries, decisions = (len(log.history(FRAUD.name)) for log in (self.log, self.rollouts))
        self._book.tell(
            f"{scored.requests:,} scoring requests, none failed "
            f"(p50 {scored.p50_ms:.1f} ms, p99 {scored.p99_ms:.1f} ms)"
        )
        self._book.tell(
            f"one training run; {entries} promotion entries, {decisions} decisions, chains whole"
        )

    def _days(self, first: date, last: date, *, shown: bool) -> None:
        keys = [key for key in keys_of(RAW, FACTS, FEATURES) if key not in _NOT_HISTORY]
        log = self._settings.home / "logs" / f"days-from-{first}.log"
        materialise(keys, log=log, days=(first.isoformat(), last.isoformat()), shown=shown)

    def _has_training_set(self) -> bool:
        key = dg.AssetKey([FRAUD.name, "training_set"])
        return self._instance.get_latest_materialization_event(key) is not None

    def _monitor(self, days: Sequence[date]) -> None:
        """Make every signal of `days`, and say what they say of the last."""
        self._warm.run(MONITORING_JOB, *days).result()
        last = days[-1].isoformat()
        (found,) = drift_records(self._lake.blobs, FRAUD.name, until=last, days=1)
        decision = found.decision
        others = [
            record.signal.name
            for name in SIGNALS
            for record in signal_records(self._lake.blobs, name, FRAUD.name, until=last, days=1)
            if record.confirmed
        ]
        self._book.tell(
            f"{days[0]} to {last}: features {decision.state}, {decision.statistic:.1f} standard "
            f"deviations (threshold {decision.threshold:.1f}); "
            f"share of drifted columns {decision.score:.2f} (fires at {decision.score_threshold:g})"
            + (f"; confirmed, too: {', '.join(others)}" if others else "")
        )

    def _asked_runs(self) -> list[dg.DagsterRun]:
        runs = self._instance.get_runs(dg.RunsFilter(job_name=TRAINING_JOB))
        return [run for run in runs if EPISODE in run.tags]

    def _skipped_since(self, since: float) -> Callable[[], str | None]:
        """Tells why the retraining sensor asked for nothing, once it has looked since then."""

        def skipped() -> str | None:
            for state in self._instance.all_instigator_state():
                if state.name != RETRAINING_SENSOR:
                    continue
                ticks = self._instance.get_ticks(
                    state.instigator_origin_id, state.selector_id, after=since, limit=1
                )
                if ticks and ticks[0].skip_reason:
                    return ticks[0].skip_reason
            return None

        return skipped

    def _succeeded(self, run_id: str) -> bool:
        run = self._instance.get_run_by_id(run_id)
        if run is not None and run.status in _LOST:
            msg = f"training run {run_id} ended as {run.status.value}; look at it in Dagster"
            raise StoryError(msg)
        return run is not None and run.status is dg.DagsterRunStatus.SUCCESS

    def _follow(self, version: str, *, wanted: RolloutState) -> None:
        """Tell each decision about `version` as it comes, until one is its end."""
        told = 0

        def ended() -> bool:
            nonlocal told
            entries = [e for e in self.rollouts.history(FRAUD.name) if e.version == version]
            for entry in entries[told:]:
                reason = entry.reason.partition("; evidence")[0]
                self._book.tell(f"{version} is {entry.title}: {reason[:_REASON_SHOWN]}")
            told = len(entries)
            states = [entry.state for entry in entries]
            if {*ENDS, "champion"} & set(states) - {wanted}:
                msg = f"{version} should have become {wanted}, it is {states[-1]}"
                raise StoryError(msg)
            standing = self.rollouts.standing(FRAUD.name)
            return wanted in states and standing is not None and not standing.pending

        until(f"{version} as {wanted}", ended)

    def _store_harmful(self, version: str) -> str:
        """Store the champion with a threshold that was taken for percent; its version."""
        blobs = self._lake.blobs
        found = find_candidate(blobs, FRAUD.name, version)
        files = candidate_files(blobs, found)
        info = load_candidate(blobs, found).info
        threshold = HARM * info.threshold
        wrong = {"version": f"{version[:_NAME_KEPT]}-percent", "threshold": threshold}
        harmful = ModelBundle(info.model_copy(update=wrong), files[MODEL_FILE])
        made = new_candidate(harmful, git_sha=found.git_sha, mlflow_run_id=None)
        store_candidate(blobs, harmful, made)
        self._book.tell(
            f"{made.version} is {version} with its threshold at {threshold:.4f} instead of "
            f"{info.threshold:.4f}: the gate, which judges scores, lets it in"
        )
        return made.version


def until(what: str, look: Callable[[], T | None]) -> T:
    """What `look` gives once it is neither None nor False.

    Raises:
        StoryError: it did not come in time.
    """
    end = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < end:
        found = look()
        if found is not None and found is not False:
            return found
        time.sleep(_POLL_SECONDS)
    msg = f"{what} did not come within {LONGEST_SECONDS:g} s; look at Dagster's runs and sensors"
    raise StoryError(msg)
