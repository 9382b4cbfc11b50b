"""The long form of rows 4, 6 and 11: `python -m tests.reliability --kills 200 --promotions 800`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.reliability.materialising import kill_at_every_step
from tests.reliability.nursery import Nursery, open_nursery
from tests.reliability.promoting import promote_and_kill
from tests.s3_server import new_s3_blobs, s3_server

S3_SHARE = 4
"""The S3 server of the tests is slow: it gets a quarter."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="kills while materialising")
    parser.add_argument("--promotions", type=int, default=800, help="concurrent promotions")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    with (
        open_nursery() as nursery,
        s3_server(keys_per_page=1_000) as endpoint,
        tempfile.TemporaryDirectory() as folder,
    ):
        for name, endpoint_url, share in (("folder", None, 1), ("s3", endpoint, S3_SHARE)):
            scratch = Path(folder) / name
            scratch.mkdir()
            _materialise(nursery, scratch, endpoint_url, options.kills // share)
            _promote(
                nursery,
                scratch,
                endpoint_url,
                options.promotions // share,
                np.random.default_rng(options.seed),
            )


def _materialise(nursery: Nursery, scratch: Path, endpoint_url: str | None, kills: int) -> None:
    uri = new_s3_blobs(endpoint_url).uri if endpoint_url else str(scratch / "tables")
    started = time.monotonic()
    figures = kill_at_every_step(nursery, uri, scratch, endpoint_url=endpoint_url, at_least=kills)
    _say(f"materialising on {scratch.name}, {time.monotonic() - started:.0f} s: {figures}")


def _promote(
    nursery: Nursery,
    scratch: Path,
    endpoint_url: str | None,
    promotions: int,
    rng: np.random.Generator,
) -> None:
    uri = new_s3_blobs(endpoint_url).uri if endpoint_url else str(scratch / "log")
    notes = scratch / "notes"
    notes.mkdir()
    started = time.monotonic()
    figures = promote_and_kill(
        nursery,
        uri,
        notes,
        rng,
        endpoint_url=endpoint_url,
        target=promotions,
        kills=promotions // 10,
    )
    _say(f"promoting on {scratch.name}, {time.monotonic() - started:.0f} s: {figures}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
