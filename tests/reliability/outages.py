"""Row 10: what the stream depends on is refused or frozen while everything runs.

The long form: `python -m tests.reliability.outages --seconds 30`.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NamedTuple

from ibook_assets.core.errors import StoreUnavailableError
from ibook_assets.stores.online.live import LiveStore
from ibook_assets.streaming.standing import standing
from ibook_assets.streaming.topics import create_log
from tests.reliability.stream_parts import FINISH_SECONDS, Parts, Site, running, wait_until_even
from tests.reliability.stream_sending import BASE_US, PARTITIONS, Sending
from tests.reliability.streaming import Figures, judged, world_of
from tests.s3_server import CREDENTIALS, new_s3_blobs
from tests.services.brokers import BrokerService, KafkaService
from tests.services.processes import HOST, free_port
from tests.services.redis_server import RedisService

PARTS: Final = ("sink", "worker", "probe")


class Outage(NamedTuple):
    """Something is away for a while."""

    what: str
    """redis, kafka or s3."""
    how: str
    """`refused`: nobody listens; `frozen`: connections are taken and nothing is answered."""


OUTAGES: Final = tuple(
    Outage(what, how) for what in ("redis", "kafka", "s3") for how in ("refused", "frozen")
)


@dataclass(frozen=True, slots=True)
class Report:
    """What an outage did."""

    what: str
    how: str
    seconds: float
    told: dict[str, int]
    """Lines by part that name the address of what was away."""
    recovery_seconds: float | None
    """From the end of the outage until all that had been sent by then was landed and applied."""


class S3Store:
    """moto in a process of its own, behind a door that can be shut without losing what it has."""

    def __init__(self) -> None:
        os.environ.update(CREDENTIALS)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.s3_server"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self._behind = int(self._process.stdout.readline().rpartition(":")[2])
        self.address = f"{HOST}:{free_port()}"
        self._listening: socket.socket | None = None
        self._connections: list[socket.socket] = []
        self.start()

    def start(self) -> None:
        """Open the door."""
        listening = socket.create_server((HOST, int(self.address.rpartition(":")[2])))
        self._listening = listening
        threading.Thread(target=self._accept, args=(listening,), daemon=True).start()

    def stop(self) -> None:
        """Shut the door: connections are closed, new ones refused."""
        assert self._listening is not None
        # Closing alone would not wake the thread that accepts, and keep the port open.
        for each in (self._listening, *self._connections):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._connections.clear()

    def pause(self) -> None:
        """Freeze the process (SIGSTOP)."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run on."""
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it."""
        self.stop()
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                client, _ = listening.accept()
                server = socket.create_connection((HOST, self._behind))
            except OSError:
                return
            self._connections += [client, server]
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=_pump, args=(source, target), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What a stream depends on."""

    redis: RedisService
    kafka: BrokerService
    s3: S3Store

    def site(self, home: Path) -> Site:
        """A stream that depends on all three."""
        endpoint = f"http://{self.s3.address}"
        return Site(self.kafka, home, self.redis.url, new_s3_blobs(endpoint).uri, endpoint)

    def address(self, outage: Outage) -> str:
        """Of what is away."""
        return str(getattr(self, outage.what).address)

    @contextmanager
    def away(self, outage: Outage) -> Iterator[None]:
        """Away while the block runs."""
        service: RedisService | BrokerService | S3Store = getattr(self, outage.what)
        refused = outage.how == "refused"
        begin, end = (service.stop, service.start) if refused else (service.pause, service.resume)
        begin()
        try:
            yield
        finally:
            end()


def stream_through_outages(
    dependencies: Dependencies,
    home: Path,
    outages: Sequence[Outage],
    *,
    seconds: float,
    rate: float,
    measured: bool,
) -> tuple[list[Report], Figures]:
    """Two gateways send `rate` events a second in all, while one thing after the other is away.

    `measured`, each recovery is waited for before the next outage.
    """
    site = dependencies.site(home)
    create_log(site.broker.log, PARTITIONS)
    store = site.empty_store()
    events = round(rate * len(outages) * (seconds + 60))
    world = world_of(events)
    senders = [
        Sending(
            site.broker.log,
            world,
            events,
            name=f"door-{number}",
            share=(number, 2),
            rows_per_second=rate / 2,
            singly=True,
        )
        for number in range(2)
    ]
    reports = []
    with running(site, PARTS) as parts:
        for sender in senders:
            sender.start()
        _wait_for(lambda: store.progress().watermark_us > BASE_US)
        if measured:
            _recovery(site, store, senders)
        for outage in outages:
            before = [parts.log(number) for number in range(len(PARTS))]
            with dependencies.away(outage):
                time.sleep(seconds)
            recovery = _recovery(site, store, senders) if measured else None
            told = _told(parts, before, dependencies.address(outage))
            parts.check()
            reports.append(Report(*outage, seconds, told, recovery))
        for sender in senders:
            sender.stopping.set()
        for sender in senders:
            sender.finish()
        wait_until_even(site, store, max(s.last_known_us for s in senders), parts)
    return reports, judged(senders, site.files, store, kills=0, restarts=0)


def _recovery(site: Site, store: LiveStore, senders: Sequence[Sending]) -> float:
    began = time.monotonic()
    known_us = max(sender.last_known_us for sender in senders)
    ends: Mapping[tuple[str, int], int] = {}

    def recovered() -> bool:
        nonlocal ends
        found = standing(site.broker.log, site.files, store)
        if not ends and found.watermark_us > known_us:
            ends = {(p.topic, p.partition): p.end for p in found.partitions}
        return bool(ends) and all(p.landed >= ends[p.topic, p.partition] for p in found.partitions)

    _wait_for(recovered)
    return round(time.monotonic() - began, 1)


def _wait_for(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + FINISH_SECONDS
    while True:
        with suppress(StoreUnavailableError):
            if reached():
                return
        assert time.monotonic() < deadline, reached
        time.sleep(0.1)


def _told(parts: Parts, before: Sequence[str], address: str) -> dict[str, int]:
    return {
        name: sum(address in line for line in parts.log(n)[len(before[n]) :].splitlines())
        for n, name in enumerate(parts.names)
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30, help="how long each is away")
    parser.add_argument("--rate", type=float, default=200, help="events a second")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in ("kafka", "redis", "home"):
            (folder / name).mkdir()
        kafka = KafkaService(folder / "kafka").start()
        stack.callback(kafka.kill)
        redis = RedisService(folder / "redis", append_only=True).start()
        stack.callback(redis.kill)
        s3 = S3Store()
        stack.callback(s3.close)
        reports, figures = stream_through_outages(
            Dependencies(redis, kafka, s3),
            folder / "home",
            OUTAGES,
            seconds=options.seconds,
            rate=options.rate,
            measured=True,
        )
        for report in reports:
            sys.stdout.write(f"{asdict(report)}\n")
        sys.stdout.write(f"{asdict(figures)}\n")


if __name__ == "__main__":
    main()
