"""Experiments read from the lake: landed or not, once, up to what is known."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ibook_assets.core.errors import ContractError
from ibook_assets.core.experiments.catalog import EXPERIMENTS
from ibook_assets.core.predictions import Trace, sealed
from ibook_assets.core.promotion import ChallengeDraft, Challenger
from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import EXPERIMENT_OUTCOMES, OUTCOMES, PREDICTIONS
from ibook_assets.core.times import DAY_US, HOUR_US, to_us
from ibook_assets.stores.blobs import open_blobs
from ibook_assets.stores.experiments import ExperimentReader, store_summary, stored_summary
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.promotions import PromotionLog
from tests.core.experiments.made import answer, rows
from tests.defs.sinking import sink_messages
from tests.promotion_drafts import a_draft, stored_artefact
from tests.traces import a_trace

STARTED = datetime(2026, 3, 1, 12, tzinfo=UTC)
STARTED_US = to_us(STARTED)
REVIEWS = EXPERIMENTS["fewer-reviews"]
FRAUDS = EXPERIMENTS["fewer-missed-frauds"]
AA = EXPERIMENTS["champion-aa"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def start(settings: Settings, experiment: str, *, share: float = 0.5) -> PromotionLog:
    """Promote a champion and let a treatment stand beside it."""
    blobs = open_blobs(settings.lake)
    log = PromotionLog(blobs, clock=lambda: STARTED)
    artefacts = [stored_artefact(blobs, content) for content in (b"one", b"two")]
    if log.current("fraud") is None:
        log.promote(a_draft("fraud-v1", artefact=artefacts[0]), expected_parent=None)
    head = log.require_current("fraud")
    model = a_draft("fraud-v2", artefact=artefacts[1]).model
    treatment = Challenger(variant="treatment", stage="treatment", share=share, model=model)
    draft = ChallengeDraft(
        use_case="fraud",
        challengers=(treatment,),
        salt=experiment,
        experiment=experiment,
        actor="ana",
        reason="test",
    )
    log.challenge(draft, expected_parent=head.sha256)
    return log


def served(request_id: str, **changes: Any) -> Trace:
    fields = {"known_ts": STARTED_US + 1, "variant": "control", "record_sequence": 2}
    return a_trace(request_id, **(fields | {"features_as_of": STARTED_US} | changes))


def ship(settings: Settings, *traces: Trace) -> None:
    """What the recorder does: files of the log."""
    times = [trace.known_ts // 1_000 for trace in traces]
    sink_messages(settings, PREDICTIONS, [sealed(trace) for trace in traces], times)


def test_shipped_and_landed_answers_count_once(settings: Settings) -> None:
    start(settings, AA.id)
    first = served("a", user_id=1, experiment=AA.id)
    second = served("b", user_id=2, experiment=AA.id, variant="treatment", decision="review")
    # A recorder that is killed may ship a batch again.
    ship(settings, first, second)
    ship(settings, first, second)
    lake = Lake(open_blobs(settings.lake))
    day = STARTED.date().isoformat()
    landed = rows(answer("a", known_ts=STARTED_US + 1, user_id=1, experiment=AA.id))
    lake.write("raw/predictions", day, landed, spec=PREDICTIONS)
    reader = ExperimentReader(lake.blobs)
    now_us = STARTED_US + HOUR_US
    found = reader.summary(AA, window_hours=24, now_us=now_us)
    assert [(arm.variant, arm.users, arm.events) for arm in found.arms] == [
        ("control", 1, 0),
        ("treatment", 1, 1),
    ]
    assert [arm.answers for arm in found.arms] == [1, 1]
    alone = ExperimentReader(lake.blobs, landed_only=True)
    told = alone.summary(AA, window_hours=24, now_us=now_us)
    assert [arm.users for arm in told.arms] == [1, 0]
    # What has landed is known to the end of its day at most, and never beyond now.
    run = alone.run(AA)
    assert alone.known_until_us(AA, run, now_us=now_us) == now_us
    later = STARTED_US + 3 * DAY_US
    assert alone.known_until_us(AA, run, now_us=later) == STARTED_US + DAY_US // 2


def test_reported_outcomes_are_joined_by_request(settings: Settings) -> None:
    start(settings, REVIEWS.id)
    ship(
        settings,
        served("a", user_id=1, experiment=REVIEWS.id),
        served("b", user_id=2, experiment=REVIEWS.id),
    )
    said = {
        "outcome_id": "o-1",
        "occurred_ts": STARTED_US,
        "known_ts": STARTED_US + HOUR_US,
        "experiment": REVIEWS.id,
        "request_id": "b",
        "outcome": "fraud",
    }
    messages = pa.Table.from_pylist(
        [{name: said.get(name) for name in EXPERIMENT_OUTCOMES.column_names}],
        schema=EXPERIMENT_OUTCOMES.schema,
    )
    Lake(open_blobs(settings.lake)).write(
        "raw/experiment_outcomes", STARTED.date().isoformat(), messages, spec=EXPERIMENT_OUTCOMES
    )
    reader = ExperimentReader(open_blobs(settings.lake))
    now_us = STARTED_US + REVIEWS.follow_up_us + HOUR_US
    found = reader.summary(REVIEWS, window_hours=24, now_us=now_us)
    missed = next(g for g in found.guardrails if g.metric == "fraud_missed_rate")
    assert missed.control_rate == 0.5
    early = reader.summary(REVIEWS, window_hours=24, now_us=now_us - 2 * HOUR_US)
    assert (early.plan.users, early.left_out.in_follow_up) == (0, 2)


def test_chargebacks_hold_the_moment_back_to_what_has_landed(settings: Settings) -> None:
    start(settings, FRAUDS.id)
    ship(settings, served("a", user_id=1, experiment=FRAUDS.id, transaction_id=77))
    lake = Lake(open_blobs(settings.lake))
    reader = ExperimentReader(lake.blobs)
    now_us = STARTED_US + FRAUDS.follow_up_us + DAY_US
    waiting = reader.summary(FRAUDS, window_hours=24, now_us=now_us)
    assert (waiting.plan.users, waiting.left_out.in_follow_up) == (0, 1)
    outcome = {"transaction_id": 77, "known_ts": STARTED_US + DAY_US, "is_fraud": 1}
    table = pa.Table.from_pylist([outcome | {"amount_cents": 5}], schema=OUTCOMES.schema)
    lake.write("raw/outcomes", "2026-03-02", table, spec=OUTCOMES)
    lake.write("raw/outcomes", "2026-04-20", OUTCOMES.schema.empty_table(), spec=OUTCOMES)
    found = reader.summary(FRAUDS, window_hours=24, now_us=now_us)
    assert (found.arms[0].users, found.arms[0].events) == (1, 1)


def test_users_met_before_the_design_held_stay_out(settings: Settings) -> None:
    start(settings, AA.id, share=0.1)
    start(settings, AA.id, share=0.5)
    ship(
        settings,
        served("a", user_id=1, experiment=AA.id),
        served("b", user_id=1, experiment=AA.id, known_ts=STARTED_US + 5, record_sequence=3),
        served("c", user_id=2, experiment=AA.id, known_ts=STARTED_US + 6, record_sequence=3),
    )
    found = ExperimentReader(open_blobs(settings.lake)).summary(
        AA, window_hours=1, now_us=STARTED_US + HOUR_US
    )
    assert (found.plan.users, found.left_out.outside_design) == (1, 1)
    assert "left out: entry 2 treats 0.1 of users" in " ".join(found.verdict.evidence)


def test_every_experiment_is_known_defined_or_not(settings: Settings) -> None:
    reader = ExperimentReader(open_blobs(settings.lake))
    assert [known.name for known in reader.known()] == list(EXPERIMENTS)
    assert all(known.run and known.run.started_us is None for known in reader.known())
    start(settings, "colours")
    assert [known.name for known in reader.known() if known.experiment is None] == ["colours"]


def test_a_summary_is_kept_and_read_again(settings: Settings) -> None:
    blobs = open_blobs(settings.lake)
    assert stored_summary(blobs, AA.id) is None
    found = ExperimentReader(blobs).summary(AA, window_hours=24, now_us=STARTED_US)
    key = store_summary(blobs, found, precommit=lambda: None)
    assert stored_summary(blobs, AA.id) == found
    blobs.put(key, b'{"experiment": 3}')
    with pytest.raises(ContractError, match="materialise experiments/summary"):
        stored_summary(blobs, AA.id)
