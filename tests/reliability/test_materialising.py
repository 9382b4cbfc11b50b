"""Row 4: a materialisation that is killed leaves the old version; a rerun equals a clean run."""

from __future__ import annotations

import signal
from dataclasses import astuple
from pathlib import Path

from ibook_assets.core.errors import NotFoundError
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.local_blobs import LocalBlobs
from tests.reliability.crash_points import crash_points
from tests.reliability.materialising import kill_at_every_step, read_version, steps_of_a_write
from tests.reliability.nursery import Nursery
from tests.s3_server import new_s3_blobs


def test_killed_at_every_step_of_replacing_a_version(nursery: Nursery, tmp_path: Path) -> None:
    figures = kill_at_every_step(nursery, str(tmp_path / "lake"), tmp_path)
    assert (figures.bad_reads, figures.differing_reruns, figures.leftovers) == (0, 0, 0)
    assert figures.reads > 0
    assert {"half write", "before replace", "after replace"} <= figures.killed_at.keys()


def test_killed_at_every_step_on_s3(nursery: Nursery, tmp_path: Path, s3_endpoint: str) -> None:
    uri = new_s3_blobs(s3_endpoint).uri
    figures = kill_at_every_step(nursery, uri, tmp_path, endpoint_url=s3_endpoint)
    assert (figures.bad_reads, figures.differing_reruns) == (0, 0)
    assert {"before put", "after put"} <= figures.killed_at.keys()


def test_killed_at_every_step_of_the_first_version(nursery: Nursery, tmp_path: Path) -> None:
    steps = steps_of_a_write(nursery, str(tmp_path / "whole"), None, tmp_path / "steps.json")
    outcomes = []
    for i, point in enumerate(crash_points(steps)):
        uri = str(tmp_path / f"lake-{i}")
        assert nursery.run("materialise", uri, None, 1, astuple(point)) == -signal.SIGKILL
        lake = Lake(LocalBlobs(uri))
        try:
            outcomes.append(read_version(lake))
        except NotFoundError:
            outcomes.append(0)
        assert nursery.run("materialise", uri, None, 1) == 0
        assert read_version(lake) == 1
    # Nothing until the pointer is there, the whole version from then on.
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {0, 1}
