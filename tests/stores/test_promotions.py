"""The promotion log on a folder and on S3: one winner, history, polling, damage."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from ibook_assets.core.errors import (
    ConflictError,
    ContractError,
    GateClosedError,
    IntegrityError,
    NoPromotedModelError,
)
from ibook_assets.core.promotion import ChallengeDraft, PromotionDraft, PromotionRecord
from ibook_assets.core.rollout import Entrant, entering, withdrawing
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.promotions import PromotionLog
from tests.promotion_drafts import a_draft, stored_artefact

START = datetime(2026, 1, 5, tzinfo=UTC)


class Clock:
    """Every look is a minute later."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        self.now += timedelta(minutes=1)
        return self.now


@pytest.fixture
def log(blobs: Blobs) -> PromotionLog:
    return PromotionLog(blobs, clock=Clock())


def draft(
    blobs: Blobs, version: str, *, actor: str = "ana", use_case: str = "fraud"
) -> PromotionDraft:
    artefact = stored_artefact(blobs, version.encode(), use_case)
    return a_draft(version, artefact=artefact, actor=actor, use_case=use_case)


def promote(
    log: PromotionLog, blobs: Blobs, version: str, *, actor: str = "ana"
) -> PromotionRecord:
    head = log.current("fraud")
    return log.promote(
        draft(blobs, version, actor=actor), expected_parent=head.sha256 if head else None
    )


def challenge(
    log: PromotionLog, blobs: Blobs, version: str, *, actor: str = "ana", share: float = 0.1
) -> ChallengeDraft:
    """What would make `version` the canary of what serves now."""
    model = draft(blobs, version).model
    return entering(
        log.require_current("fraud"), model, Entrant("canary", share), actor=actor, reason="try"
    )


def test_nothing_is_promoted_at_first(log: PromotionLog) -> None:
    assert log.current("fraud") is None
    assert log.history("fraud") == []
    assert log.use_cases() == []
    with pytest.raises(NoPromotedModelError, match="materialise fraud/promotion"):
        log.require_current("fraud")
    with pytest.raises(NoPromotedModelError):
        log.rollback("fraud", actor="on-call", reason="slow")


def test_promotions_form_a_history(log: PromotionLog, blobs: Blobs) -> None:
    records = [promote(log, blobs, version) for version in ("a", "b", "c")]
    assert log.history("fraud") == records
    assert log.require_current("fraud") == records[-1]
    assert [r.sequence for r in records] == [1, 2, 3]
    assert [r.previous_version for r in records] == [None, "a", "b"]
    assert records[0].promoted_at == START + timedelta(minutes=1)
    assert blobs.list("promotions/") == [f"promotions/fraud/{i:012d}.json" for i in (1, 2, 3)]
    assert log.use_cases() == ["fraud"]


def test_rollback_brings_the_champion_before_back(log: PromotionLog, blobs: Blobs) -> None:
    first = promote(log, blobs, "a")
    promote(log, blobs, "b")
    record = log.rollback("fraud", actor="on-call", reason="precision fell")
    assert log.current("fraud") == record
    assert (record.model, record.actor) == (first.model, "on-call")
    assert (record.reason, record.previous_version) == ("precision fell", "b")
    assert log.rollback("fraud", to="b", actor="ana", reason="fixed").model_version == "b"
    assert [r.action for r in log.history("fraud")] == ["promote"] * 2 + ["rollback"] * 2


def test_who_decided_against_an_older_champion_loses_to_a_named_winner(
    log: PromotionLog, blobs: Blobs
) -> None:
    seen = promote(log, blobs, "a")
    promote(log, blobs, "b", actor="bob@ibook.test")
    with pytest.raises(ConflictError, match=r"bob@ibook\.test was first: entry 2 \(promote of b"):
        log.promote(draft(blobs, "c"), expected_parent=seen.sha256)
    with pytest.raises(ConflictError, match="was first"):
        log.promote(draft(blobs, "c"), expected_parent=None)
    assert log.require_current("fraud").model_version == "b"


def test_a_parent_that_never_was_is_refused(log: PromotionLog, blobs: Blobs) -> None:
    with pytest.raises(ConflictError, match="the log is empty"):
        log.promote(draft(blobs, "a"), expected_parent="d" * 64)


def test_a_retried_promotion_is_the_same_entry(log: PromotionLog, blobs: Blobs) -> None:
    wanted = draft(blobs, "a")
    first = log.promote(wanted, expected_parent=None)
    assert log.promote(wanted, expected_parent=None) == first
    assert log.history("fraud") == [first]


def test_a_challenger_enters_grows_and_is_withdrawn(log: PromotionLog, blobs: Blobs) -> None:
    first = promote(log, blobs, "a")
    entered = log.challenge(challenge(log, blobs, "b"), expected_parent=first.sha256)
    grown = log.challenge(challenge(log, blobs, "b", share=0.4), expected_parent=entered.sha256)
    assert log.current("fraud", known=first) == grown
    assert [(c.variant, c.share) for c in grown.challengers] == [("canary", 0.4)]
    assert (grown.model, grown.salt) == (first.model, entered.salt)
    out = log.challenge(
        withdrawing(grown, None, actor="ana", reason="slow"), expected_parent=grown.sha256
    )
    assert (out.challengers, out.salt) == ((), None)
    assert [r.action for r in log.history("fraud")] == ["promote"] + ["challenge"] * 3
    assert log.history("fraud") == [first, entered, grown, out]
    assert log.champion_since(out) == log.champion_since(first) == first


def test_who_challenged_an_older_champion_loses_to_a_named_winner(
    log: PromotionLog, blobs: Blobs
) -> None:
    seen = promote(log, blobs, "a")
    late = challenge(log, blobs, "c")
    winner = log.challenge(
        challenge(log, blobs, "b", actor="bob@ibook.test"), expected_parent=seen.sha256
    )
    with pytest.raises(
        ConflictError, match=r"bob@ibook\.test was first: entry 2 \(challenge of a by canary b"
    ):
        log.challenge(late, expected_parent=seen.sha256)
    assert log.require_current("fraud") == winner


def test_every_retried_action_is_the_same_entry(log: PromotionLog, blobs: Blobs) -> None:
    first = promote(log, blobs, "a")
    second = promote(log, blobs, "b")
    wanted = challenge(log, blobs, "c")
    challenged = log.challenge(wanted, expected_parent=second.sha256)
    assert log.challenge(wanted, expected_parent=second.sha256) == challenged
    for _ in range(2):
        back = log.rollback("fraud", actor="ana", reason="slow", expected_parent=challenged.sha256)
    assert (back.model, back.sequence) == (first.model, 4)
    with pytest.raises(ConflictError, match="ana was first: entry 4"):
        log.rollback("fraud", actor="bob", reason="slow", expected_parent=challenged.sha256)
    with pytest.raises(ConflictError, match="was first"):
        log.rollback("fraud", actor="ana", reason="slow", expected_parent=first.sha256)
    assert log.history("fraud") == [first, second, challenged, back]


def test_a_closed_gate_or_a_damaged_artefact_challenges_nobody(
    log: PromotionLog, blobs: Blobs
) -> None:
    first = promote(log, blobs, "a")
    closed = a_draft("b", passed=False, artefact=first.model.artefact).model
    wanted = entering(first, closed, Entrant("shadow"), actor="ana", reason="try")
    with pytest.raises(GateClosedError, match="average_precision"):
        log.challenge(wanted, expected_parent=first.sha256)
    damaged = challenge(log, blobs, "c")
    blobs.put(f"{damaged.challengers[0].model.artefact.uri}/model.ubj", b"b")
    with pytest.raises(IntegrityError, match=r"model\.ubj"):
        log.challenge(damaged, expected_parent=first.sha256)
    assert log.history("fraud") == [first]


def test_nobody_can_challenge_nobody(log: PromotionLog) -> None:
    wanted = ChallengeDraft(use_case="fraud", challengers=(), salt=None, actor="ana", reason="try")
    with pytest.raises(NoPromotedModelError):
        log.challenge(wanted, expected_parent="d" * 64)


def test_one_of_many_simultaneous_promotions_wins(blobs: Blobs) -> None:
    drafts = [draft(blobs, f"v{i}", actor=f"actor {i}") for i in range(6)]
    together = threading.Barrier(6)

    def attempt(wanted: PromotionDraft) -> PromotionRecord | str:
        log = PromotionLog(blobs)
        together.wait()
        try:
            return log.promote(wanted, expected_parent=None)
        except ConflictError as error:
            return str(error)

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(attempt, drafts))
    [winner] = [answer for answer in answers if isinstance(answer, PromotionRecord)]
    losers = [answer for answer in answers if isinstance(answer, str)]
    assert len(losers) == 5
    assert all(f"{winner.actor} was first" in loser for loser in losers)
    assert PromotionLog(blobs).history("fraud") == [winner]


def test_polling_reads_only_what_is_new(log: PromotionLog, blobs: Blobs) -> None:
    first = promote(log, blobs, "a")
    assert log.current("fraud", known=first) is first
    promote(log, blobs, "b")
    third = promote(log, blobs, "c")
    blobs.delete("promotions/fraud/000000000001.json")
    assert log.current("fraud", known=first) == third


def test_polling_refuses_an_entry_that_does_not_follow(log: PromotionLog, blobs: Blobs) -> None:
    promote(log, blobs, "a")
    promote(log, blobs, "b")
    seen_elsewhere = log.require_current("fraud").model_copy(update={"reason": "other"})
    promote(log, blobs, "c")
    with pytest.raises(ContractError, match="entry 3 of the fraud promotions breaks the chain"):
        log.current("fraud", known=seen_elsewhere)


def test_use_cases_have_logs_of_their_own(log: PromotionLog, blobs: Blobs) -> None:
    promote(log, blobs, "a")
    log.promote(draft(blobs, "p", use_case="pricing"), expected_parent=None)
    assert log.require_current("fraud").model_version == "a"
    assert log.use_cases() == ["fraud", "pricing"]


def test_a_closed_gate_is_not_promoted(log: PromotionLog) -> None:
    with pytest.raises(GateClosedError, match="average_precision"):
        log.promote(a_draft("a", passed=False), expected_parent=None)
    assert log.current("fraud") is None


def test_a_damaged_artefact_is_not_promoted(log: PromotionLog, blobs: Blobs) -> None:
    wanted = draft(blobs, "a")
    blobs.put(f"{wanted.model.artefact.uri}/model.ubj", b"b")
    with pytest.raises(IntegrityError, match=r"model\.ubj"):
        log.promote(wanted, expected_parent=None)
    assert log.current("fraud") is None


def test_a_damaged_artefact_is_not_rolled_back_to(log: PromotionLog, blobs: Blobs) -> None:
    first = promote(log, blobs, "a")
    promote(log, blobs, "b")
    blobs.delete(f"{first.model.artefact.uri}/model.ubj")
    with pytest.raises(IntegrityError, match="no file"):
        log.rollback("fraud", actor="on-call", reason="slow")
    assert log.require_current("fraud").model_version == "b"


def test_a_lost_entry_is_named(log: PromotionLog, blobs: Blobs) -> None:
    for version in ("a", "b", "c"):
        promote(log, blobs, version)
    blobs.delete("promotions/fraud/000000000002.json")
    with pytest.raises(ContractError, match="entry 2 of the fraud promotions is missing"):
        log.history("fraud")


def test_a_changed_entry_is_named(log: PromotionLog, blobs: Blobs) -> None:
    for version in ("a", "b"):
        promote(log, blobs, version)
    key = "promotions/fraud/000000000001.json"
    blobs.put(key, blobs.get(key).replace(b"better", b"bitter"))
    with pytest.raises(IntegrityError, match=key):
        log.history("fraud")


def test_an_entry_copied_to_another_place_is_refused(log: PromotionLog, blobs: Blobs) -> None:
    promote(log, blobs, "a")
    blobs.put(
        "promotions/pricing/000000000001.json", blobs.get("promotions/fraud/000000000001.json")
    )
    with pytest.raises(ContractError, match="holds entry 1 of fraud: it was copied there"):
        log.current("pricing")


@pytest.mark.parametrize("use_case", ["", "../fraud", "a/b"])
def test_unsafe_use_cases_are_refused(log: PromotionLog, use_case: str) -> None:
    with pytest.raises(ContractError, match="is not allowed"):
        log.current(use_case)
