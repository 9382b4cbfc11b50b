"""What the lake says beside the numbers: the newest promotions, and how far features drifted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ibook_assets.core.canonical import canonical_sha256, sha256_hex
from ibook_assets.core.errors import ContractError, IbookError
from ibook_assets.core.monitoring.record import DriftRecord
from ibook_assets.core.promotion import PromotionRecord
from ibook_assets.core.promotion_chain import rollback_record
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.drift_days import drift_records
from ibook_assets.stores.promotions import PromotionLog, utc_now

PROMOTIONS_SHOWN: Final = 10
"""Newest entries of the log that are shown."""

_LAST_DAY: Final = "9999-12-31"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was read of the lake. What could not be read is as it was before, and why is said."""

    use_case: str
    promotions: tuple[PromotionRecord, ...] = ()
    """The newest entries of the log, newest first."""
    placed: tuple[tuple[int, datetime], ...] = ()
    """Each entry that put a champion in its place, and when; newest first."""
    rollback_to: str | None = None
    """Version that a rollback would bring back; None when there is none before."""
    drift: DriftRecord | None = None
    """The newest day's record; None before the first."""
    promotions_problem: str | None = None
    drift_problem: str | None = None

    @property
    def sequence(self) -> int | None:
        """The log's newest entry."""
        return self.promotions[0].sequence if self.promotions else None

    def champion_since(self, served: int | None) -> datetime | None:
        """When the champion of entry `served` got its place, whatever challenged it since."""
        if served is None:
            return None
        return next((when for sequence, when in self.placed if sequence <= served), None)

    def digest(self, served: int | None) -> str:
        """Differs when something shown differs; `served` is the entry that answers now."""
        newest = self.promotions[0].sha256 if self.promotions else None
        drift = None if self.drift is None else canonical_sha256(self.drift)
        shown = (served, newest, drift, self.promotions_problem, self.drift_problem)
        return sha256_hex(repr(shown).encode())[:16]


class EvidenceReader:
    """Reads the evidence of one use case, the log's entries only once."""

    def __init__(self, blobs: Blobs, use_case: str) -> None:
        self._blobs = blobs
        self._promotions = PromotionLog(blobs)
        self._use_case = use_case
        self._log: list[PromotionRecord] = []
        self._rollback_to: str | None = None
        self._drift: DriftRecord | None = None

    def read(self) -> Evidence:
        """The evidence as it is now; for a thread, it may take as long as the lake does."""
        promotions_problem = self._problem(self._read_promotions)
        drift_problem = self._problem(self._read_drift)
        return Evidence(
            self._use_case,
            tuple(self._log[: -PROMOTIONS_SHOWN - 1 : -1]),
            placed=tuple(
                (entry.sequence, entry.promoted_at)
                for entry in reversed(self._log)
                if entry.action != "challenge"
            ),
            rollback_to=self._rollback_to,
            drift=self._drift,
            promotions_problem=promotions_problem,
            drift_problem=drift_problem,
        )

    def _problem(self, reading: Callable[[], None]) -> str | None:
        try:
            reading()
        except IbookError as error:
            return str(error).replace(self._blobs.uri, "…")
        return None

    def _read_promotions(self) -> None:
        known = self._log[-1] if self._log else None
        newest = self._promotions.current(self._use_case, known=known)
        if newest != known:
            self._log = self._promotions.history(self._use_case)
            self._rollback_to = _rollback_to(self._log)

    def _read_drift(self) -> None:
        newest = drift_records(self._blobs, self._use_case, until=_LAST_DAY, days=1)
        self._drift = newest[-1] if newest else None


def _rollback_to(log: list[PromotionRecord]) -> str | None:
    try:
        entry = rollback_record(log, to=None, actor="-", reason="-", promoted_at=utc_now())
    except ContractError:
        return None
    return entry.model_version
