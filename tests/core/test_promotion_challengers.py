"""Challengers in the promotion record: what may stand beside a champion, and older entries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ibook_assets.core.canonical import canonical_json
from ibook_assets.core.errors import ConflictError, ContractError, NotFoundError
from ibook_assets.core.promotion import (
    ChallengeDraft,
    Challenger,
    PromotedModel,
    PromotionRecord,
    seal,
    unseal,
)
from ibook_assets.core.promotion_chain import (
    challenge_record,
    is_rollback,
    next_record,
    rollback_record,
    verify_chain,
)
from ibook_assets.core.rollout import Entrant, entering, known_models, withdrawing
from tests.promotion_drafts import NOW, a_draft, promoted

WHO = {"actor": "ana@ibook.test", "reason": "looks better"}
VERSION_1 = Path(__file__).with_name("promotions_v1.jsonl").read_bytes().splitlines()
"""A log as it was stored before challengers existed: two promotions, one rollback."""


def model(version: str) -> PromotedModel:
    return a_draft(version).model


def entered(log: list[PromotionRecord], version: str, entrant: Entrant) -> list[PromotionRecord]:
    draft = entering(log[-1], model(version), entrant, **WHO)
    return [*log, challenge_record(draft, previous=log[-1], promoted_at=NOW)]


def withdrawn(log: list[PromotionRecord], variant: str | None = None) -> list[PromotionRecord]:
    draft = withdrawing(log[-1], variant, **WHO)
    return [*log, challenge_record(draft, previous=log[-1], promoted_at=NOW)]


def rolled_back(log: list[PromotionRecord], to: str | None = None) -> list[PromotionRecord]:
    return [*log, rollback_record(log, to=to, promoted_at=NOW, **WHO)]


def shares(record: PromotionRecord) -> list[tuple[str, str, float]]:
    return [(c.variant, c.model.model_version, c.share) for c in record.challengers]


CANARY = Entrant("canary", 0.05)
SHADOW = Entrant("shadow")
TREATMENT = Entrant("treatment", 0.5, experiment="exp-1")


def test_entries_of_version_1_are_read_and_keep_their_bytes_and_hashes() -> None:
    log = [unseal(line, path="p") for line in VERSION_1]
    verify_chain(log)
    assert [seal(record) for record in log] == VERSION_1
    assert [record.sha256 for record in log] == [json.loads(line)["sha256"] for line in VERSION_1]
    assert [record.challengers for record in log] == [(), (), ()]
    longer = rolled_back(entered(log, "c", CANARY), to="b")
    verify_chain(longer)
    assert [record.schema_version for record in longer] == [1, 1, 1, 2, 1]


def test_only_an_entry_that_needs_it_has_version_2() -> None:
    log = entered(promoted("a"), "b", CANARY)
    assert b"challengers" not in canonical_json(log[0])
    assert b"challengers" in canonical_json(log[1])
    assert [json.loads(seal(r))["record"]["schema_version"] for r in log] == [1, 2]
    with pytest.raises(ValidationError, match="needs schema version 2"):
        PromotionRecord.model_validate(log[1].model_dump() | {"schema_version": 1})


STEPS = ("promote", "rollback", "canary", "shadow", "treatment", "withdraw")


@given(st.lists(st.sampled_from(STEPS), max_size=12))
def test_every_history_with_challengers_is_a_valid_chain(steps: list[str]) -> None:
    log = promoted("v0", "v0b")
    for i, step in enumerate(steps, start=1):
        stages: dict[str, Entrant] = {"canary": CANARY, "shadow": SHADOW, "treatment": TREATMENT}
        try:
            if step == "promote":
                log = [*log, next_record(a_draft(f"v{i}"), previous=log[-1], promoted_at=NOW)]
            elif step == "rollback":
                log = rolled_back(log)
            elif step == "withdraw":
                log = withdrawn(log)
            else:
                log = entered(log, f"v{i}", stages[step])
        except (ContractError, NotFoundError):
            continue
    verify_chain(log)
    assert [unseal(seal(record), path="p") for record in log] == log
    known = known_models(log)
    now = log[-1]
    assert [k.model for k in known if k.state == "champion"] == [now.model]
    assert [k.model for k in known[1 : 1 + len(now.challengers)]] == [
        c.model for c in now.challengers
    ]
    assert {k.model.model_version for k in known} == {
        m.model_version for r in log for m in (r.model, *(c.model for c in r.challengers))
    }


def test_a_challenge_keeps_the_champion_and_a_promotion_clears_the_challengers() -> None:
    log = entered(promoted("a"), "b", CANARY)
    assert (log[-1].model_version, log[-1].previous_version) == ("a", "a")
    assert shares(log[-1]) == [("canary", "b", 0.05)]
    log = [*log, next_record(a_draft("b"), previous=log[-1], promoted_at=NOW)]
    assert (log[-1].challengers, log[-1].salt, log[-1].previous_version) == ((), None, "a")
    log = rolled_back(entered(log, "c", SHADOW))
    assert (log[-1].model_version, log[-1].challengers) == ("a", ())
    verify_chain(log)


def test_a_challenge_that_changes_the_champion_breaks_the_chain() -> None:
    log = entered(promoted("a"), "b", CANARY)
    log[1] = log[1].model_copy(update={"model": model("x")})
    with pytest.raises(ContractError, match="entry 2 challenges the champion and names another"):
        verify_chain(log)


def test_rollback_counts_promotions_not_challenges() -> None:
    log = promoted("a", "b")
    log = withdrawn(entered(entered(log, "c", SHADOW), "c", CANARY))
    log = rolled_back(log)
    assert (log[-1].model_version, log[-1].restores) == ("a", 1)
    with pytest.raises(ContractError, match="a is the first model ever promoted"):
        rolled_back(entered(log, "c", CANARY))


def test_a_retried_rollback_is_known_by_what_it_would_give() -> None:
    log = rolled_back(promoted("a", "b", "c"))
    assert is_rollback(log, to=None, **WHO)
    assert is_rollback(log, to="b", **WHO)
    assert not is_rollback(log, to="a", **WHO)
    assert not is_rollback(log, to=None, actor="bob", reason="looks better")
    assert not is_rollback(promoted("a", "b"), to=None, **WHO)


def test_users_stay_where_they_are_while_a_share_grows_and_a_shadow_joins() -> None:
    log = entered(promoted("a"), "b", CANARY)
    grown = entered(entered(log, "b", Entrant("canary", 0.2)), "c", SHADOW)
    before, after = log[-1].routing, grown[-1].routing
    chosen = {user for user in range(2_000) if before.assign(user) == "canary"}
    assert chosen < {user for user in range(2_000) if after.assign(user) == "canary"}
    assert grown[-1].salt == log[-1].salt == "b"
    assert after.shadows(7) == ("shadow",)


def test_an_experiment_hashes_with_a_salt_of_its_own_and_names_the_control() -> None:
    log = entered(promoted("a"), "b", TREATMENT)
    assert (log[-1].experiment, log[-1].salt) == ("exp-1", "exp-1")
    answers = {log[-1].routing.assign(user) for user in range(100)}
    assert answers == {"treatment", "control"}
    assert {log[0].routing.assign(user) for user in range(100)} == {"champion"}
    other = entered(promoted("a"), "b", Entrant("treatment", experiment="exp-2"))
    assert other[-1].salt == "exp-2"
    assert withdrawn(entered(log, "c", SHADOW), "treatment")[-1].experiment is None


def test_a_model_moves_from_stage_to_stage() -> None:
    log = entered(entered(promoted("a"), "b", SHADOW), "c", Entrant("shadow", variant="shadow-c"))
    assert shares(log[-1]) == [("shadow", "b", 1.0), ("shadow-c", "c", 1.0)]
    log = entered(log, "b", Entrant("canary"))
    assert shares(log[-1]) == [("shadow-c", "c", 1.0), ("canary", "b", 0.05)]
    log = entered(log, "b", Entrant("canary", 0.0))
    assert shares(log[-1])[1] == ("canary", "b", 0.0)
    assert shares(withdrawn(log, "canary")[-1]) == [("shadow-c", "c", 1.0)]
    assert withdrawn(log)[-1].challengers == ()


def test_an_a_a_experiment_is_the_champion_against_itself() -> None:
    log = entered(promoted("a"), "a", TREATMENT)
    assert shares(log[-1]) == [("treatment", "a", 0.5)]
    assert [(k.variant, k.state) for k in known_models(log)] == [
        ("control", "champion"),
        ("treatment", "treatment"),
    ]
    for stage in (CANARY, SHADOW):
        with pytest.raises(ContractError, match="a is the champion; only a treatment"):
            entered(promoted("a"), "a", stage)


def test_a_taken_place_is_named() -> None:
    log = entered(promoted("a"), "b", CANARY)
    with pytest.raises(ConflictError, match="canary is b already; withdraw it first"):
        entered(log, "c", CANARY)
    running = entered(promoted("a"), "b", TREATMENT)
    with pytest.raises(ConflictError, match="experiment exp-1 is running"):
        entered(running, "c", Entrant("treatment", 0.1, experiment="exp-2", variant="treatment-c"))


@pytest.mark.parametrize(
    ("entrant", "message"),
    [
        (Entrant("canary", 0.6, variant="canary-c"), "add up to 1.1, more than everybody"),
        (TREATMENT, "a canary and a treatment cannot run at once"),
        (Entrant("shadow", experiment="exp-1"), "a shadow belongs to no experiment"),
    ],
    ids=["too-much", "two-kinds", "shadow-experiment"],
)
def test_challengers_that_do_not_go_together_are_refused(entrant: Entrant, message: str) -> None:
    log = entered(promoted("a"), "b", Entrant("canary", 0.5))
    with pytest.raises(ContractError, match=message):
        entered(log, "c", entrant)


def test_a_treatment_needs_its_experiment() -> None:
    with pytest.raises(ContractError, match="a treatment belongs to an experiment"):
        entered(promoted("a"), "b", Entrant("treatment", 0.5))


def test_who_does_not_challenge_cannot_be_withdrawn() -> None:
    with pytest.raises(NotFoundError, match=r"canary challenges; challengers are \['shadow'\]"):
        withdrawn(entered(promoted("a"), "b", SHADOW), "canary")
    with pytest.raises(NotFoundError, match="nothing challenges"):
        withdrawn(promoted("a"))


def challenger(**changes: object) -> Challenger:
    whole = {"variant": "canary", "stage": "canary", "share": 0.1, "model": model("b")}
    return Challenger.model_validate(whole | changes)


@pytest.mark.parametrize(
    "change",
    [
        {"share": 1.01},
        {"share": -0.1},
        {"share": float("nan")},
        {"variant": "control"},
        {"variant": "canaries"},
        {"variant": "canary-../x"},
        {"stage": "champion"},
    ],
    ids=str,
)
def test_a_challenger_out_of_range_is_refused(change: dict[str, object]) -> None:
    assert challenger(variant="canary-2").variant == "canary-2"
    with pytest.raises(ValidationError):
        challenger(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"salt": None}, "challengers come with a salt"),
        ({"challengers": ()}, "a salt with challengers"),
        ({"experiment": "exp-1"}, "an experiment has one"),
        ({"action": "promote"}, "a promote clears the challengers"),
        ({"challengers": (challenger(), challenger())}, "variant canary challenges twice"),
        (
            {"challengers": (challenger(), challenger(variant="canary-2"))},
            "model version b challenges twice",
        ),
        ({"challengers": (challenger(model=model("a")),)}, "a is the champion"),
        (
            {"challengers": (challenger(model=a_draft("b", passed=False).model),)},
            "the gate of b is closed",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_record_with_unsound_challengers_is_refused(change: dict[str, Any], message: str) -> None:
    record = entered(promoted("a"), "b", CANARY)[1]
    with pytest.raises(ValidationError, match=message):
        PromotionRecord.model_validate({**dict(record), **change})


def test_the_gate_must_have_judged_each_challenger() -> None:
    elsewhere = model("b").model_copy(update={"gate": a_draft("x").model.gate})
    with pytest.raises(ValidationError, match="evaluate the model that is promoted"):
        ChallengeDraft(
            use_case="fraud", challengers=(challenger(model=elsewhere),), salt="b", **WHO
        )


def test_a_challenge_answers_only_its_own_draft() -> None:
    log = promoted("a")
    draft = entering(log[0], model("b"), CANARY, **WHO)
    record = challenge_record(draft, previous=log[0], promoted_at=NOW)
    parent = log[0].sha256
    assert record.answers(draft, parent_sha256=parent)
    assert not record.answers(draft, parent_sha256=record.sha256)
    assert not record.answers(a_draft("b"), parent_sha256=parent)
    for change in ({"actor": "bob"}, {"salt": "other"}, {"challengers": (challenger(),)}):
        assert not record.answers(draft.model_copy(update=change), parent_sha256=parent)
    assert record.subject == "challenge of a by canary b (0.05)"


def test_what_became_of_each_model_and_since_when() -> None:
    log = promoted("a", "b")  # entries 1 and 2
    log = entered(entered(log, "c", SHADOW), "d", CANARY)  # 3 and 4
    log = withdrawn(entered(log, "d", Entrant("canary", 0.25)), "shadow")  # 5 and 6
    found = [(k.model.model_version, k.state, k.share, k.since.sequence) for k in known_models(log)]
    assert found == [
        ("b", "champion", 0.75, 2),
        ("d", "canary", 0.25, 5),
        ("c", "archived", None, 6),
        ("a", "archived", None, 2),
    ]
