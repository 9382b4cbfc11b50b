"""A window of rows out of a CSV or Parquet file: its columns as arrays, and their kinds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ibook_assets.core.errors import ContractError
from ibook_assets.core.monitoring import Kind, Values


@dataclass(frozen=True, slots=True)
class FileWindow:
    """The columns of a file that can be compared, in its order."""

    columns: Mapping[str, Values]
    kinds: Mapping[str, Kind]
    left_out: tuple[str, ...]
    """Columns of neither numbers nor texts, such as times."""


def read_window(path: Path, *, without: Collection[str] = ()) -> FileWindow:
    """The window that the file at `path` holds, without the columns named, such as ids.

    Raises:
        ContractError: there is no such file, it cannot be read, or has no such column.
    """
    table = _table(path)
    unknown = sorted(set(without) - set(table.column_names))
    if unknown:
        msg = f"{path} has no column {unknown[0]!r} to leave out; it has {table.column_names}"
        raise ContractError(msg)
    kinds = {field.name: _kind(field.type) for field in table.schema if field.name not in without}
    chosen = {name: kind for name, kind in kinds.items() if kind is not None}
    return FileWindow(
        {name: table[name].to_numpy(zero_copy_only=False) for name in chosen},
        chosen,
        tuple(name for name, kind in kinds.items() if kind is None),
    )


def _table(path: Path) -> pa.Table:
    if not path.is_file():
        msg = f"there is no file {path}; name a CSV or Parquet file"
        raise ContractError(msg)
    try:
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path)
        return pyarrow.csv.read_csv(path)
    except pa.ArrowInvalid as error:
        msg = f"{path} is neither CSV nor Parquet that can be read: {error}"
        raise ContractError(msg) from error


def _kind(found: pa.DataType) -> Kind | None:
    if pa.types.is_dictionary(found):
        found = found.value_type
    if pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_boolean(found):
        return "categorical"
    return "numeric" if pa.types.is_integer(found) or pa.types.is_floating(found) else None
