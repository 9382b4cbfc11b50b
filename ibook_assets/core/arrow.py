"""Arrow arrays and compute functions as this code base types them.

The published stubs type an array by its scalar and accept a fraction of the valid calls of
`pyarrow.compute`; a table's columns are only known at run time, where its spec checks them.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as _compute

Array: TypeAlias = Any
"""A `pa.Array`."""

Column: TypeAlias = Any
"""A `pa.Array` or `pa.ChunkedArray`."""

Mask = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.int64]

pc: Any = _compute
array: Any = pa.array
nulls: Any = pa.nulls


def one_chunk(column: Column) -> Array:
    """`column` as a single array."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def as_mask(flags: Column) -> Mask:
    """Boolean `flags` as NumPy's; null counts as False."""
    return np.asarray(pc.fill_null(flags, fill_value=False), dtype=np.bool_)


def integers(column: Column, *, null: int) -> Positions:
    """An integer column as int64, with `null` where it has none."""
    return np.asarray(pc.fill_null(column, null).cast(pa.int64()), dtype=np.int64)
