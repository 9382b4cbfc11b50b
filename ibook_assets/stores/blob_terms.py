"""What every store of blobs means by a key, by data and by an object's size and age."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, TypeAlias

from ibook_assets.core.errors import ContractError

MAX_KEY_LENGTH: Final = 900
"""Characters of a key; S3 allows 1,024 including the prefix."""

Data: TypeAlias = bytes | memoryview
"""What can be stored; `memoryview(buffer)` stores an Arrow buffer without a copy."""

_SEGMENT: Final = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.=+@,-]{0,199}$")


@dataclass(frozen=True, slots=True)
class BlobStat:
    """Size in bytes and time of the last write (microseconds, UTC, the store's clock)."""

    size: int
    modified_us: int


def check_key(key: str) -> str:
    """`key` when every segment is safe as a file name and in a URL, ContractError otherwise."""
    if len(key) > MAX_KEY_LENGTH or not all(_SEGMENT.match(part) for part in key.split("/")):
        msg = (
            f"key {key[:120]!r} is not allowed: use segments of 1 to 200 letters, digits and "
            f"'_.=+@,-' that start with a letter, digit or '_', joined by '/', at most "
            f"{MAX_KEY_LENGTH} characters"
        )
        raise ContractError(msg)
    return key


def check_prefix(prefix: str) -> str:
    """`prefix` when it is empty or a key followed by a slash, ContractError otherwise."""
    if prefix and not prefix.endswith("/"):
        msg = f"prefix {prefix[:120]!r} must be empty or end with '/'; try {prefix[:120] + '/'!r}"
        raise ContractError(msg)
    if prefix:
        check_key(prefix[:-1])
    return prefix
