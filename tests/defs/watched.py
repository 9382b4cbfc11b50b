"""A real store that notes what is asked of it."""

from __future__ import annotations

import pyarrow.fs

from ibook_assets.stores.blob_terms import BlobStat, Data
from ibook_assets.stores.blobs import Blobs


class Watched:
    """A store that notes the keys of everything that is asked of it."""

    def __init__(self, inner: Blobs, seen: set[str]) -> None:
        self._inner = inner
        self._seen = seen

    @property
    def uri(self) -> str:
        self._seen.add("")
        return self._inner.uri

    def put(self, key: str, data: Data) -> None:
        self._inner.put(key, data)

    def create(self, key: str, data: Data) -> None:
        self._inner.create(key, data)

    def delete(self, key: str) -> None:
        self._inner.delete(key)

    def get(self, key: str) -> bytes:
        self._seen.add(key)
        return self._inner.get(key)

    def stat(self, key: str) -> BlobStat:
        self._seen.add(key)
        return self._inner.stat(key)

    def exists(self, key: str) -> bool:
        self._seen.add(key)
        return self._inner.exists(key)

    def list(self, prefix: str = "") -> list[str]:
        self._seen.add(prefix)
        return self._inner.list(prefix)

    def location(self, key: str) -> str:
        self._seen.add(key)
        return self._inner.location(key)

    def arrow_source(self, key: str) -> tuple[pyarrow.fs.FileSystem, str]:
        self._seen.add(key)
        return self._inner.arrow_source(key)
