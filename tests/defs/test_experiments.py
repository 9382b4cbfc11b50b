"""Experiments in the graph: landed answers become exposures, outcomes and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from ibook_assets.core.experiments.catalog import EXPERIMENTS
from ibook_assets.core.experiments.units import EXPOSURES, UNITS
from ibook_assets.core.promotion import ChallengeDraft, Challenger
from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import PREDICTIONS
from ibook_assets.core.times import HOUR_US, to_us
from ibook_assets.definitions import build_defs
from ibook_assets.defs.experiments import GUARDRAILS, JOB, SAMPLE_RATIO
from ibook_assets.defs.resources import LakeResource
from ibook_assets.stores.blobs import open_blobs
from ibook_assets.stores.experiments import stored_summary
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.promotions import PromotionLog
from tests.core.experiments.made import answer
from tests.promotion_drafts import a_draft, stored_artefact

DAY = "2026-03-01"
STARTED = datetime(2026, 3, 1, 8, tzinfo=UTC)
STARTED_US = to_us(STARTED)
AA = EXPERIMENTS["champion-aa"]
KEYS = [["experiments", name] for name in ("exposures", "outcomes", "summary")]


@pytest.fixture
def started(small: Settings) -> Settings:
    """A platform on which `champion-aa` has begun."""
    blobs = open_blobs(small.lake)
    log = PromotionLog(blobs, clock=lambda: STARTED)
    artefact = stored_artefact(blobs)
    log.promote(a_draft("fraud-v1", artefact=artefact), expected_parent=None)
    model = a_draft("fraud-v1", artefact=artefact).model
    treatment = Challenger(variant="treatment", stage="treatment", share=0.5, model=model)
    draft = ChallengeDraft(
        use_case="fraud",
        challengers=(treatment,),
        salt=AA.salt,
        experiment=AA.id,
        actor="ana",
        reason="test",
    )
    log.challenge(draft, expected_parent=log.require_current("fraud").sha256)
    return small


def land(settings: Settings, answers: Sequence[Mapping[str, Any]]) -> None:
    table = pa.Table.from_pylist([dict(a) for a in answers], schema=PREDICTIONS.schema)
    Lake(open_blobs(settings.lake)).write("raw/predictions", DAY, table, spec=PREDICTIONS)


def users(count: int, *, treated_every: int = 2) -> list[dict[str, Any]]:
    """Users one second apart; one of `treated_every` is treated, every 40th held by either arm."""
    return [
        answer(
            f"r-{n}",
            experiment=AA.id,
            user_id=n,
            known_ts=STARTED_US + n * 1_000_000,
            variant="treatment" if n % treated_every == 0 else "control",
            decision="review" if n % 80 < 2 else "approve",
        )
        for n in range(count)
    ]


def materialise(settings: Settings, name: str = AA.id) -> dg.ExecuteInProcessResult:
    wanted = [dg.AssetKey(key) for key in KEYS]
    job = build_defs(settings).resolve_implicit_job_def_def_for_assets(wanted)
    assert job is not None
    with dg.DagsterInstance.ephemeral(tempdir=str(settings.home)) as instance:
        return job.execute_in_process(asset_selection=wanted, partition_key=name, instance=instance)


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {e.check_name: e.passed for e in result.get_asset_check_evaluations()}


def test_landed_answers_become_exposures_outcomes_and_a_verdict(started: Settings) -> None:
    land(started, users(800))
    result = materialise(started)
    assert checks(result) == {SAMPLE_RATIO: True, GUARDRAILS: True}
    lake = Lake(open_blobs(started.lake))
    exposed = lake.read("experiments/exposures", [AA.id], spec=EXPOSURES)
    assert (exposed.num_rows, exposed["treated"].to_pylist().count(True)) == (800, 400)
    units = lake.read("experiments/outcomes", [AA.id], spec=UNITS)
    assert units["review_rate"].to_pylist().count(1) == 20
    # Everything is known to the end of the landed day, sixteen hours after the start.
    assert set(units["as_of_ts"].to_pylist()) == {STARTED_US + 16 * HOUR_US}
    kept = stored_summary(lake.blobs, AA.id)
    assert kept is not None
    assert (kept.verdict.decision, kept.state, kept.plan.users) == ("keep-running", "running", 800)
    assert [look.users for look in kept.sequential.looks] == [340, 679]
    shown = {
        e.asset_key.path[-1]: e.step_materialization_data.materialization.metadata
        for e in result.get_asset_materialization_events()
        if e.asset_key
    }["summary"]
    assert shown["decision"].value == "keep-running"
    assert "data:image/png" in str(shown["effect"].value)
    assert len(shown["looks"].value) == 2  # type: ignore[arg-type]


def test_a_lossy_split_fails_its_check(started: Settings) -> None:
    land(started, users(900, treated_every=3))
    assert checks(materialise(started)) == {SAMPLE_RATIO: False, GUARDRAILS: True}
    kept = stored_summary(open_blobs(started.lake), AA.id)
    assert kept is not None
    assert kept.verdict.decision == "invalid"


def test_an_experiment_that_nobody_started_is_empty(small: Settings) -> None:
    result = materialise(small, "fewer-reviews")
    assert checks(result) == {SAMPLE_RATIO: True, GUARDRAILS: True}
    kept = stored_summary(open_blobs(small.lake), "fewer-reviews")
    assert kept is not None
    assert (kept.state, kept.sequential.next_look_users) == ("not-started", 1_489)


def test_the_schedule_runs_what_has_started_until_it_is_over(
    started: Settings, instance: dg.DagsterInstance
) -> None:
    defs = build_defs(started)

    def asked(moment: datetime) -> list[str | None]:
        with dg.build_schedule_context(
            instance=instance,
            scheduled_execution_time=moment,
            resources={"lake": LakeResource(uri=started.lake)},
            repository_def=defs.get_repository_def(),
        ) as context:
            data = defs.resolve_schedule_def("daily_experiments").evaluate_tick(context)
        return [request.partition_key for request in data.run_requests or ()]

    assert asked(datetime(2026, 3, 2, 2, 30, tzinfo=UTC)) == [AA.id]
    # 28 days of entry and a week for late days after it.
    assert asked(datetime(2026, 4, 4, 2, 30, tzinfo=UTC)) == [AA.id]
    assert asked(datetime(2026, 4, 6, 2, 30, tzinfo=UTC)) == []
    selected = defs.resolve_job_def(JOB).asset_layer.executable_asset_keys
    assert selected == {dg.AssetKey(key) for key in KEYS}
