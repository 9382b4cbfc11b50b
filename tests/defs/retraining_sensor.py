"""The retraining sensor of a platform, ticked by hand, and all that it hears of."""

import time
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from ibook_assets.core.monitoring.signals import SignalName
from ibook_assets.core.rollout_log import RolloutEntry, RolloutState
from ibook_assets.core.rollout_plan import plan_of
from ibook_assets.core.settings import Settings
from ibook_assets.definitions import build_defs
from ibook_assets.defs.resources import LakeResource
from ibook_assets.defs.retraining import TRAINING_JOB, retraining_sensors
from ibook_assets.defs.runs import actor_of
from ibook_assets.stores.rollouts import Rollouts
from tests.defs.drift_records import report_drift, report_signal
from tests.promotion_drafts import a_draft, stored_artefact


class Sensor:
    """The retraining sensor of a platform, ticked by hand, with a clock of its own."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance) -> None:
        self.settings = settings
        self.defs = build_defs(settings)
        self.instance = instance
        self.cursor: str | None = None
        self.ahead = 0.0
        self.lake = LakeResource(uri=settings.lake)
        self.rollouts = Rollouts(
            self.lake.blobs, clock=lambda: datetime.fromtimestamp(time.time() + self.ahead, UTC)
        )
        (self.sensor,) = retraining_sensors(settings, clock=lambda: time.time() + self.ahead)

    def observe(self, day: str, score: float, **told: Any) -> None:
        """A drift record is materialised; see `report_drift`."""
        report_drift(self.instance, day, score, **told)

    def say(self, name: SignalName, day: str, **told: Any) -> None:
        """A signal's record is materialised; see `report_signal`."""
        report_signal(self.instance, name, day, **told)

    def tick(self, *, remember: bool = True) -> list[dg.RunRequest]:
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            definitions=self.defs,
            resources={"lake": self.lake},
        )
        ticked = self.sensor.evaluate_tick(context)
        if remember:
            self.cursor = ticked.cursor
        self.skipped = str(ticked.skip_message)
        return list(ticked.run_requests or ())

    def start(self, request: dg.RunRequest) -> dg.DagsterRun:
        """Its run, as the daemon creates it, started and not yet ended."""
        job = self.defs.resolve_job_def(TRAINING_JOB)
        return self.instance.create_run_for_job(
            job, tags=request.tags, status=dg.DagsterRunStatus.STARTED
        )

    def end(self, run: dg.DagsterRun, *, well: bool = True) -> None:
        event = dg.DagsterEventType.RUN_SUCCESS if well else dg.DagsterEventType.RUN_FAILURE
        ended = dg.DagsterEvent(event.value, job_name=run.job_name)
        self.instance.report_dagster_event(ended, run.run_id)

    def attempt(self, *, well: bool) -> str:
        """Tick, run what is asked for to its end; the run key."""
        (request,) = self.tick()
        self.end(self.start(request), well=well)
        return str(request.run_key)

    def promote(self, version: str) -> None:
        """Somebody makes that model the champion."""
        log = self.lake.promotions
        head = log.current("fraud")
        draft = a_draft(version, artefact=stored_artefact(self.lake.blobs))
        log.promote(draft, expected_parent=None if head is None else head.sha256)

    def begin_rollout(self, version: str, run: dg.DagsterRun) -> RolloutEntry:
        """The rollout of the model that `run` trained."""
        plan, actor = plan_of(self.settings), actor_of(run.run_id)
        return self.rollouts.start("fraud", version, plan, actor=actor, reason="trained")

    def rolled_out(self, version: str, *, accepted: bool) -> None:
        """A training run whose model is rolled out to its end."""
        (request,) = self.tick()
        run = self.start(request)
        entry = self.begin_rollout(version, run)
        self.end(run)
        assert self.tick() == []
        assert f"waits: the rollout of {version} is on its way" in self.skipped
        told: dict[str, Any] = {"actor": "watcher", "reason": "as it was judged"}
        if not accepted:
            self.rollouts.decide(entry, "rejected", **told)
            return
        model = a_draft(version, artefact=stored_artefact(self.lake.blobs)).model
        way: list[RolloutState] = ["gated", "shadow", "canary", "canary", "champion"]
        for state in way:
            entry = self.rollouts.decide(entry, state, model=model, **told)
            self.rollouts.carry_out("fraud")
