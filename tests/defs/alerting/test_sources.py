"""What is told of drift, runs, checks, promotions and artefacts, and when it is over."""

from __future__ import annotations

import dagster as dg
import pytest

from ibook_assets.core.rollout import entering, entrant, withdrawing
from ibook_assets.defs.raw import NOTHING_QUARANTINED
from ibook_assets.defs.retraining import TRAINING_JOB
from ibook_assets.defs.schedules import DAILY_DATA
from ibook_assets.defs.signals import check_name
from tests.defs.alerting.ticked import Platform, told
from tests.promotion_drafts import a_draft, stored_artefact
from tests.services.receiver import Receiver

DAY_TAG = "dagster/partition"


def test_nothing_happens_and_nobody_is_told(platform: Platform, receiver: Receiver) -> None:
    platform.drift("2026-03-01", 0.1)
    platform.run(TRAINING_JOB, well=True)
    platform.check("2026-03-01", passed=True)
    platform.ticks()
    assert platform.ticks() is None
    assert receiver.bodies == []


def test_a_drift_episode_is_told_when_it_opens_and_when_it_closes(
    platform: Platform, receiver: Receiver
) -> None:
    platform.drift("2026-03-01", 0.45)
    platform.ticks()
    platform.drift("2026-03-02", 0.5)
    platform.ticks()
    assert len(receiver.bodies) == 1
    platform.drift("2026-03-03", 0.1)
    platform.ticks()
    opened, closed = receiver.bodies
    assert (opened["status"], closed["status"]) == ("firing", "resolved")
    assert opened["dedup_key"] == closed["dedup_key"]
    assert opened["evidence"]["score"] == 0.45
    assert opened["runbook_url"] == "docs/runbooks.md#drift"
    assert (
        "on 2026-03-03 feature_drift was stable, as are the others, the score 0.10"
        in closed["summary"]
    )
    assert platform.outbox.open_alerts() == []


def test_a_drift_that_the_next_champion_has_too_is_told_anew(
    platform: Platform, receiver: Receiver
) -> None:
    platform.drift("2026-03-01", 0.45)
    platform.ticks()
    platform.drift("2026-03-02", 0.45, champion="v2")
    platform.ticks()
    first, *both = receiver.bodies
    told = {body["status"]: body for body in both}
    assert told.keys() == {"firing", "resolved"}
    assert "another model serves: v2" in told["resolved"]["summary"]
    assert told["resolved"]["dedup_key"] == first["dedup_key"] != told["firing"]["dedup_key"]


def test_a_signal_that_joins_an_episode_is_no_second_alert(
    platform: Platform, receiver: Receiver
) -> None:
    platform.signal("2026-03-01", "performance", state="drifted")
    platform.ticks()
    platform.drift("2026-03-01", 0.45)
    platform.signal("2026-03-02", "performance", state="stable")
    platform.ticks()
    (opened,) = receiver.bodies
    assert opened["evidence"]["signals"] == "performance"
    platform.drift("2026-03-02", 0.1)
    platform.ticks()
    assert receiver.statuses == ["firing", "resolved"]


def test_a_signals_check_is_settled_by_the_next_day(platform: Platform, receiver: Receiver) -> None:
    asset, name = dg.AssetKey(["fraud", "score_drift"]), check_name("score_drift")
    platform.check("2026-03-01", passed=False, asset=asset, name=name)
    # It only fails as an error once it is confirmed: what passes is a warning that did not come.
    warning = dg.AssetCheckSeverity.WARN
    platform.check("2026-03-02", passed=True, asset=asset, name=name, severity=warning)
    platform.ticks()
    assert receiver.statuses == ["firing", "resolved"]


def test_failed_runs_of_a_job_are_one_alert_until_one_succeeds(
    platform: Platform, receiver: Receiver
) -> None:
    first = platform.run(TRAINING_JOB, well=False)
    platform.ticks()
    platform.run(TRAINING_JOB, well=False)
    platform.ticks()
    assert told(receiver) == [("training", "firing", "run/training")]
    assert receiver.bodies[0]["evidence"]["run_id"] == first
    platform.run(TRAINING_JOB, well=True)
    platform.ticks()
    platform.run(TRAINING_JOB, well=False)
    platform.ticks()
    assert receiver.statuses == ["firing", "resolved", "firing"]


def test_days_of_a_job_fail_and_recover_apart(platform: Platform, receiver: Receiver) -> None:
    for day in ("2026-03-01", "2026-03-02"):
        platform.run(DAILY_DATA, well=False, tags={DAY_TAG: day})
    platform.run(DAILY_DATA, well=True, tags={DAY_TAG: "2026-03-02"})
    platform.ticks()
    platform.ticks()
    assert sorted(told(receiver)) == [
        ("run", "firing", "run/daily_data@2026-03-01"),
        ("run", "firing", "run/daily_data@2026-03-02"),
        ("run", "resolved", "run/daily_data@2026-03-02"),
    ]


def test_a_run_that_dagster_starts_again_is_no_alert(
    platform: Platform, receiver: Receiver
) -> None:
    platform.run(TRAINING_JOB, well=False, tags={"dagster/will_retry": "true"})
    platform.ticks()
    assert receiver.bodies == []


def test_an_alert_of_a_run_says_why_it_failed(platform: Platform, receiver: Receiver) -> None:
    why = "ContractError: raw/transactions has no column amount"

    @dg.op
    def broken() -> None:
        raise dg.Failure(description=why)

    @dg.job
    def landing() -> None:
        broken()

    landing.execute_in_process(instance=platform.instance, raise_on_error=False)
    platform.ticks()
    (body,) = receiver.bodies
    assert body["evidence"]["step"] == "broken"
    assert body["summary"] == f"The run of landing failed: {why}"


def test_runs_by_hand_are_watched_by_who_started_them(
    platform: Platform, receiver: Receiver
) -> None:
    @dg.asset
    def broken() -> None:
        raise dg.Failure(description="no")

    for tags in ({}, {"dagster/backfill": "b1"}):
        dg.materialize([broken], instance=platform.instance, tags=tags, raise_on_error=False)
    platform.ticks()
    assert len(receiver.bodies) == 1


def test_a_failed_check_is_told_and_resolved_by_the_same_day(
    platform: Platform, receiver: Receiver
) -> None:
    platform.check("2026-03-01", passed=False)
    platform.check("2026-03-02", passed=True)
    platform.ticks()
    (body,) = receiver.bodies
    assert (body["kind"], body["severity"]) == ("check", "error")
    assert body["dedup_key"] == "check/monitoring/feature_skew/no_skew@2026-03-01"
    assert body["evidence"]["mismatches"] == 3
    platform.check("2026-03-01", passed=True)
    platform.ticks()
    assert receiver.statuses == ["firing", "resolved"]


@pytest.mark.parametrize(
    ("asset", "name", "alerts"),
    [
        (["raw", "transactions"], NOTHING_QUARANTINED, 1),
        (["fraud", "evaluation"], "gate", 0),
        (["simulation", "report"], "drift", 0),
    ],
    ids=["refused rows", "closed gate", "simulated"],
)
def test_which_warnings_somebody_should_know(
    platform: Platform, receiver: Receiver, asset: list[str], name: str, alerts: int
) -> None:
    key, severity = dg.AssetKey(asset), dg.AssetCheckSeverity.WARN
    if asset[0] == "simulation":
        severity = dg.AssetCheckSeverity.ERROR
    platform.check("2026-03-01", passed=False, asset=key, name=name, severity=severity)
    platform.ticks()
    assert [body["severity"] for body in receiver.bodies] == ["warning"] * alerts


def test_promotions_and_rollbacks_are_told_once(platform: Platform, receiver: Receiver) -> None:
    log, blobs = platform.lake.promotions, platform.lake.blobs
    head = None
    for version in ("v1", "v2"):
        promotion = a_draft(version, artefact=stored_artefact(blobs, version.encode()))
        head = log.promote(promotion, expected_parent=head.sha256 if head else None)
    platform.ticks()
    assert head is not None
    canary = entrant("canary", share=0.1)
    assert canary is not None
    model = a_draft("v3", artefact=stored_artefact(blobs, b"v3")).model
    head = log.challenge(
        entering(head, model, canary, actor="ana@ibook.test", reason="try"),
        expected_parent=head.sha256,
    )
    draft = withdrawing(head, None, actor="ana@ibook.test", reason="too slow")
    log.challenge(draft, expected_parent=head.sha256)
    log.rollback("fraud", actor="ana@ibook.test", reason="too many reviews")
    platform.ticks()
    platform.ticks()
    assert [(b["kind"], b["severity"], b["status"]) for b in receiver.bodies] == [
        ("promotion", "info", "notice"),
        ("promotion", "info", "notice"),
        ("promotion", "info", "notice"),
        ("rollback", "warning", "notice"),
        ("rollback", "warning", "notice"),
    ]
    assert receiver.bodies[-1]["evidence"]["champion"] == "v1"
    assert "too many reviews" in receiver.bodies[-1]["summary"]


def test_an_artefact_that_servers_must_refuse_is_told_until_it_is_whole(
    platform: Platform, receiver: Receiver
) -> None:
    artefact = stored_artefact(platform.lake.blobs, b"model")
    platform.lake.promotions.promote(a_draft("v1", artefact=artefact), expected_parent=None)
    platform.ticks()
    key = f"{artefact.uri}/{artefact.files[0].name}"
    whole = platform.lake.blobs.get(key)
    platform.lake.blobs.put(key, b"damage")
    platform.ticks()
    platform.ticks()
    platform.lake.blobs.put(key, whole)
    platform.ticks()
    refused = [body for body in receiver.bodies if body["kind"] == "refused-artefact"]
    assert [(b["status"], b["severity"]) for b in refused] == [
        ("firing", "critical"),
        ("resolved", "critical"),
    ]
    assert "has sha256" in refused[0]["summary"]


def test_a_damaged_log_is_told_and_everything_else_goes_on(
    platform: Platform, receiver: Receiver
) -> None:
    artefact = stored_artefact(platform.lake.blobs, b"model")
    log = platform.lake.promotions
    first = log.promote(a_draft("v1", artefact=artefact), expected_parent=None)
    log.promote(a_draft("v2", artefact=artefact), expected_parent=first.sha256)
    file = f"{artefact.uri}/{artefact.files[0].name}"
    platform.lake.blobs.put(file, b"damage")
    platform.ticks()
    told = [(body["kind"], body["status"]) for body in receiver.bodies]
    assert told.count(("refused-artefact", "firing")) == 1

    (key,) = [key for key in platform.lake.blobs.list("promotions/") if "000002" in key]
    whole = platform.lake.blobs.get(key)
    platform.lake.blobs.put(key, whole.replace(b'"v2"', b'"v3"'))
    platform.ticks()
    platform.ticks()
    (damaged,) = receiver.bodies[len(told) :]
    assert (damaged["kind"], damaged["status"]) == ("damaged-log", "firing")
    assert damaged["severity"] == "critical"
    assert key in damaged["summary"]

    # Nothing is taken to be over that could not be looked at.
    platform.lake.blobs.put(key, whole)
    platform.ticks()
    (over,) = receiver.bodies[len(told) + 1 :]
    assert (over["kind"], over["status"]) == ("damaged-log", "resolved")
