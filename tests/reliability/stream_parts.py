"""The stream's own processes under test: killed, frozen and replaced at will."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ibook_assets.core.arrow import integers
from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.features.plan import layouts_of
from ibook_assets.core.messages import FEATURES_LOG, topic_of
from ibook_assets.core.tables import TRANSACTIONS
from ibook_assets.stores.blobs import open_blobs
from ibook_assets.stores.log_files import LogFiles
from ibook_assets.stores.online.live import LiveStore
from ibook_assets.stores.online.opening import open_live
from ibook_assets.streaming.standing import Standing, standing
from tests.reliability.stream_sending import BASE_US, PARTITIONS
from tests.services.brokers import BrokerService

FINISH_SECONDS: Final = 600
"""How long the survivors may take to catch up before the stream counts as stuck."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a stream runs."""

    broker: BrokerService
    home: Path
    online: str
    """Address of the live store."""
    lake: str
    endpoint_url: str | None = None
    """Of the lake, when it is in S3."""

    @property
    def files(self) -> LogFiles:
        """What has landed."""
        return LogFiles(open_blobs(self.lake, endpoint_url=self.endpoint_url))

    def empty_store(self) -> LiveStore:
        """The live store, published with nothing in it."""
        store = open_live(self.online)
        hashes = {view.name: view.spec_hash for view in FEATURE_VIEWS}
        store.publish_generation(store.begin_generation(layouts_of(FEATURE_VIEWS), hashes, BASE_US))
        return store

    def environment(self) -> dict[str, str]:
        """What tells a process of ours all this."""
        return (
            dict(os.environ)
            | {
                "IBOOK_HOME": str(self.home),
                "IBOOK_LAKE_URI": self.lake,
                "IBOOK_KAFKA_BOOTSTRAP": self.broker.address,
                "IBOOK_ONLINE_URL": self.online,
                "IBOOK_LOG_PARTITIONS": str(PARTITIONS),
            }
            | ({"IBOOK_S3_ENDPOINT_URL": self.endpoint_url} if self.endpoint_url else {})
        )


class Parts:
    """Processes `ibook stream <name>`, each with a log of its own."""

    def __init__(self, names: Sequence[str], environment: Mapping[str, str], logs: Path) -> None:
        self.names = names
        self._environment = environment
        self._logs = logs
        self._processes = [self._start(number) for number in range(len(names))]

    def kill(self, number: int) -> None:
        """Kill one (SIGKILL) and start its successor."""
        self._processes[number].kill()
        self._processes[number].wait()
        self._processes[number] = self._start(number)

    def pids(self) -> list[int]:
        """Of the processes that run now."""
        return [process.pid for process in self._processes]

    def log(self, number: int) -> str:
        """Everything that part has said."""
        return (self._logs / f"{number}.log").read_text(errors="replace")

    def end(self) -> None:
        """End all as an operator would."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(timeout=60)

    def check(self) -> None:
        """AssertionError when one has ended by itself."""
        for number, process in enumerate(self._processes):
            assert process.poll() is None, self.log(number)[-3_000:]

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        command = [str(Path(sys.executable).with_name("ibook")), "stream", self.names[number]]
        with (self._logs / f"{number}.log").open("ab") as log:
            return subprocess.Popen(
                command, env=self._environment, stdout=log, stderr=subprocess.STDOUT
            )


@contextmanager
def running(site: Site, names: Sequence[str]) -> Iterator[Parts]:
    """The parts called `names`, ended with the block."""
    parts = Parts(names, site.environment(), site.home)
    try:
        yield parts
    finally:
        parts.end()


def wait_until_even(site: Site, store: LiveStore, known_us: int, parts: Parts) -> None:
    """Until everything is landed, applied and logged; AssertionError when a part has ended."""
    files = site.files
    deadline = time.monotonic() + FINISH_SECONDS
    while True:
        parts.check()
        found = standing(site.broker.log, files, store)
        if _is_even(found, known_us) and _vectors(files) == _orders(files):
            return
        assert time.monotonic() < deadline, found
        time.sleep(0.5)


def _is_even(found: Standing, known_us: int) -> bool:
    return found.watermark_us > known_us and not any(p.sink_lag for p in found.partitions)


def _vectors(files: LogFiles) -> set[int]:
    return _distinct(files, FEATURES_LOG)


def _orders(files: LogFiles) -> set[int]:
    return _distinct(files, topic_of(TRANSACTIONS.name))


def _distinct(files: LogFiles, topic: str) -> set[int]:
    return set(integers(files.rows(topic)["transaction_id"], null=-1).tolist())
