"""What the stream's benchmarks run on: brokers, live stores with a history, the product's parts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.online_store import BASE_US, LAYOUTS, facts, orders_of, records
from bench.streaming_sender import PARTITIONS, USERS
from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.stores.online import LiveStore, open_live
from ibook_assets.stores.online.live import Entry
from tests.services.brokers import JARS, BrokerService, DevBrokerService, KafkaService
from tests.services.redis_server import RedisService

ORDERS_EACH: Final = 10
"""Orders of an account in the year before."""
PATIENCE_SECONDS: Final = 120

LMDB: Final = "LMDB"
REDIS: Final = "Redis"

OTHERS: Final = "others"
"""What else this machine did."""

_TICKS: Final = os.sysconf("SC_CLK_TCK")


def brokers() -> list[type[BrokerService]]:
    """What can run here."""
    found: list[type[BrokerService]] = [DevBrokerService]
    if shutil.which("java") and any(JARS.glob("kafka_*.jar")):
        return [KafkaService, *found]
    print("Apache Kafka is left out: it needs Java and `make services`")
    return found


def stores() -> list[str]:
    """What can run here."""
    if shutil.which("redis-server"):
        return [LMDB, REDIS]
    print("Redis is left out: redis-server is not installed")
    return [LMDB]


@dataclass(frozen=True, slots=True)
class Stage:
    """A broker and a live store that the parts of the stream can be started on."""

    broker: BrokerService
    home: Path
    store_name: str
    store_address: str
    store: LiveStore
    store_pid: int | None
    """None where the store is no process."""
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    """Parts that must not end by themselves."""

    @contextmanager
    def part(self, name: str) -> Iterator[int]:
        """`ibook stream <name>` as long as the block; its process id."""
        environment = os.environ | {
            "IBOOK_HOME": str(self.home),
            "IBOOK_KAFKA_BOOTSTRAP": self.broker.address,
            "IBOOK_ONLINE_URL": self.store_address,
            "IBOOK_LOG_PARTITIONS": str(PARTITIONS),
        }
        output = self.home / f"{name}.log"
        command = [str(Path(sys.executable).with_name("ibook")), "stream", name]
        with (
            output.open("wb") as log,
            subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT
            ) as process,
        ):
            self.running.append(process)
            try:
                yield process.pid
                self.check()
            finally:
                self.running.remove(process)
                process.terminate()

    def check(self) -> None:
        """AssertionError with what the parts said when one has ended by itself."""
        assert all(process.poll() is None for process in self.running), self._said()

    def wait(self, reached: Callable[[], bool]) -> None:
        """Until the store is as far; AssertionError after PATIENCE_SECONDS."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not reached():
            self.check()
            assert time.monotonic() < deadline, self._said()
            time.sleep(0.01)

    def _said(self) -> str:
        tails = (f"{log.name}: {log.read_text()[-2_000:]}" for log in self.home.glob("*.log"))
        return "\n".join(tails)


@contextmanager
def broker_in(kind: type[BrokerService], folder: Path) -> Iterator[BrokerService]:
    """A broker as long as the block, its files in `folder`."""
    folder.mkdir()
    broker = kind(folder)
    try:
        yield broker.start()
    finally:
        broker.kill()


@contextmanager
def stage_on(broker: BrokerService, store_name: str, home: Path) -> Iterator[Stage]:
    """A store with the accounts' history, and files of its own in `home`."""
    home.mkdir()
    if store_name == LMDB:
        address = str(home / "store")
        yield Stage(broker, home, store_name, address, _filled(address), None)
        return
    redis = RedisService(home).start()
    try:
        yield Stage(broker, home, store_name, redis.url, _filled(redis.url), redis.pid)
    finally:
        redis.kill()


@cache
def _history() -> Sequence[Entry]:
    tables = facts(USERS, ORDERS_EACH, np.random.default_rng(2))
    return list(chain(records(tables), orders_of(tables["transactions"])))


def _filled(address: str) -> LiveStore:
    store = open_live(address)
    hashes = {view.name: view.spec_hash for view in FEATURE_VIEWS}
    generation = store.begin_generation(LAYOUTS, hashes, BASE_US)
    store.load(generation, _history())
    store.publish_generation(generation)
    return store


@contextmanager
def sender(how: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`bench.streaming_sender` as long as the block, with pipes."""
    command = [sys.executable, "-m", "bench.streaming_sender", how, *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def said(line: str) -> dict[str, Any]:
    """What a sender's line says."""
    assert line, "the sender has ended early"
    found: dict[str, Any] = json.loads(line)
    return found


def cpu_seconds(pids: Mapping[str, int]) -> dict[str, float]:
    """CPU time that each process has taken so far, and all others of the machine."""
    found = {}
    for name, pid in pids.items():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        found[name] = (int(fields[11]) + int(fields[12])) / _TICKS
    user, nice, system, _, _, irq, softirq, steal = _machine()
    busy = (user + nice + system + irq + softirq + steal) / _TICKS
    return {**found, OTHERS: busy - sum(found.values())}


def _machine() -> list[int]:
    first = Path("/proc/stat").read_text().splitlines()[0]
    return [int(ticks) for ticks in first.split()[1:9]]
