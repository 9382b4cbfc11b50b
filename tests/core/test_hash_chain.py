"""A log that holds together: entries in their place, damage shown, a stored form of its own."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from ibook_assets.core.errors import ContractError, IntegrityError
from ibook_assets.core.hash_chain import ChainedEntry, verify_place
from ibook_assets.core.rollout_log import RolloutEntry, seal_entry, unseal_entry
from ibook_assets.core.rollout_plan import RolloutPlan


class Note(ChainedEntry):
    """The least that an entry says."""

    text: str


def notes(*texts: str) -> list[Note]:
    log: list[Note] = []
    for sequence, text in enumerate(texts, start=1):
        parent = log[-1].sha256 if log else None
        log.append(Note(sequence=sequence, parent_sha256=parent, use_case="fraud", text=text))
    return log


def a_candidate() -> RolloutEntry:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return RolloutEntry(
        sequence=1,
        parent_sha256=None,
        use_case="fraud",
        version="v2",
        state="candidate",
        decided=1,
        since=at,
        champion="v1",
        plan=RolloutPlan(
            shadow_seconds=1, shares=(0.1,), watch_seconds=1, window_seconds=1, settle_seconds=0
        ),
        model=None,
        actor="ana@ibook.test",
        reason="better",
        at=at,
    )


def test_entries_in_their_place_are_a_chain() -> None:
    first, second = notes("a", "b")
    verify_place(None, first, log="notes")
    verify_place(first, second, log="notes")


@pytest.mark.parametrize(
    "changed",
    [{"text": "other"}, {"sequence": 3}, {"use_case": "pricing"}],
    ids=["a changed entry", "a lost entry", "another log"],
)
def test_an_entry_that_does_not_follow_is_named(changed: dict[str, Any]) -> None:
    first, second = notes("a", "b")
    with pytest.raises(ContractError, match="entry 2 of the fraud notes breaks the chain"):
        verify_place(first.model_copy(update=changed), second, log="notes")


@pytest.mark.parametrize(("sequence", "parent"), [(1, "0" * 64), (2, None)], ids=["has", "lacks"])
def test_only_the_first_entry_has_no_parent(sequence: int, parent: str | None) -> None:
    with pytest.raises(ValidationError, match="only the first entry has no parent"):
        Note(sequence=sequence, parent_sha256=parent, use_case="fraud", text="a")


def test_a_rollouts_entries_are_stored_as_they_always_were() -> None:
    entry = a_candidate()
    assert entry.sha256 == "ea48dde7740e238012c6dcb208c849cf38f87b8a790ca28568f3806781092620"
    data = seal_entry(entry)
    assert data.startswith(b'{"entry":{"actor":"ana@ibook.test",')
    assert data.endswith(b'"sha256":"%s"}' % entry.sha256.encode())
    assert unseal_entry(data, path="p") == entry


def test_damage_of_a_stored_entry_shows_on_its_own() -> None:
    data = seal_entry(a_candidate())
    with pytest.raises(IntegrityError, match="p/1"):
        unseal_entry(data.replace(b"better", b"bitter"), path="p/1")
    with pytest.raises(ContractError, match="p/1 is not a rollout entry of schema version 1"):
        unseal_entry(data[:-1], path="p/1")
