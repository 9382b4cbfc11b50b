"""Entity identifiers: 63-bit integers everywhere inside, integers or strings at the boundary."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from ibook_assets.core.errors import ContractError

MISSING_ID: Final = -1
"""Stands for a null identifier in integer arrays; real identifiers are >= 0."""

MAX_ID: Final = 2**63 - 1

NAME_PATTERN: Final = r"^[A-Za-z0-9_-]{1,64}$"
"""What a request id, model version or run id may look like wherever one reaches a path or URL."""

_NAME = re.compile(NAME_PATTERN)
_DECIMAL = re.compile(r"^(0|[1-9][0-9]{0,18})$")


def entity_id(value: int | str) -> int:
    """The platform's identifier of an outside `value`; equal values always get equal ids.

    A non-negative integer, or its decimal text, is its own id; other text is the first 63 bits
    of its BLAKE2b digest (collision odds below 1e-6 for four million names).

    Raises:
        ContractError: a negative or too large integer, or empty text.
    """
    if isinstance(value, str):
        if not value:
            msg = "an identifier must not be empty; leave the field out where there is none"
            raise ContractError(msg)
        if not _DECIMAL.fullmatch(value) or int(value) > MAX_ID:
            digest = hashlib.blake2b(value.encode(), digest_size=8).digest()
            return int.from_bytes(digest, "big") >> 1
        value = int(value)
    if not 0 <= value <= MAX_ID:
        msg = f"identifier {value} is outside 0..{MAX_ID}; send it as text to have it hashed"
        raise ContractError(msg)
    return value


def check_name(value: str, *, what: str) -> str:
    """`value` when it is safe as part of a path or URL, ContractError otherwise."""
    # match() would let a trailing newline through.
    if not _NAME.fullmatch(value):
        msg = f"{what} {value[:80]!r} is not allowed: use 1 to 64 letters, digits, '_' or '-'"
        raise ContractError(msg)
    return value
