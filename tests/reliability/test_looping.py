"""Rows 5 to 7 for the loop's beginning: drift is trained for once, whatever is killed.

The whole loop takes minutes: `python -m tests.reliability.looping`.
"""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from ibook_assets.core.settings import Settings
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.defs.monitoring import drift_key
from ibook_assets.defs.retraining import EPISODE, TRAINING_JOB
from ibook_assets.defs.runs import actor_of
from ibook_assets.stores.blobs import open_blobs
from ibook_assets.stores.rollouts import Rollouts
from tests.reliability.looping_parts import INSTANCE, Daemon, environment
from tests.serving.harness import eventually, promote, small_bundle

JOB_FILE = Path(__file__).with_name("retraining_job.py")
CRASHES = ("before candidate", "after candidate")
STUCK_SECONDS = 240.0


@pytest.mark.timeout(3 * STUCK_SECONDS)
def test_drift_is_trained_for_once_whoever_is_killed(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path / "home", retraining_cooldown_hours=0, retraining_retry_minutes=0
    )
    promote(settings, small_bundle("fraud-v1", seed=1))
    folder = settings.home / "dagster"
    folder.mkdir(parents=True)
    (folder / "dagster.yaml").write_text(INSTANCE)
    daemon = Daemon(environment(settings, CRASHES), settings.home / "daemon.log", JOB_FILE)
    rollouts = Rollouts(open_blobs(settings.lake))
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        drift(instance, "2026-03-01")
        daemon.start()
        try:
            eventually(lambda: bool(runs(instance)), what="a run", seconds=STUCK_SECONDS)
            daemon.kill()
            daemon.start()
            eventually(
                lambda: any(run.is_success for run in runs(instance)),
                what="a run that succeeds",
                seconds=STUCK_SECONDS,
            )
            # A day later the drift is still there, and the rollout on its way.
            drift(instance, "2026-03-02")
            eventually(
                lambda: "the rollout of fraud-v2 is on its way" in skipped(instance),
                what="a tick that waits for the rollout",
                seconds=STUCK_SECONDS,
            )
        finally:
            daemon.stop()
        found = runs(instance)
        killed = {path.name.replace("_", " ") for path in (settings.home / "crashed").iterdir()}
        assert killed == set(CRASHES)
        assert sum(run.is_success for run in found) == 1
        assert len({run.tags[EPISODE] for run in found}) == 1
        assert len({run.root_run_id or run.run_id for run in found}) == 1, "one attempt"
        (entry,) = rollouts.history(FRAUD.name)
        assert (entry.version, entry.state) == ("fraud-v2", "candidate")
        assert entry.actor in {actor_of(run.run_id) for run in found}


def drift(instance: dg.DagsterInstance, day: str) -> None:
    """What the features of `day` say, as monitoring materialises it."""
    metadata: dict[str, str | float | bool] = {
        "day": day,
        "state": "drifted",
        "drift_score": 0.6,
        "champion_version": "fraud-v1",
        "confirmed": True,
        "new_days": 2,
    }
    instance.report_runless_asset_event(
        dg.AssetMaterialization(asset_key=drift_key(FRAUD), partition=day, metadata=metadata)
    )


def runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Training runs that drift asked for, newest first."""
    found = instance.get_runs(dg.RunsFilter(job_name=TRAINING_JOB))
    return [run for run in found if EPISODE in run.tags]


def skipped(instance: dg.DagsterInstance) -> str:
    """What the sensor's newest tick says."""
    states = instance.all_instigator_state()
    ticks = [
        tick
        for state in states
        for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)
    ]
    return str(ticks[0].skip_reason) if ticks else ""
