"""Records by day in the lake: each day's newest, their history, and the days right before one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from ibook_assets.core.canonical import canonical_json
from ibook_assets.core.errors import ContractError, NotFoundError
from ibook_assets.stores.blobs import Blobs

RECORD: Final = "decision.json"

Record = TypeVar("Record", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class DailyRecords(Generic[Record]):
    """Records of one kind, in `<folder>/dt=<day>/`."""

    blobs: Blobs
    folder: str
    form: type[Record]
    asset: str
    """What makes them."""

    def store(self, day: str, record: Record, *, precommit: Callable[[], None]) -> str:
        """Keep `record` as its day's newest; the key it lies under."""
        key = self._key(day)
        precommit()
        self.blobs.put(key, canonical_json(record))
        return key

    def newest(self, *, until: str, days: int) -> list[Record]:
        """The newest `days` records up to the day `until`, oldest first."""
        start = f"{self.folder}/dt="
        keys = sorted(key for key in self.blobs.list(f"{self.folder}/") if key.endswith(RECORD))
        known = [key for key in keys if key[len(start) :].partition("/")[0] <= until]
        return [self._read(key) for key in known[-days:]]

    def right_before(self, day: str, *, days: int) -> list[Record]:
        """Records of up to `days` days that end the day before `day`, without a gap."""
        found = []
        for back in range(days, 0, -1):
            before = (date.fromisoformat(day) - timedelta(days=back)).isoformat()
            try:
                found.append(self._read(self._key(before)))
            except NotFoundError:
                found.clear()  # a gap: what is further back does not stand in a row with `day`
        return found

    def _key(self, day: str) -> str:
        return f"{self.folder}/dt={day}/{RECORD}"

    def _read(self, key: str) -> Record:
        try:
            return self.form.model_validate_json(self.blobs.get(key))
        except ValidationError as error:
            msg = (
                f"{self.blobs.location(key)} is not a record of {self.asset} of schema version 1 "
                f"({error.error_count()} errors); materialise that day of {self.asset} again"
            )
            raise ContractError(msg) from error
