"""Requests as integers: the columns of facts/transactions out of mappings, checked."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Final

import pyarrow as pa

from ibook_assets.core.errors import ContractError
from ibook_assets.core.facts import FACT_TRANSACTIONS
from ibook_assets.core.features.kernel import MISSING
from ibook_assets.core.features.spec import codes_of
from ibook_assets.core.ids import MAX_ID, entity_id

RequestValue = int | str | bool | None
Request = Mapping[str, RequestValue]
"""One order in columns of facts/transactions; a column left out or None is unknown."""

_COLUMNS: Final = {column.name: column for column in FACT_TRANSACTIONS.columns}
_TEXTS: Final = {
    name: {text: code for code, text in enumerate(codes)}
    for name, column in _COLUMNS.items()
    if (codes := codes_of(FACT_TRANSACTIONS, name)) and pa.types.is_string(column.type)
}
_FLAGS: Final = frozenset(n for n, c in _COLUMNS.items() if pa.types.is_boolean(c.type))


def _refuse(name: str, value: object, allowed: str) -> ContractError:
    return ContractError(f"request column {name!r} is {value!r}; allowed: {allowed}")


def _integer(name: str, value: RequestValue) -> int:
    if value is None:
        return MISSING
    if name.endswith("_id") and not isinstance(value, bool):
        return entity_id(value)
    if name in _TEXTS:
        if not isinstance(value, str) or value not in _TEXTS[name]:
            raise _refuse(name, value, f"one of {list(_TEXTS[name])}")
        return _TEXTS[name][value]
    if name in _FLAGS:
        if not isinstance(value, bool):
            raise _refuse(name, value, "true or false")
        return int(value)
    # A bool is an int to Python, but a quantity of True is somebody's mistake.
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_ID:
        raise _refuse(name, value, f"an integer from 0 to {MAX_ID}")
    return value


def check_columns(requests: Sequence[Request]) -> None:
    """ContractError when a request has a column that orders do not have."""
    for request in requests:
        if not request.keys() <= _COLUMNS.keys():
            unknown = sorted(request.keys() - _COLUMNS.keys())
            close = difflib.get_close_matches(unknown[0], _COLUMNS, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            msg = f"unknown request columns {unknown}; known: {list(_COLUMNS)}.{hint}"
            raise ContractError(msg)


def request_integers(requests: Sequence[Request], names: Sequence[str]) -> list[list[int]]:
    """Columns `names` of every request as integers, MISSING where unknown; one list a request.

    Raises:
        ContractError: a value of the wrong type, out of range or outside its closed set.
    """
    return [[_integer(name, request.get(name)) for name in names] for request in requests]
