"""Requests as integers: the columns of facts/transactions out of mappings, checked."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
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
_INTEGERS: Final = f"an integer from 0 to {MAX_ID}"
_FLAGS: Final = frozenset(n for n, c in _COLUMNS.items() if pa.types.is_boolean(c.type))


def _refuse(name: str, value: object, allowed: str) -> ContractError:
    return ContractError(f"request column {name!r} is {value!r}; allowed: {allowed}")


def _identifier(name: str, value: RequestValue) -> int:
    if isinstance(value, bool) or value is None:
        raise _refuse(name, value, _INTEGERS)
    return entity_id(value)


def _code(name: str, value: RequestValue) -> int:
    codes = _TEXTS[name]
    if not isinstance(value, str) or value not in codes:
        raise _refuse(name, value, f"one of {list(codes)}")
    return codes[value]


def _flag(name: str, value: RequestValue) -> int:
    if not isinstance(value, bool):
        raise _refuse(name, value, "true or false")
    return int(value)


def _number(name: str, value: RequestValue) -> int:
    # A bool is an int to Python, but a quantity of True is somebody's mistake.
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_ID:
        raise _refuse(name, value, _INTEGERS)
    return value


def _kind(name: str) -> Callable[[str, RequestValue], int]:
    if name.endswith("_id"):
        return _identifier
    if name in _TEXTS:
        return _code
    return _flag if name in _FLAGS else _number


# Which kind a column is does not change; requests are many.
_KINDS: Final = {name: _kind(name) for name in _COLUMNS}


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
    kinds = [(name, _KINDS.get(name, _number)) for name in names]
    return [
        [
            MISSING if (value := request.get(name)) is None else kind(name, value)
            for name, kind in kinds
        ]
        for request in requests
    ]
