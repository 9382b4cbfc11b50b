"""The lake: tables as immutable Parquet files per partition, and a pointer to the current one.

```
facts/views/dt=2026-01-05/9f3a6c01b2d47e58.parquet   named by its sha256, never changed
facts/views/dt=2026-01-05/_current.json              Receipt of the file to read, swapped atomically
events/_current.json                                 a table without partitions
```

A writer that dies leaves the old pointer, so the old version stays readable; the same rows give
the same file (for one release of pyarrow), so a rerun is recognised by its hash. The file before
the current one, and any younger than the grace period, is kept for readers that hold its name.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, ValidationError

from ibook_assets.core.canonical import canonical_json, sha256_hex
from ibook_assets.core.errors import ContractError, IntegrityError, NotFoundError
from ibook_assets.core.manifest import ManifestEntry
from ibook_assets.core.tables import TableSpec
from ibook_assets.core.times import HOUR_US
from ibook_assets.stores.blob_terms import check_key
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.parquet import decode, encode, footer_of, require_schema

POINTER: Final = "_current.json"
GRACE_US: Final = HOUR_US
"""Age below which a superseded file is never deleted: somebody may be about to read it."""

_READERS: Final = 8
_PARTITION: Final = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.=+@,-]{0,120}$")
_T = TypeVar("_T")
_R = TypeVar("_R")


class Receipt(BaseModel):
    """What a write stored: enough to find the file and to prove that it is unchanged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    partition: str | None
    path: str
    """Key of the file inside the lake."""
    sha256: str
    rows: int
    bytes: int
    footer_sha256: str
    """Hash of what page checksums leave out, checked at every read."""
    superseded: str | None = None
    """Key of the file that was current before; kept for readers that hold its name."""

    @property
    def entry(self) -> ManifestEntry:
        """This file as a line of a snapshot manifest."""
        return ManifestEntry(
            table=self.table,
            partition=self.partition,
            path=self.path,
            sha256=self.sha256,
            rows=self.rows,
        )


class Lake:
    """Tables in `blobs`. A table is a path such as `facts/views` or `features/user/v=1f0c`."""

    def __init__(self, blobs: Blobs, *, grace_us: int = GRACE_US) -> None:
        self.blobs = blobs
        self._grace_us = grace_us

    def write(
        self,
        table: str,
        partition: str | None,
        data: pa.Table,
        *,
        spec: TableSpec | None = None,
        precommit: Callable[[], None] | None = None,
    ) -> Receipt:
        """Make `data` the current version of the partition; the receipt says what was stored.

        Args:
            table: where the partition lives.
            partition: for example `2026-01-05`; None for a table without partitions.
            data: all rows of the partition.
            spec: contract that names, types and nulls must meet; the file gets its exact schema.
            precommit: called when the file is durable, just before it becomes visible; what it
                raises leaves the old version current.
        """
        encoded = encode(data, table=table, spec=spec)
        sha256 = sha256_hex(encoded)
        folder = _folder(table, partition)
        path = f"{folder}{sha256[:16]}.parquet"
        # Written even when it exists: a damaged file heals, and its age starts anew.
        self.blobs.put(path, encoded)
        if precommit is not None:
            precommit()
        before = self._current(table, partition)
        if before is not None and before.path == path:
            return before
        receipt = Receipt(
            table=table,
            partition=partition,
            path=path,
            sha256=sha256,
            rows=data.num_rows,
            bytes=len(encoded),
            footer_sha256=sha256_hex(footer_of(encoded)),
            superseded=before.path if before else None,
        )
        self.blobs.put(folder + POINTER, canonical_json(receipt))
        if before is not None and before.superseded is not None:
            self._collect(table, partition)
        return receipt

    def read(
        self,
        table: str,
        partitions: Sequence[str] | None = None,
        *,
        columns: Sequence[str] | None = None,
        filters: pc.Expression | None = None,
        spec: TableSpec | None = None,
        verify: bool = False,
    ) -> pa.Table:
        """Rows of the partitions in the order asked for (all, sorted, when None).

        Page checksums are always verified; `verify` compares each whole file with its sha256.
        `spec` makes a wrong schema an error and an empty choice of partitions an empty table.
        """
        receipts = self.receipts(table, partitions)
        if not receipts and spec is not None:
            return spec.schema.empty_table().select(list(columns or spec.column_names))
        if not receipts:
            raise NotFoundError(_nothing(table, None, self.partitions(table)))
        return self.read_files(receipts, columns=columns, filters=filters, spec=spec, verify=verify)

    def read_files(
        self,
        files: Sequence[Receipt | ManifestEntry],
        *,
        columns: Sequence[str] | None = None,
        filters: pc.Expression | None = None,
        spec: TableSpec | None = None,
        verify: bool = False,
    ) -> pa.Table:
        """Rows of exactly these files, current or not, in the order given; at least one.

        Files named by a manifest are always compared with their sha256.
        """

        def read_one(file: Receipt | ManifestEntry) -> pa.Table:
            if verify or isinstance(file, ManifestEntry):
                self.verify([file])
            found = decode(
                self.blobs,
                file.path,
                sha256=file.sha256,
                footer_sha256=None if isinstance(file, ManifestEntry) else file.footer_sha256,
                columns=columns,
                filters=filters,
            )
            if spec is not None:
                require_schema(found, spec, columns=columns, where=file.path)
            return found

        tables = _map(read_one, files)
        for file, found in zip(files, tables, strict=True):
            if not found.schema.equals(tables[0].schema):
                msg = (
                    f"{file.path} has columns {found.schema.names} of types "
                    f"{[str(t) for t in found.schema.types]}, {files[0].path} differs: "
                    "rematerialise the older partition"
                )
                raise ContractError(msg)
        return pa.concat_tables(tables)

    def partitions(self, table: str) -> list[str]:
        """Sorted names of the partitions that have a current version."""
        start = f"{check_key(table)}/dt="
        end = f"/{POINTER}"
        names = (
            key[len(start) : -len(end)]
            for key in self.blobs.list(f"{table}/")
            if key.startswith(start) and key.endswith(end)
        )
        return sorted(name for name in names if "/" not in name)

    def receipts(self, table: str, partitions: Sequence[str] | None = None) -> list[Receipt]:
        """Receipts of the current versions; all partitions, sorted, when None.

        Raises:
            NotFoundError: a partition has never been written; it names all such partitions.
        """
        if partitions is None:
            whole = self._current(table, None)
            if whole is not None:
                return [whole]
            partitions = self.partitions(table)
        found = _map(lambda partition: self._current(table, partition), partitions)
        missing = [name for name, receipt in zip(partitions, found, strict=True) if not receipt]
        if missing:
            raise NotFoundError(_nothing(table, missing, self.partitions(table)))
        return [receipt for receipt in found if receipt is not None]

    def receipt(self, table: str, partition: str | None = None) -> Receipt:
        """Receipt of one partition's current version; NotFoundError when there is none."""
        found = self._current(table, partition)
        if found is None:
            missing = None if partition is None else [partition]
            raise NotFoundError(_nothing(table, missing, self.partitions(table)))
        return found

    def paths(self, table: str, partitions: Sequence[str] | None = None) -> list[str]:
        """Absolute paths or `s3://` URIs of the current files, for DuckDB and other engines."""
        return [self.blobs.location(r.path) for r in self.receipts(table, partitions)]

    def verify(self, files: Iterable[Receipt | ManifestEntry]) -> None:
        """IntegrityError for the first file whose bytes do not have the recorded sha256."""
        for file in files:
            found = sha256_hex(self.blobs.get(file.path))
            if found != file.sha256:
                path = self.blobs.location(file.path)
                raise IntegrityError(path=path, expected=file.sha256, found=found)

    def _current(self, table: str, partition: str | None) -> Receipt | None:
        key = _folder(table, partition) + POINTER
        try:
            data = self.blobs.get(key)
        except NotFoundError:
            return None
        try:
            return Receipt.model_validate_json(data)
        except ValidationError as error:
            msg = (
                f"{self.blobs.location(key)} is not a receipt ({error.error_count()} errors, first:"
                f" {error.errors()[0]['msg']}): rematerialise {table}, partition {partition}"
            )
            raise ContractError(msg) from error

    def _collect(self, table: str, partition: str | None) -> None:
        """Delete files that are neither current nor before it and older than the grace period."""
        folder = _folder(table, partition)
        oldest_kept_us = time.time_ns() // 1_000 - self._grace_us
        for path in self.blobs.list(folder):
            if not path.endswith(".parquet") or "/" in path[len(folder) :]:
                continue
            try:
                if self.blobs.stat(path).modified_us >= oldest_kept_us:
                    continue
            except NotFoundError:
                continue
            # Read again for each file: a concurrent writer may have made it current.
            current = self._current(table, partition)
            if current is not None and path not in (current.path, current.superseded):
                self.blobs.delete(path)


def _folder(table: str, partition: str | None) -> str:
    check_key(table)
    if partition is None:
        return f"{table}/"
    if not _PARTITION.match(partition):
        msg = (
            f"partition {partition[:130]!r} of {table} is not allowed: use 1 to 121 letters, "
            "digits and '_.=+@,-', for example 2026-01-05"
        )
        raise ContractError(msg)
    return f"{table}/dt={partition}/"


def _nothing(table: str, missing: Sequence[str] | None, known: Sequence[str]) -> str:
    there = f"there are {known[0]} to {known[-1]} ({len(known)})" if known else "there are none"
    if missing is None:
        return f"table {table} has no data; materialise it first"
    shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    return f"table {table} has no partition {shown}; {there}. Materialise what is missing first."


def _map(call: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
    if len(items) < 2:
        return [call(item) for item in items]
    with ThreadPoolExecutor(min(_READERS, len(items))) as pool:
        return list(pool.map(call, items))
