"""Row 4: kill a materialisation at every I/O step while a reader reads, then run it again."""

from __future__ import annotations

import json
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from pathlib import Path

from ibook_assets.stores.blobs import open_blobs
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.local_blobs import LocalBlobs
from tests.reliability.children import DAY, ROWS, TABLE, version_of
from tests.reliability.crash_points import CrashPoint, crash_points
from tests.reliability.nursery import Nursery


@dataclass(slots=True)
class Figures:
    """What happened; `bad_reads`, `differing_reruns` and `leftovers` must stay zero."""

    kills: int = 0
    reads: int = 0
    bad_reads: int = 0
    differing_reruns: int = 0
    leftovers: int = 0
    killed_at: Counter[str] = field(default_factory=Counter[str])


def steps_of_a_write(
    nursery: Nursery, uri: str, endpoint_url: str | None, report: Path
) -> list[str]:
    """Names of the I/O calls that writing version 1 to `uri` makes."""
    assert nursery.run("materialise", uri, endpoint_url, 1, None, str(report)) == 0
    steps: list[str] = json.loads(report.read_text(encoding="utf-8"))
    return steps


def read_version(lake: Lake, *, verify: bool = True) -> int:
    """Number of the version a reader sees, all of it compared; -1 for anything else."""
    found = lake.read(TABLE, [DAY], verify=verify)
    number = int(found["version"][0].as_py())
    return number if found.num_rows == ROWS and found.equals(version_of(number)) else -1


def kill_at_every_step(
    nursery: Nursery,
    uri: str,
    scratch: Path,
    *,
    endpoint_url: str | None = None,
    at_least: int = 1,
) -> Figures:
    """Write version after version of a day to `uri`, killing the writer at each step in turn.

    Rounds over all steps are repeated until there were `at_least` kills. Each killed version is
    written again and compared with the same version in a lake where nothing is ever killed.
    """
    lake = Lake(open_blobs(uri, endpoint_url=endpoint_url))
    lake.write(TABLE, DAY, version_of(0))
    clean = Lake(LocalBlobs(scratch / "clean"))
    steps = steps_of_a_write(nursery, uri, endpoint_url, scratch / "steps.json")
    figures = Figures()
    number = 1
    with _reading(lake, figures):
        while figures.kills < at_least:
            for point in crash_points(steps):
                number += 1
                figures.bad_reads += _kill_once(nursery, lake, endpoint_url, number, point)
                figures.kills += 1
                figures.killed_at[f"{point.when} {steps[point.step]}"] += 1
                expected = clean.write(TABLE, DAY, version_of(number)).sha256
                figures.differing_reruns += lake.receipt(TABLE, DAY).sha256 != expected
    if isinstance(lake.blobs, LocalBlobs):
        figures.leftovers = len(list((Path(uri) / ".staging").iterdir()))
    return figures


def _kill_once(
    nursery: Nursery, lake: Lake, endpoint_url: str | None, number: int, point: CrashPoint
) -> int:
    """Bad reads after killing the write of version `number` at `point`, and after its rerun."""
    version = (lake.blobs.uri, endpoint_url, number)
    before = lake.receipt(TABLE, DAY)
    assert nursery.run("materialise", *version, astuple(point)) == -signal.SIGKILL
    committed = lake.receipt(TABLE, DAY) != before
    bad_reads = int(read_version(lake) != (number if committed else number - 1))
    assert nursery.run("materialise", *version) == 0
    return bad_reads + int(read_version(lake) != number)


@contextmanager
def _reading(lake: Lake, figures: Figures) -> Iterator[None]:
    """Somebody reads all the time and never sees anything but a whole version."""
    done = threading.Event()

    def read() -> None:
        newest = 0
        while not done.wait(0.002):
            number = read_version(lake, verify=False)
            figures.reads += 1
            figures.bad_reads += number < newest
            newest = max(newest, number)

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        try:
            yield
        finally:
            done.set()
        reader.result()
