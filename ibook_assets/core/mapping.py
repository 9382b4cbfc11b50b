"""The declared mapping from somebody's file to the platform's columns: `user=…,event=…,…`."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ibook_assets.core.errors import ContractError
from ibook_assets.core.tables import OUTCOMES, TRANSACTIONS

LABEL_ROLE: Final = "label"
REQUIRED_ROLES: Final = ("user", "event", "amount", "time")
"""Without these a row is not a transaction; every other role is optional."""

_SHORT_NAMES: Final = {
    "transaction_id": "id",
    "occurred_ts": "time",
    "known_ts": "known",
    "amount_cents": "amount",
}


def _roles() -> dict[str, str]:
    roles = {
        _SHORT_NAMES.get(name, name.removesuffix("_id")): name for name in TRANSACTIONS.column_names
    }
    roles[LABEL_ROLE] = OUTCOMES.column("is_fraud").name
    return roles


ROLES: Final[Mapping[str, str]] = MappingProxyType(_roles())
"""Every role a file's column may play, and the platform's column it fills."""


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """Which column of a file plays which role. Hashable, so that parsed files can be cached by it.

    Example:
        >>> mapping = ColumnMapping.parse("user=CUSTOMER,event=SHOW,amount=PAID,time=AT")
        >>> mapping.column_of("amount")
        'PAID'
    """

    pairs: tuple[tuple[str, str], ...]
    """(role, the file's column), in the order of `ROLES`."""

    @classmethod
    def parse(cls, text: str) -> ColumnMapping:
        """The mapping written as `role=COLUMN,role=COLUMN`.

        A column whose name holds a comma is quoted with its role: `"user=Last, first"`.

        Raises:
            ContractError: an unknown, repeated or missing role, or an entry without a column.
        """
        found: dict[str, str] = {}
        for entry in next(csv.reader([text], skipinitialspace=True), []):
            role, separator, column = (part.strip() for part in entry.partition("="))
            if not (separator and role and column):
                msg = f"mapping entry {entry!r} is not `role=COLUMN`; roles: {list(ROLES)}"
                raise ContractError(msg)
            if role not in ROLES:
                msg = (
                    f"unknown role {role!r} in the mapping; roles: {list(ROLES)}."
                    f"{_did_you_mean(role, ROLES)}"
                )
                raise ContractError(msg)
            if role in found:
                msg = f"role {role!r} is mapped twice, to {found[role]!r} and {column!r}; keep one"
                raise ContractError(msg)
            found[role] = column
        missing = [role for role in REQUIRED_ROLES if role not in found]
        if missing:
            msg = (
                f"the mapping {text!r} leaves out {missing}; required roles: "
                f"{list(REQUIRED_ROLES)}, for example user=A,event=B,amount=C,time=D,label=E"
            )
            raise ContractError(msg)
        return cls(tuple((role, found[role]) for role in ROLES if role in found))

    def column_of(self, role: str) -> str | None:
        """The file's column that plays `role`; None when no column does."""
        return dict(self.pairs).get(role)

    @property
    def file_columns(self) -> tuple[str, ...]:
        """Columns to read from the file, each once."""
        return tuple(dict.fromkeys(column for _, column in self.pairs))

    def check(self, available: Collection[str], *, source: str) -> None:
        """ContractError when `source`, whose columns are `available`, lacks a mapped column."""
        for role, column in self.pairs:
            if column not in available:
                msg = (
                    f"{source} has no column {column!r} (role {role!r}); it has "
                    f"{list(available)}.{_did_you_mean(column, available)} "
                    "Correct the mapping or the file's header."
                )
                raise ContractError(msg)

    def __str__(self) -> str:
        entries = (f"{role}={column}" for role, column in self.pairs)
        return ",".join(f'"{entry}"' if "," in entry else entry for entry in entries)


def _did_you_mean(name: str, known: Collection[str]) -> str:
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f" Did you mean {by_lower[close[0]]!r}?" if close else ""
