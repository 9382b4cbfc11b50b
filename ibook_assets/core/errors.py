"""Errors ibook raises on purpose.

IbookError
├── ContractError             data or a record breaks a declared contract; never retried
│   ├── UnknownFeatureError   a model or request names a feature that no view defines
│   ├── IntegrityError        stored bytes do not match the hash recorded for them
│   ├── NotFoundError         a partition, record or file that should exist does not
│   └── ConflictError         somebody else committed first; re-read, then decide again
├── GateClosedError           a challenger is not good enough to be promoted
├── StoreUnavailableError     a broker, store or registry did not answer; safe to retry
├── RunNotLiveError           the run that wants to commit has ended or was cancelled
└── NoPromotedModelError      nothing has been promoted for this use case yet

Each carries what the caller needs as attributes; messages name the value found, the value
allowed, and the next step.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection


class IbookError(Exception):
    """Base of every error ibook raises on purpose."""


class ContractError(IbookError):
    """Data or a record breaks a declared contract. Retrying cannot help."""


class UnknownFeatureError(ContractError):
    """A model asks for a feature that no feature view defines."""

    def __init__(self, *, missing: Collection[str], known: Collection[str]) -> None:
        self.missing = tuple(sorted(missing))
        self.known = tuple(sorted(known))
        close = difflib.get_close_matches(self.missing[0], self.known, n=1) if self.missing else []
        hint = f" Did you mean {close[0]!r}?" if close else ""
        super().__init__(
            f"unknown features {_shown(self.missing)}; defined: {_shown(self.known)}.{hint} "
            "`ibook features` lists all. Define it in ibook_assets/core/features/catalog.py and "
            "rematerialise its view, or retrain the model."
        )


def _shown(names: Collection[str], limit: int = 5) -> str:
    """The first of `names`, and how many more there are."""
    more = len(names) - limit
    return f"{list(names)[:limit]}" + (f" and {more} more" if more > 0 else "")


class IntegrityError(ContractError):
    """Stored bytes do not match the hash recorded for them."""

    def __init__(self, *, path: str, expected: str, found: str) -> None:
        self.path = path
        self.expected = expected
        self.found = found
        super().__init__(
            f"{path} has sha256 {found}, its record says {expected}. The file was changed after it "
            "was written: restore it from a copy, or rematerialise the asset that wrote it."
        )


class NotFoundError(ContractError):
    """A partition, record or file that should exist does not."""


class ConflictError(ContractError):
    """Somebody else committed first."""


class GateClosedError(IbookError):
    """A challenger failed a gate that promotion requires."""

    def __init__(self, *, use_case: str, failures: Collection[str]) -> None:
        self.use_case = use_case
        self.failures = tuple(failures)
        super().__init__(
            f"{use_case}: the gate is closed: {'; '.join(self.failures)}. "
            "Look at the evaluation asset's report; a new challenger needs a new training run."
        )


class StoreUnavailableError(IbookError):
    """A broker, store or registry did not answer in time. Safe to retry."""


class RunNotLiveError(IbookError):
    """The run that wants to commit has ended, so its result must not become visible."""

    def __init__(self, *, run_id: str, status: str) -> None:
        self.run_id = run_id
        self.status = status
        super().__init__(
            f"run {run_id} is {status}, only a started run may commit. Nothing was written; "
            "launch the materialisation again."
        )


class NoPromotedModelError(IbookError):
    """No model has been promoted for this use case."""

    def __init__(self, use_case: str) -> None:
        self.use_case = use_case
        super().__init__(
            f"no {use_case} model has been promoted yet. Run `make demo`, or materialise "
            f"{use_case}/promotion in Dagster."
        )
