"""Row 11: writes to a disk that is full, on a small filesystem of this process' own.

Run as a program with a folder and a way to be full; it prints its figures as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from ibook_assets.core.canonical import sha256_hex
from ibook_assets.core.errors import StoreUnavailableError
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.local_blobs import LocalBlobs
from tests.reliability.children import DAY, TABLE, version_of
from tests.reliability.materialising import read_version

PAGE = 4_096
MOUNT_BYTES = 1_048_576


@dataclass(slots=True)
class Figures:
    """What happened; `partial`, `leftovers`, `bad_reads` and `vague` must be zero."""

    refused: int = 0
    written: int = 0
    partial: int = 0
    """Files under their final name that are not whole."""
    leftovers: int = 0
    bad_reads: int = 0
    vague: int = 0
    """Errors that do not name the path and the next step."""


def fill_a_disk(root: Path) -> Figures:
    """Write a version with every number of free pages from none to enough for all of it."""
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={MOUNT_BYTES}", "tmpfs", str(root)], check=True
    )
    figures = Figures()
    lake = Lake(LocalBlobs(root / "lake"))
    size = lake.write(TABLE, DAY, version_of(0)).bytes
    filler = root / "filler"
    for pages in range(size // PAGE + 4):
        statistics = os.statvfs(root)
        filler.write_bytes(bytes((statistics.f_bavail - pages) * PAGE))
        _attempt(lake, pages + 1, figures, filler.unlink)
    return figures


def limit_files(root: Path) -> Figures:
    """Write a version with every limit of the size of a file, in pages, below what it needs."""
    figures = Figures()
    lake = Lake(LocalBlobs(root / "lake"))
    size = lake.write(TABLE, DAY, version_of(0)).bytes
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)

    def lift() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)

    for pages in range(size // PAGE + 2):
        resource.setrlimit(resource.RLIMIT_FSIZE, (pages * PAGE, unlimited[1]))
        _attempt(lake, pages + 1, figures, lift)
    return figures


def _attempt(lake: Lake, number: int, figures: Figures, make_room: Callable[[], None]) -> None:
    before = read_version(lake)
    try:
        lake.write(TABLE, DAY, version_of(number))
        figures.written += 1
    except StoreUnavailableError as error:
        figures.refused += 1
        figures.vague += not (str(lake.blobs.uri) in str(error) and "free space" in str(error))
        figures.bad_reads += read_version(lake) != before
    figures.leftovers += len(list((Path(lake.blobs.uri) / ".staging").iterdir()))
    figures.partial += sum(
        path.stem != _short_hash(path) for path in Path(lake.blobs.uri).glob("**/*.parquet")
    )
    make_room()
    lake.write(TABLE, DAY, version_of(number))
    figures.bad_reads += read_version(lake) != number
    for path in lake.blobs.list(f"{TABLE}/"):
        current = lake.receipt(TABLE, DAY)
        if path.endswith(".parquet") and path != current.path:
            lake.blobs.delete(path)


def _short_hash(path: Path) -> str:
    return sha256_hex(path.read_bytes())[:16]


if __name__ == "__main__":
    folder, way = sys.argv[1:]
    result = {"disk": fill_a_disk, "limit": limit_files}[way](Path(folder))
    sys.stdout.write(json.dumps(asdict(result)))
