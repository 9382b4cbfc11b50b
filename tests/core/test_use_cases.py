"""Use cases: specs that hold together, refused when they do not."""

from dataclasses import replace

import pytest

from ibook_assets.core.errors import ContractError
from ibook_assets.core.features.catalog import resolve
from ibook_assets.core.use_cases import FRAUD, USE_CASES, Span, UseCase


@pytest.mark.parametrize("use_case", USE_CASES.values(), ids=list(USE_CASES))
def test_every_feature_exists_once_and_none_is_ground_truth(use_case: UseCase) -> None:
    assert len(set(use_case.features)) == len(use_case.features)
    for name in use_case.features:
        view, feature = resolve(name)
        assert view.name in use_case.views
        sources = {a.source for a in view.aggregations}
        assert sources <= {"transactions", "outcomes", "views", "refunds"}
        assert feature.name not in {"posterior", "archetype", "row_posterior"}


@pytest.mark.parametrize("use_case", USE_CASES.values(), ids=list(USE_CASES))
def test_each_view_carries_the_hash_of_its_definition(use_case: UseCase) -> None:
    assert set(use_case.spec_hashes) == set(use_case.views)
    assert all(len(digest) == 64 for digest in use_case.spec_hashes.values())


@pytest.mark.parametrize(
    "change",
    [
        {"entity": "usr"},
        {"views": ("no_such_view",)},
        {"views": ()},
        {"name": "../fraud"},
        {"dimensions": (("posterior", ()),)},
    ],
    ids=["entity", "view", "no views", "name", "truth as dimension"],
)
def test_a_spec_that_cannot_be_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ContractError):
        replace(FRAUD, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("bounds", [(2, 1, False), (0, 1, True)], ids=["empty", "log of zero"])
def test_an_impossible_span_is_refused(bounds: tuple[float, float, bool]) -> None:
    with pytest.raises(ContractError):
        Span(*bounds)
