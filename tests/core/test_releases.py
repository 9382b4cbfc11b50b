"""Release numbers: one a champion, in the order they became it, never another one later."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibook_assets.core.errors import NotFoundError
from ibook_assets.core.promotion import (
    Artefact,
    ArtefactFile,
    PromotedModel,
    PromotionDraft,
    PromotionRecord,
)
from ibook_assets.core.promotion_chain import challenge_record, next_record, rollback_record
from ibook_assets.core.releases import FIRST_RELEASE, RELEASE_PATTERN, named_version, releases
from ibook_assets.core.rollout import Entrant, entering, withdrawing
from tests.promotion_drafts import a_draft

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
WHO: dict[str, Any] = {"actor": "ana@ibook.test", "reason": "as agreed"}


class Made(NamedTuple):
    """A model by what its number depends on."""

    reads: int = 0
    """Definition of the view `velocity`."""
    trees: int = 0
    threshold: int = 0

    @property
    def version(self) -> str:
        return f"r{self.reads}t{self.trees}s{self.threshold}"

    @property
    def model(self) -> PromotedModel:
        described = ArtefactFile(name="bundle.json", sha256=digest(hash(self)), bytes=2)
        trees = ArtefactFile(name="model.ubj", sha256=digest(self.trees), bytes=3)
        artefact = Artefact(uri=f"promoted/fraud/{digest(hash(self))}", files=(described, trees))
        changes = {
            "spec_hashes": {"velocity": f"{self.reads:04d}"},
            "threshold": 0.1 * self.threshold,
        }
        return a_draft(self.version, artefact=artefact).model.model_copy(update=changes)


def digest(number: int) -> str:
    return f"{number % 2**64:064x}"


def promoted(*made: Made, log: Sequence[PromotionRecord] = ()) -> list[PromotionRecord]:
    found = list(log)
    for one in made:
        draft = PromotionDraft(use_case="fraud", model=one.model, **WHO)
        found.append(next_record(draft, previous=found[-1] if found else None, promoted_at=NOW))
    return found


def rolled_back(log: list[PromotionRecord], to: str | None = None) -> list[PromotionRecord]:
    return [*log, rollback_record(log, to=to, promoted_at=NOW, **WHO)]


def numbers(log: Sequence[PromotionRecord]) -> list[str]:
    return [str(release) for release in releases(log).values()]


def test_a_number_tells_what_changed_against_the_release_before() -> None:
    log = promoted(
        Made(),
        Made(trees=1),
        Made(trees=1, threshold=1),
        Made(trees=2, threshold=1),
        Made(reads=1, trees=2, threshold=1),
        Made(reads=1, trees=3),
    )
    assert numbers(log) == ["v1.0.0", "v1.1.0", "v1.1.1", "v1.2.0", "v2.0.0", "v2.1.0"]


def of_views(version: str, **views: str) -> PromotionDraft:
    """A model that reads those views by those definitions, with trees of its own."""
    model = Made(trees=int(version, 16)).model
    gate = model.gate.model_copy(update={"version": version})
    changes = {
        "model_version": version,
        "gate": gate,
        "spec_hashes": views,
        "feature_names": tuple(f"{view}:count" for view in views),
    }
    return PromotionDraft(use_case="fraud", model=model.model_copy(update=changes), **WHO)


@pytest.mark.parametrize(
    ("second", "third", "third_number"),
    [
        ({"a": "1"}, {"a": "1", "b": "1"}, "v1.2.0"),
        ({"a": "1"}, {"b": "1"}, "v1.2.0"),
        ({"a": "1"}, {"b": "2"}, "v2.0.0"),
        ({"a": "1", "c": "1"}, {"a": "1", "c": "2"}, "v2.0.0"),
    ],
    ids=["more views", "others", "as v1.0.0 did, defined otherwise", "defined otherwise"],
)
def test_only_another_definition_of_what_was_read_is_a_new_major_release(
    second: dict[str, str], third: dict[str, str], third_number: str
) -> None:
    log: list[PromotionRecord] = []
    for version, views in (("a1", {"a": "1", "b": "1"}), ("a2", second), ("a3", third)):
        draft = of_views(version, **views)
        log.append(next_record(draft, previous=log[-1] if log else None, promoted_at=NOW))
    assert numbers(log) == ["v1.0.0", "v1.1.0", third_number]


def test_a_model_keeps_its_number_through_rollbacks_and_promotions() -> None:
    log = rolled_back(promoted(Made(), Made(reads=1)))
    assert releases(log)[log[-1].model_version] == FIRST_RELEASE
    # What it reads is v1.0.0's, but v2.0.0 was released in between.
    log = promoted(Made(trees=1), Made(), log=log)
    assert numbers(log) == ["v1.0.0", "v2.0.0", "v3.0.0"]


def test_a_challenger_has_no_number_until_it_is_the_champion() -> None:
    log = promoted(Made())
    wanted = Entrant("canary", 0.1)
    draft = entering(log[-1], Made(trees=1).model, wanted, **WHO)
    log = [*log, challenge_record(draft, previous=log[-1], promoted_at=NOW)]
    assert list(releases(log)) == [Made().version]
    log = promoted(Made(trees=1), log=log)
    assert releases(log)[Made(trees=1).version] == (1, 1, 0)


MODELS = st.builds(Made, st.integers(0, 2), st.integers(0, 2), st.integers(0, 2))
STEPS = st.lists(
    st.tuples(st.sampled_from(["promote", "roll back", "challenge", "withdraw"]), MODELS),
    max_size=15,
)


def played(steps: Sequence[tuple[str, Made]]) -> list[PromotionRecord]:
    """A log of those steps; those that the log would refuse are left out."""
    log = promoted(Made())
    for action, made in steps:
        head = log[-1]
        champions = {r.model_version for r in log if r.action == "promote"}
        if action == "promote":
            log = promoted(made, log=log)
        elif action == "roll back" and made.version in champions - {head.model_version}:
            log = rolled_back(log, to=made.version)
        elif action == "challenge" and not head.challengers and made.version != head.model_version:
            draft = entering(head, made.model, Entrant("canary", 0.1), **WHO)
            log = [*log, challenge_record(draft, previous=head, promoted_at=NOW)]
        elif action == "withdraw" and head.challengers:
            draft = withdrawing(head, None, **WHO)
            log = [*log, challenge_record(draft, previous=head, promoted_at=NOW)]
    return log


@given(STEPS)
def test_numbers_are_one_a_champion_ascending_and_for_good(
    steps: list[tuple[str, Made]],
) -> None:
    log = played(steps)
    found = releases(log)
    champions = dict.fromkeys(record.model_version for record in log)
    assert list(found) == list(champions), "each champion, in the order of its first promotion"
    ascending = list(found.values())
    assert all(a < b for a, b in itertools.pairwise(ascending))
    for end in range(1, len(log)):
        earlier = releases(log[:end])
        assert earlier.items() <= found.items()
    by_number = {str(release): version for version, release in found.items()}
    assert {number: named_version("fraud", log, number) for number in by_number} == by_number
    assert {named_version("fraud", log, version) for version in found} == set(found)
    definitions = {found[r.model_version].major: r.model.spec_hashes for r in log}
    assert all(definitions[found[r.model_version].major] == r.model.spec_hashes for r in log)


@pytest.mark.parametrize("name", ["v9.0.0", "1.0.0", "v1.0", "v1.0.0 ", "v01.0.0"])
def test_an_unknown_number_names_the_known_ones(name: str) -> None:
    log = promoted(Made(), Made(trees=1))
    with pytest.raises(NotFoundError) as refused:
        named_version("fraud", log, name)
    assert f"no champion was ever release {name}; releases are: v1.0.0 (r0t0s0), v1.1.0 " in str(
        refused.value
    )
    with pytest.raises(NotFoundError, match="releases are: none yet"):
        named_version("fraud", [], name)


def test_of_many_numbers_the_newest_are_named() -> None:
    log = promoted(*(Made(trees=trees) for trees in range(23)))
    with pytest.raises(NotFoundError, match=r"releases are: 3 earlier, v1\.3\.0 .* v1\.22\.0 \("):
        named_version("fraud", log, "v9.0.0")


@given(STEPS)
def test_every_number_looks_like_one(steps: list[tuple[str, Made]]) -> None:
    assert all(re.match(RELEASE_PATTERN, number) for number in numbers(played(steps)))
