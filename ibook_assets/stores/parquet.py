"""Tables as Parquet bytes: deterministic to write, checked when read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ibook_assets.core.canonical import sha256_hex
from ibook_assets.core.errors import (
    ContractError,
    IbookError,
    IntegrityError,
    StoreUnavailableError,
)
from ibook_assets.core.tables import TableSpec
from ibook_assets.stores.blobs import Blobs

ROWS_PER_GROUP: Final = 131_072
"""Rows a reader with a filter skips at once."""

_FOOTER_TAIL: Final = 8
"""Bytes of the footer's length and the magic word that end every Parquet file."""


def encode(
    data: pa.Table,
    *,
    table: str,
    spec: TableSpec | None = None,
    notes: Mapping[str, str] | None = None,
) -> memoryview:
    """`data` as Parquet: zstd, page checksums, the same bytes however `data` is chunked.

    With `spec`, ContractError unless the columns, types and nulls are as declared. `notes` are kept
    in the footer.
    """
    if spec is not None:
        require_schema(data, spec, where=f"data for {table}")
        data = data.cast(spec.schema)
    # Chunk boundaries and notes of other libraries (pandas) would change the bytes.
    plain = data.replace_schema_metadata({"ibook.table": table, **(notes or {})}).combine_chunks()
    sink = pa.BufferOutputStream()
    pq.write_table(
        plain,
        sink,
        compression="zstd",
        row_group_size=ROWS_PER_GROUP,
        write_page_checksum=True,
        # A dictionary of mostly distinct floats costs as much time as the rest of the write.
        use_dictionary=[  # type: ignore[arg-type]  # the stubs only know True and False
            f.name for f in plain.schema if not pa.types.is_floating(f.type)
        ],
    )
    return memoryview(sink.getvalue())


def footer_of(encoded: memoryview) -> bytes:
    """Schema, statistics and offsets of a Parquet file: what page checksums do not cover."""
    return bytes(encoded[-_FOOTER_TAIL - _footer_length(encoded[-_FOOTER_TAIL:]) :])


def decode(
    blobs: Blobs,
    path: str,
    *,
    sha256: str,
    footer_sha256: str | None,
    columns: Sequence[str] | None = None,
    filters: pc.Expression | None = None,
) -> pa.Table:
    """Rows of the file at `path`; its page checksums and its footer's hash (if given) verified.

    Raises:
        NotFoundError: there is no such file.
        IntegrityError: the bytes are not those of `sha256`.
        ContractError: a column does not exist or the filter does not fit.
    """
    filesystem, source = blobs.arrow_source(path)
    try:
        with filesystem.open_input_file(source) as file:
            if footer_sha256 is not None:
                _check_footer(file, footer_sha256)
            found = pq.read_table(
                file,
                columns=None if columns is None else list(columns),
                filters=filters,
                partitioning=None,
                page_checksum_verification=True,
                use_threads=False,
            )
    except (pa.ArrowException, OSError) as error:
        raise _explained(error, blobs=blobs, path=path, sha256=sha256, columns=columns) from error
    return found.replace_schema_metadata(None)


def _check_footer(file: pa.NativeFile, footer_sha256: str) -> None:
    size = file.size()
    length = _footer_length(_last(file, min(size, _FOOTER_TAIL))) + _FOOTER_TAIL
    # A wrong footer may crash the parser or drop rows silently, so it is refused unparsed.
    if length > size or sha256_hex(_last(file, length)) != footer_sha256:
        msg = "the footer is damaged"
        raise pa.ArrowInvalid(msg)


def _last(file: pa.NativeFile, length: int) -> bytes:
    file.seek(file.size() - length)
    return file.read(length)


def _footer_length(tail: bytes | memoryview) -> int:
    return int.from_bytes(tail[:4], "little")


def _explained(
    error: pa.ArrowException | OSError,
    *,
    blobs: Blobs,
    path: str,
    sha256: str,
    columns: Sequence[str] | None,
) -> IbookError:
    """What went wrong reading `path`, found out by reading it whole."""
    data = blobs.get(path)
    actual = sha256_hex(data)
    if actual != sha256:
        return IntegrityError(path=blobs.location(path), expected=sha256, found=actual)
    names = pq.read_schema(pa.BufferReader(data)).names
    unknown = sorted(set(columns or ()) - set(names))
    if unknown:
        return ContractError(f"{path} has no columns {unknown}; it has {names}")
    if isinstance(error, OSError):
        return StoreUnavailableError(
            f"{blobs.location(path)} is intact but reading it failed: {error}. Run again."
        )
    return ContractError(f"{path} cannot be read as asked: {error}")


def require_schema(
    data: pa.Table, spec: TableSpec, *, where: str, columns: Sequence[str] | None = None
) -> None:
    """ContractError unless `data` has the columns, types and nulls that `spec` declares."""
    names = list(columns or spec.column_names)
    if data.schema.names != names:
        missing = [name for name in names if name not in data.schema.names]
        extra = [name for name in data.schema.names if name not in names]
        detail = f"missing {missing}, not declared {extra}" if missing or extra else "wrong order"
        msg = f"{where}: columns {data.schema.names} are not those of {spec.name}: {detail}"
        raise ContractError(msg)
    for name in names:
        declared, found = spec.column(name), data.column(name)
        if found.type != declared.type:
            msg = f"{where}: column {name} is {found.type}, {spec.name} declares {declared.type}"
            raise ContractError(msg)
        if found.null_count and not declared.nullable:
            msg = f"{where}: column {name} has {found.null_count} nulls, {spec.name} allows none"
            raise ContractError(msg)


def column_range(footer: pq.FileMetaData, name: str) -> tuple[int, int] | None:
    """Least and greatest value of an integer column; None without values."""
    found = [s for s in _statistics(footer, name) if s is not None and s.has_min_max]
    return (min(s.min for s in found), max(s.max for s in found)) if found else None


def null_count(footer: pq.FileMetaData, name: str) -> int:
    """Nulls of a column."""
    return sum(int(s.null_count) for s in _statistics(footer, name))


def _statistics(footer: pq.FileMetaData, name: str) -> Iterator[Any]:
    (position,) = (i for i in range(footer.num_columns) if footer.schema.column(i).path == name)
    for group in range(footer.num_row_groups):
        yield footer.row_group(group).column(position).statistics
