"""Release numbers of models: `v1.2.0`, computed from the promotion log and kept nowhere else.

The first champion of a use case is v1.0.0. Each later one is numbered by what it changes against
the release before it, which is the newest by then, whoever served last:

- major: it reads a feature view by another definition than a release of the same major number, so
  that no server can serve both;
- minor: its trees. Which features they read of the same definitions is what training found useful;
- patch: how the same trees are used, that is calibration and threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from ibook_assets.core.errors import NotFoundError
from ibook_assets.core.promotion import TREES_FILE, PromotedModel, PromotionRecord

RELEASE_PATTERN: Final = r"^v[1-9][0-9]{0,5}\.(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})$"
"""What a release number looks like. No model version has a dot, so neither is ever the other."""


_SHOWN: Final = 20
"""Releases that a message names, the newest."""


class Release(NamedTuple):
    """A release number; they compare as numbers do."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        """`v1.2.0`."""
        return f"v{self.major}.{self.minor}.{self.patch}"


FIRST_RELEASE: Final = Release(1, 0, 0)


def releases(log: Sequence[PromotionRecord]) -> dict[str, Release]:
    """The release of every version that was ever the champion, in the order they became it.

    A model keeps its number for good: a rollback or a second promotion gives it no other, and later
    entries change nothing. A challenger that never was the champion has none.

    Args:
        log: promotion log of one use case, all of it, oldest first.
    """
    found: dict[str, Release] = {}
    newest: PromotedModel | None = None
    definitions: dict[str, str] = {}
    for record in log:
        model = record.model
        if model.model_version in found:
            continue
        agrees = all(definitions.get(v, sha) == sha for v, sha in model.spec_hashes.items())
        if newest is None:
            release = FIRST_RELEASE
        else:
            release = _following(found[newest.model_version], newest, model, agrees=agrees)
        found[model.model_version] = release
        definitions = {**(definitions if agrees else {}), **model.spec_hashes}
        newest = model
    return found


def named_version(use_case: str, log: Sequence[PromotionRecord], name: str) -> str:
    """The model version that `name` stands for: a release number's, or else `name` itself.

    Raises:
        NotFoundError: no model of `log` has that release number; names the newest that there are.
    """
    if "." not in name:
        return name
    known = {str(release): version for version, release in releases(log).items()}
    if name not in known:
        told = [f"{release} ({version})" for release, version in known.items()]
        earlier = f"{len(told) - _SHOWN} earlier, " if len(told) > _SHOWN else ""
        listed = ", ".join(told[-_SHOWN:]) or "none yet"
        msg = f"{use_case}: no champion was ever release {name}; releases are: {earlier}{listed}"
        raise NotFoundError(msg)
    return known[name]


def _following(
    release: Release, before: PromotedModel, model: PromotedModel, *, agrees: bool
) -> Release:
    """The number of `model`, released after `before`, which is `release`."""
    if not agrees:
        return Release(release.major + 1, 0, 0)
    if _trees(model) != _trees(before):
        return Release(release.major, release.minor + 1, 0)
    return Release(release.major, release.minor, release.patch + 1)


def _trees(model: PromotedModel) -> str:
    # Where an artefact has no such file, the whole of it is what was trained.
    return model.artefact.sha256.get(TREES_FILE, model.artefact.identity)
