"""Write simulated tables as Parquet: one file a table and day, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from ibook_sim.world import World, WorldConfig

TRUTH_FOLDER: Final = "truth"
"""Ground truth is kept apart from what a platform may read."""

_OPAQUE: Final = frozenset(
    {"transaction_id", "refund_id", "view_id", "session_id", "user_id"}
    | {"card_id", "device_id", "ip_id"}
)
"""Columns of 48-bit identifiers: neither a dictionary nor differences make them smaller."""

_MEASURED: Final = frozenset(
    {"occurred_ts", "known_ts", "created_ts", "on_sale_ts", "starts_ts"}
    | {"checkout_ms", "dwell_ms", "geo_distance_m", "account_age_s"}
)
"""Columns of times and magnitudes: mostly distinct, with short differences."""


def write_table(table: pa.Table, path: Path) -> int:
    """Write `table` to `path`: whole, on the disk and replaced atomically; returns its rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with partial.open("wb") as file:
            file.write(parquet_bytes(table))
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return table.num_rows


def parquet_bytes(table: pa.Table) -> pa.Buffer:
    """`table` as Parquet with zstd and page checksums, each column in the encoding that suits it.

    A dictionary of mostly distinct values would take longer than all the rest of the encoding.
    """
    plain = [
        f.name
        for f in table.schema
        if f.name in _OPAQUE | _MEASURED or pa.types.is_floating(f.type)
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        write_page_checksum=True,
        use_dictionary=[name for name in table.column_names if name not in plain],  # type: ignore[arg-type]  # the stubs only know True and False
        column_encoding={name: "DELTA_BINARY_PACKED" for name in plain if name in _MEASURED},
    )
    return sink.getvalue()


def day_path(out: Path, table: str, day: date) -> Path:
    """Where the rows of `day` of `table` are written."""
    return out / table / f"dt={day.isoformat()}" / "part.parquet"


def write_days(
    config: WorldConfig,
    days: Sequence[date],
    out: Path,
    *,
    processes: int = 1,
    advance: Callable[[int], None] = lambda _: None,
) -> Mapping[str, int]:
    """Write every table of `days` under `out`; returns rows by table.

    The files are the same whatever `processes` is. `advance` is called with the number of days
    just written.
    """
    rows: dict[str, int] = {}
    for share, counts in _written(config, days, out, processes):
        for name, count in counts.items():
            rows[name] = rows.get(name, 0) + count
        advance(share)
    return rows


def _written(
    config: WorldConfig, days: Sequence[date], out: Path, processes: int
) -> Iterator[tuple[int, Mapping[str, int]]]:
    if processes == 1:
        world = World(config)
        for day in days:
            yield 1, _write_day(world, day, out)
        return
    # Neighbouring days share the orders their outcomes go back to, and spawned workers carry
    # over no threads or random state.
    size = -(-len(days) // processes)
    chunks = [days[at : at + size] for at in range(0, len(days), size)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(_write_chunk, config, chunk, out) for chunk in chunks]
        for chunk, job in zip(chunks, jobs, strict=True):
            yield len(chunk), job.result()


def _write_chunk(config: WorldConfig, days: Sequence[date], out: Path) -> Mapping[str, int]:
    return write_days(config, days, out)


def _write_day(world: World, day: date, out: Path) -> Mapping[str, int]:
    return {
        name: write_table(table, day_path(out, name, day)) for name, table in world.day(day).items()
    }


def write_truth(world: World, days: Sequence[date], out: Path) -> int:
    """Write the truth of `days` under `out`/truth/orders; returns its rows."""
    found = world.truth(days)
    return sum(
        write_table(table, day_path(out / TRUTH_FOLDER, "orders", day))
        for day, table in found.items()
    )


def write_catalogue(world: World, until: date, out: Path) -> Mapping[str, int]:
    """Write the catalogue as of `until` under `out`; returns rows by table."""
    return {
        name: write_table(table, out / name / "part.parquet")
        for name, table in world.catalogue(until).items()
    }
