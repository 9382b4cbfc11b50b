"""One look at a rollout: carry out what was decided, judge, decide what comes next.

A look may end anywhere, by a crash or `kill -9`: the next one goes on from the logs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ibook_assets.core.analysis.comparing import canary_findings, shadow_findings
from ibook_assets.core.analysis.findings import Analysis, Finding
from ibook_assets.core.errors import ConflictError, GateClosedError, StoreUnavailableError
from ibook_assets.core.promotion import PromotedModel
from ibook_assets.core.rollout_log import RolloutEntry, RolloutState, Standing, following
from ibook_assets.core.rollout_plan import RolloutPlan
from ibook_assets.core.settings import Settings
from ibook_assets.core.times import SECOND_US, to_us
from ibook_assets.core.use_cases import UseCase
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.promotions import PromotionLog, utc_now
from ibook_assets.stores.rollout_checkpoints import Watched
from ibook_assets.stores.rollout_data import (
    SHADOW,
    first_orders,
    keep_look,
    look,
    looks_of,
    paired_orders,
    requests_between,
)
from ibook_assets.stores.rollouts import Rollouts
from ibook_assets.training.candidates import Candidate, find_candidate
from ibook_assets.training.promote import gated_model

REASON_CHARACTERS: Final = 1_900


@dataclass(frozen=True, slots=True)
class Entered:
    """What came of a trained model's request to be rolled out."""

    entry: RolloutEntry | None
    """The candidate's entry; None when no rollout begins."""
    note: str
    """What was done, or why nothing was."""


def enter_rollout(
    lake: Lake,
    found: Candidate,
    plan: RolloutPlan,
    *,
    actor: str,
    reason: str,
    precommit: Callable[[], None],
) -> Entered:
    """Begin the rollout of a model that was just trained; safe to repeat, by a retry too.

    A model that finds no place stays a candidate that anybody may roll out later: the training was
    no failure. None is rolled out twice by itself, whatever became of it.

    Raises:
        NoPromotedModelError: there is no champion; the first model is promoted instead.
    """
    name, version = found.use_case, found.version
    rollouts = Rollouts(lake.blobs)
    past = next((e for e in reversed(rollouts.history(name)) if e.version == version), None)
    if past is not None:
        return Entered(None, f"{version} was rolled out before and is {past.title}")
    precommit()
    try:
        entry = rollouts.start(name, version, plan, actor=actor, reason=reason)
    except ConflictError as error:
        note = f"{version} stays a candidate: {error}. `ibook rollout start {name}` tries again"
        return Entered(None, note)
    return Entered(entry, f"the rollout of {version} begins")


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look at a rollout found."""

    standing: Standing | None
    """What the rollout is now; None when nothing was ever rolled out."""
    note: str
    """What was done, or is waited for."""
    moved: bool = False
    """Whether something was decided."""
    analysis: Analysis | None = None


def analysis_of(lake: Lake, settings: Settings, standing: Standing, *, now: datetime) -> Analysis:
    """What is known by `now` of a shadow or canary whose rollout has been carried out."""
    entry, effect = standing.entry, standing.effect
    assert effect is not None
    plan, now_us = entry.plan, to_us(now)
    window_us = int(plan.window_seconds * SECOND_US)
    until_us = (now_us - int(plan.settle_seconds * SECOND_US)) // window_us * window_us
    watched = Watched(
        use_case=entry.use_case,
        decided=entry.decided,
        shadow=entry.state == "shadow",
        champion=entry.champion,
        version=entry.version,
        sequence=effect.sequence,
        since=effect.promoted_at,
    )
    looks = looks_of(lake.blobs, entry.use_case, entry.decided)
    found: tuple[Finding, ...]
    if watched.shadow:
        pairs = paired_orders(lake.blobs, watched, until_us=until_us)
        batches = requests_between(looks, challenger=SHADOW)
        found = shadow_findings(pairs, batches, plan.objectives, window_us=window_us)
    else:
        maturity = settings.label_maturity_days
        users = first_orders(
            lake.blobs, watched, until_us=until_us, maturity_days=maturity, now_us=now_us
        )
        requests = requests_between(looks)
        found = canary_findings(users, requests, plan.objectives, window_us=window_us)
    return Analysis(
        stage=entry.title,
        version=entry.version,
        champion_version=entry.champion,
        since_us=to_us(effect.promoted_at),
        until_us=until_us,
        false_alarm_rate=plan.false_alarm_rate,
        findings=found,
    )


def seconds_left(standing: Standing, *, now: datetime) -> float:
    """How long a shadow or canary must be watched yet; 0 or less when it was long enough."""
    entry, effect = standing.entry, standing.effect
    assert effect is not None
    return entry.watch_seconds - (now - max(entry.since, effect.promoted_at)).total_seconds()


class Watcher:
    """Moves the rollout of one use case on."""

    def __init__(
        self,
        lake: Lake,
        use_case: UseCase,
        settings: Settings,
        *,
        actor: str,
        precommit: Callable[[], None] | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """Make a watcher.

        Args:
            lake: where the logs, the models and the predictions live.
            use_case: whose rollout.
            settings: where the server tells its metrics, and when labels are mature.
            actor: who decides.
            precommit: called before each decision; what it raises prevents it.
            clock: tells the time.
        """
        self._lake = lake
        self._use_case = use_case
        self._settings = settings
        self._actor = actor
        self._precommit = precommit
        self._clock = clock
        self._rollouts = Rollouts(lake.blobs, clock=clock)

    def look(self) -> Looked:
        """Look once; what is decided is carried out before it returns.

        A candidate that the gate lets in is placed in the same look: nothing is waited for.

        Raises:
            ConflictError: somebody else decided, or writes the promotion log, at the same time.
            IntegrityError: the model is not what training stored.
        """
        standing = self._rollouts.carry_out(self._use_case.name)
        if standing is None or not standing.active:
            return Looked(standing, "no rollout is on its way")
        entry = standing.entry
        if entry.state not in ("candidate", "gated"):
            return self._watch(standing)
        if entry.paused:
            return Looked(standing, "paused")
        if entry.state == "candidate":
            judged = self._judge(entry)
            if judged.standing is None or judged.standing.state != "gated":
                return judged
            entry = judged.standing.entry
            if entry.paused:
                return judged
        return self._decide(entry, following(entry)[0][0], "the gate opened")

    def _judge(self, entry: RolloutEntry) -> Looked:
        """Gate the candidate, unless it was gated when it got a place beside the champion."""
        head = PromotionLog(self._lake.blobs).require_current(entry.use_case)
        challenger = head.challenger(entry.version)
        if challenger is not None:
            return self._decide(
                entry, "gated", f"it passed the gate as {challenger.variant}", challenger.model
            )
        found = find_candidate(self._lake.blobs, entry.use_case, entry.version)
        try:
            model = gated_model(self._lake, self._use_case, found)
        except GateClosedError as error:
            return self._decide(entry, "rejected", str(error))
        return self._decide(entry, "gated", "every rule of the gate holds", model)

    def _watch(self, standing: Standing) -> Looked:
        entry = standing.entry
        now = self._clock()
        unseen = self._ask_server(entry, to_us(now))
        analysis = analysis_of(self._lake, self._settings, standing, now=now)
        forward, end = (state for state, _ in following(entry))
        if analysis.verdict == "failed":
            return self._decide(entry, end, f"{entry.title} {analysis}", analysis=analysis)
        if entry.paused:
            return Looked(standing, f"paused; {analysis}", analysis=analysis)
        left = seconds_left(standing, now=now)
        # A shadow answers nobody: what it takes is judged where the server tells it.
        if unseen is not None and entry.state == "canary":
            return Looked(standing, f"inconclusive: {unseen}", analysis=analysis)
        if left > 0 or analysis.verdict == "inconclusive":
            more = f"; {left:.0f} s more to watch" if left > 0 else ""
            return Looked(standing, f"{analysis}{more}", analysis=analysis)
        return self._decide(entry, forward, f"{entry.title} {analysis}", analysis=analysis)

    def _ask_server(self, entry: RolloutEntry, now_us: int) -> str | None:
        try:
            found = look(self._settings.metrics_url, at_us=now_us)
        except StoreUnavailableError as error:
            return str(error)
        keep_look(self._lake.blobs, entry.use_case, entry.decided, found)
        return None

    def _decide(
        self,
        entry: RolloutEntry,
        state: RolloutState,
        reason: str,
        model: PromotedModel | None = None,
        *,
        analysis: Analysis | None = None,
    ) -> Looked:
        evidence = None
        if analysis is not None:
            evidence = self._rollouts.keep_evidence(entry.use_case, analysis.as_dict())
            reason = f"{reason}; evidence {evidence}"
        if self._precommit is not None:
            self._precommit()
        decided = self._rollouts.decide(
            entry,
            state,
            actor=self._actor,
            reason=reason[:REASON_CHARACTERS],
            model=model,
            evidence=evidence,
        )
        standing = self._rollouts.carry_out(entry.use_case)
        return Looked(standing, f"{decided.title}: {reason}", moved=True, analysis=analysis)
