"""Hash-chained logs: an entry names the sha256 of the one before it and is stored with its own.

So a change of any entry but the newest breaks the chain, and damage of the newest shows by itself.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ibook_assets.core.canonical import canonical_sha256
from ibook_assets.core.errors import ContractError, IntegrityError
from ibook_assets.core.manifest import Sha256


class ChainedEntry(BaseModel):
    """An entry of a use case's log."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sequence: Annotated[int, Field(ge=1)]
    parent_sha256: Sha256 | None
    """Hash of the entry before this one; None for the first."""
    use_case: str

    @model_validator(mode="after")
    def _only_the_first_has_no_parent(self) -> Self:
        if (self.sequence == 1) != (self.parent_sha256 is None):
            msg = f"entry {self.sequence}: only the first entry has no parent"
            raise ValueError(msg)
        return self

    @property
    def sha256(self) -> str:
        """Hash of this entry, which the next one names as its parent."""
        return canonical_sha256(self)


Entry = TypeVar("Entry", bound=ChainedEntry)


class Sealed(BaseModel, Generic[Entry]):
    """An entry as it is stored, with its hash; a form of its own for each log."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Sha256

    @property
    @abstractmethod
    def content(self) -> Entry:
        """What was sealed."""


def unsealed(form: type[Sealed[Entry]], data: bytes, *, path: str, what: str) -> Entry:
    """The entry stored as `data` in that form; errors name its `path`, and `what` it should be.

    Raises:
        IntegrityError: the entry does not have the hash stored with it.
        ContractError: it is no entry this code can read.
    """
    try:
        sealed = form.model_validate_json(data)
    except ValueError as error:
        msg = (
            f"{path} is not a {what}: restore the file from a copy, or upgrade if a newer release "
            f"wrote it ({error})"
        )
        raise ContractError(msg) from error
    found = sealed.content.sha256
    if found != sealed.sha256:
        raise IntegrityError(path=path, expected=sealed.sha256, found=found)
    return sealed.content


def verify_place(previous: ChainedEntry | None, entry: ChainedEntry, *, log: str) -> None:
    """ContractError unless `entry` stands right after `previous`, or first, in the `log`."""
    expected: tuple[int, str | None, str] = (1, None, entry.use_case)
    if previous is not None:
        expected = (previous.sequence + 1, previous.sha256, previous.use_case)
    found = (entry.sequence, entry.parent_sha256, entry.use_case)
    if found != expected:
        msg = (
            f"entry {entry.sequence} of the {entry.use_case} {log} breaks the chain: (sequence, "
            f"parent, use case) is {found}, must be {expected}. An entry was changed after it was "
            "written: restore the log from a copy."
        )
        raise ContractError(msg)
