"""Hash-chained logs: numbered entries, each created exclusively, so one winner per parent.

There is no pointer that could disagree with a log: its newest entry has the highest number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic

from ibook_assets.core.errors import ConflictError, ContractError, NotFoundError
from ibook_assets.core.hash_chain import Entry
from ibook_assets.core.ids import check_name
from ibook_assets.stores.blobs import Blobs


class ChainedLog(Generic[Entry]):
    """One log a use case in `blobs`, in `folder` with the use case in place of the braces."""

    def __init__(
        self,
        blobs: Blobs,
        folder: str,
        *,
        seal: Callable[[Entry], bytes],
        unseal: Callable[..., Entry],
    ) -> None:
        self._blobs = blobs
        self._folder = folder
        self._seal = seal
        self._unseal = unseal

    def entries(self, use_case: str) -> Iterator[Entry]:
        """The entries that are there, oldest first."""
        return (self._read(key, use_case) for key in self._blobs.list(self._folder_of(use_case)))

    def newest(self, use_case: str) -> Entry | None:
        """The entry with the highest number; None when there is none."""
        keys = self._blobs.list(self._folder_of(use_case))
        return self._read(keys[-1], use_case) if keys else None

    def find(self, use_case: str, sequence: int) -> Entry | None:
        """The entry with that number; None when there is none."""
        try:
            return self._read(self.key(use_case, sequence), use_case)
        except NotFoundError:
            return None

    def append(self, entry: Entry, *, lost: Callable[[Entry], ConflictError]) -> Entry:
        """Store `entry`; if somebody was faster, raise what `lost` says of their entry."""
        key = self.key(entry.use_case, entry.sequence)
        try:
            self._blobs.create(key, self._seal(entry))
        except ConflictError as error:
            raise lost(self._read(key, entry.use_case)) from error
        return entry

    def key(self, use_case: str, sequence: int) -> str:
        """Where the entry with that number is."""
        return f"{self._folder_of(use_case)}{sequence:012d}.json"

    def _folder_of(self, use_case: str) -> str:
        return self._folder.format(check_name(use_case, what="use case"))

    def _read(self, key: str, use_case: str) -> Entry:
        path = self._blobs.location(key)
        entry = self._unseal(self._blobs.get(key), path=path)
        if (key, use_case) != (self.key(use_case, entry.sequence), entry.use_case):
            msg = (
                f"{path} holds entry {entry.sequence} of {entry.use_case}: it was copied there; "
                "restore the log from a copy"
            )
            raise ContractError(msg)
        return entry
