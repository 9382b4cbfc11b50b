"""Blobs: the platform's storage primitive, whole objects under slash-separated keys.

Everything durable (tables, records, artefacts) needs just two writes: `put`, which replaces an
object atomically, and `create`, which one of several writers wins. A folder and an S3 bucket
both offer them.
"""

from __future__ import annotations

from typing import Protocol

import pyarrow.fs

from ibook_assets.core.errors import ContractError
from ibook_assets.stores.blob_terms import BlobStat, Data
from ibook_assets.stores.local_blobs import LocalBlobs


class Blobs(Protocol):
    """A store of whole objects. All methods raise StoreUnavailableError when it fails.

    Keys look like `facts/views/dt=2026-01-05/_current.json`; see `blob_terms.check_key`.
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
    return LocalBlobs(uri)
