"""Promotion records: chain, rollback targets, refusals."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ibook_assets.core.errors import ContractError, IntegrityError
from ibook_assets.core.promotion import (
    GateRecord,
    PromotionDraft,
    PromotionRecord,
    seal,
    unseal,
)
from ibook_assets.core.promotion_chain import (
    next_record,
    origin,
    rollback_record,
    verify_chain,
    verify_link,
)
from tests.promotion_drafts import NOW, a_draft, promoted


def rolled_back(log: list[PromotionRecord], to: str | None = None) -> list[PromotionRecord]:
    record = rollback_record(log, to=to, actor="on-call", reason="slow", promoted_at=NOW)
    return [*log, record]


@given(st.lists(st.sampled_from(["promote", "rollback"]), max_size=12))
def test_every_history_is_a_valid_chain(actions: list[str]) -> None:
    log = promoted("v0")
    for i, action in enumerate(actions, start=1):
        if action == "rollback" and origin(log, log[-1]) > 1:
            log = rolled_back(log)
        else:
            log.append(next_record(a_draft(f"v{i}"), previous=log[-1], promoted_at=NOW))
    verify_chain(log)
    assert [unseal(seal(record), path="p") for record in log] == log


@given(st.integers(0, 4), st.data())
def test_a_changed_entry_is_named(position: int, data: st.DataObject) -> None:
    log = promoted("a", "b", "c", "d", "e")
    changed: dict[str, Any] = data.draw(
        st.sampled_from(
            [{"reason": "other"}, {"actor": "eve"}, {"promoted_at": NOW.replace(hour=13)}]
        )
    )
    log[position] = log[position].model_copy(update=changed)
    if position == 4:
        verify_chain(log)  # the next entry will tell
        return
    with pytest.raises(ContractError, match=f"^entry {position + 2} of the fraud promotions"):
        verify_chain(log)


def test_a_lost_entry_is_named() -> None:
    log = promoted("a", "b", "c")
    with pytest.raises(ContractError, match="entry 2 is missing: the log goes on with entry 3"):
        verify_chain([log[0], log[2]])
    with pytest.raises(ContractError, match="entry 1 is missing"):
        verify_chain(log[1:])


def test_who_served_before_must_be_who_did() -> None:
    first, second = promoted("a", "b")
    with pytest.raises(ContractError, match="says that c served before it, which was a"):
        verify_link(first, second.model_copy(update={"previous_version": "c"}))


def test_a_rollback_must_bring_back_what_it_says() -> None:
    log = rolled_back(promoted("a", "b"))
    log[2] = log[2].model_copy(update={"model": a_draft("x").model})
    with pytest.raises(ContractError, match="entry 3 does not restore the model of entry 1"):
        verify_chain(log)


def test_rolling_back_twice_goes_two_steps_back() -> None:
    log = promoted("a", "b", "c")
    log = rolled_back(log)
    assert (log[-1].model_version, log[-1].restores, log[-1].previous_version) == ("b", 2, "c")
    log = rolled_back(log)
    assert (log[-1].model_version, log[-1].restores) == ("a", 1)
    with pytest.raises(ContractError, match="a is the first model ever promoted"):
        rolled_back(log)


def test_rollback_skips_the_model_that_was_rolled_back() -> None:
    log = rolled_back(promoted("a", "bad"))
    log.append(next_record(a_draft("c"), previous=log[-1], promoted_at=NOW))
    assert rolled_back(log)[-1].model_version == "a"


def test_rollback_to_a_version_takes_its_latest_promotion() -> None:
    log = rolled_back(promoted("a", "b", "a", "c"), to="a")
    assert (log[-1].model_version, log[-1].restores) == ("a", 3)


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("z", r"z has never been promoted; roll back to one of \['a', 'b'\]"),
        ("c", "c serves already"),
    ],
)
def test_an_impossible_rollback_names_the_choices(to: str, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        rolled_back(promoted("a", "b", "c"), to=to)


@pytest.mark.parametrize(("actor", "reason"), [("", "slow"), ("on-call", " ")])
def test_a_rollback_needs_actor_and_reason(actor: str, reason: str) -> None:
    with pytest.raises(ContractError, match="a rollback needs its"):
        rollback_record(promoted("a", "b"), to=None, actor=actor, reason=reason, promoted_at=NOW)


@pytest.mark.parametrize("field", ["actor", "reason"])
def test_a_promotion_needs_actor_and_reason(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        PromotionDraft.model_validate(a_draft("a").model_dump() | {field: " "})


def test_the_gate_must_have_judged_the_promoted_model() -> None:
    draft = a_draft("a")
    model = draft.model.model_copy(update={"model_version": "b"})
    with pytest.raises(ValidationError, match="evaluate the model that is promoted"):
        PromotionDraft(use_case="fraud", model=model, actor="ana", reason="better")


def test_a_verdict_must_follow_from_its_rules() -> None:
    gate = a_draft("a", passed=False).model.gate
    with pytest.raises(ValidationError, match="its rules say otherwise"):
        GateRecord.model_validate(gate.model_dump() | {"passed": True})


@pytest.mark.parametrize(
    "change",
    [
        {"parent_sha256": None},
        {"previous_version": None},
        {"restores": 1},
        {"action": "rollback"},
        {"action": "rollback", "restores": 2},
    ],
    ids=str,
)
def test_a_record_out_of_place_is_refused(change: dict[str, object]) -> None:
    record = promoted("a", "b")[1]
    with pytest.raises(ValidationError):
        PromotionRecord.model_validate(record.model_dump() | change)


def test_damage_of_a_stored_record_shows_on_its_own() -> None:
    data = seal(promoted("a")[0])
    with pytest.raises(IntegrityError, match="p/1"):
        unseal(data.replace(b"better", b"bitter"), path="p/1")


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"schema_version":1', b'"schema_version":3'), (b'"promote"', b'"canary"'), (b"{", b"")],
    ids=["newer-schema", "newer-action", "cut"],
)
def test_a_record_this_code_cannot_read_is_refused(old: bytes, new: bytes) -> None:
    data = seal(promoted("a")[0]).replace(old, new, 1)
    with pytest.raises(ContractError, match="upgrade if a newer release wrote it"):
        unseal(data, path="p/1")
