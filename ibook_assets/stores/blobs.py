"""Blobs: the platform's storage primitive, whole objects under slash-separated keys.

Everything durable (tables, records, artefacts) needs just two writes: `put`, which replaces an
object atomically, and `create`, which one of several writers wins. A folder and an S3 bucket
both offer them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import pyarrow.fs

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


class Blobs(Protocol):
    """A store of whole objects. All methods raise StoreUnavailableError when it fails.

    Keys look like `facts/views/dt=2026-01-05/_current.json`; see `check_key`.
    """

    @property
    def uri(self) -> str:
        """Root of the store: an absolute folder or `s3://bucket/prefix`."""
        ...

    def put(self, key: str, data: Data) -> None:
        """Store `data` durably under `key`; readers see the old object or the new, never a mix."""
        ...

    def create(self, key: str, data: Data) -> None:
        """Store `data` durably under a free `key`; ConflictError when somebody has it already."""
        ...

    def get(self, key: str) -> bytes:
        """The object's bytes; NotFoundError when there is none."""
        ...

    def stat(self, key: str) -> BlobStat:
        """Size and time of the object; NotFoundError when there is none."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is an object under `key`."""
        ...

    def list(self, prefix: str = "") -> list[str]:
        """Sorted keys below the folder `prefix`, which is empty or ends with a slash."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens when there is none."""
        ...

    def location(self, key: str) -> str:
        """Absolute path or `s3://` URI of the object, for readers such as DuckDB."""
        ...

    def arrow_source(self, key: str) -> tuple[pyarrow.fs.FileSystem, str]:
        """The filesystem and path with which pyarrow reads the object."""
        ...


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


def open_blobs(uri: str, *, endpoint_url: str | None = None) -> Blobs:
    """The store at `uri`: a folder, or `s3://bucket/prefix` (at `endpoint_url` if given)."""
    scheme, separator, rest = uri.partition("://")
    if scheme == "s3" and separator:
        # boto3 costs 0.3 s to import, which a server on a local folder need not pay.
        from ibook_assets.stores.s3_blobs import S3Blobs

        bucket, _, prefix = rest.partition("/")
        return S3Blobs(bucket, prefix, endpoint_url=endpoint_url)
    if separator:
        msg = f"store {uri!r} is not supported: use a folder or s3://bucket/prefix"
        raise ContractError(msg)
    from ibook_assets.stores.local_blobs import LocalBlobs

    return LocalBlobs(uri)
