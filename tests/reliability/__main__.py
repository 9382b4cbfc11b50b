"""The long form of rows 1 to 3, 4, 6 and 11.

`python -m tests.reliability --kills 200 --promotions 800` runs all of it,
`python -m tests.reliability landing --kills 150` what lands the log.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.reliability.landing import land_and_kill
from tests.reliability.materialising import kill_at_every_step
from tests.reliability.nursery import Nursery, open_nursery
from tests.reliability.promoting import promote_and_kill
from tests.s3_server import new_s3_blobs, s3_server
from tests.services.brokers import BrokerService, DevBrokerService, KafkaService

PARTS = ("landing", "materialising", "promoting")

S3_SHARE = 4
"""The S3 server of the tests is slow: it gets a quarter."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {PARTS}; all by default")
    parser.add_argument("--kills", type=int, default=200, help="kills while landing, materialising")
    parser.add_argument("--promotions", type=int, default=800, help="concurrent promotions")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    parts = options.parts or PARTS
    if not set(parts) <= set(PARTS):
        parser.error(f"parts are {PARTS}, not {options.parts}")
    rng = np.random.default_rng(options.seed)
    with (
        open_nursery() as nursery,
        s3_server(keys_per_page=1_000) as endpoint,
        tempfile.TemporaryDirectory() as folder,
    ):
        for name, endpoint_url, share in (("folder", None, 1), ("s3", endpoint, S3_SHARE)):
            scratch = Path(folder) / name
            scratch.mkdir()
            if "landing" in parts:
                _land(nursery, scratch, endpoint_url, options.kills // share, rng)
            if "materialising" in parts:
                _materialise(nursery, scratch, endpoint_url, options.kills // share)
            if "promoting" in parts:
                _promote(nursery, scratch, endpoint_url, options.promotions // share, rng)


def _land(
    nursery: Nursery,
    scratch: Path,
    endpoint_url: str | None,
    kills: int,
    rng: np.random.Generator,
) -> None:
    named = kills // 3
    for service in (KafkaService, DevBrokerService):
        folder = scratch / service.__name__
        folder.mkdir()
        broker: BrokerService = service(folder)
        uri = new_s3_blobs(endpoint_url).uri if endpoint_url else str(folder / "lake")
        started = time.monotonic()
        broker.start()
        try:
            figures = land_and_kill(
                nursery,
                broker.log,
                uri,
                rng,
                endpoint_url=endpoint_url,
                named=named,
                at_random=kills - named,
            )
        finally:
            broker.kill()
        seconds = time.monotonic() - started
        _say(f"landing from {broker.name} on {scratch.name}, {seconds:.0f} s: {figures}")


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
