"""Rows 8 and 10 for the scoring server: what it needs goes away while it is under load.

The long form: `python -m tests.reliability.serving --seconds 20 --rate 500`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import httpx
import msgspec

from bench.serving_load import BEGUN, Load
from ibook_assets.core.settings import Settings
from ibook_assets.stores.online.opening import open_live
from tests.services.redis_server import RedisService
from tests.serving.harness import RunningServer, eventually, promote, running, small_bundle
from tests.serving.history import fill_live, later, orders, publish_history

Fault = Literal[
    "redis refused", "redis frozen", "store missing", "process killed", "process frozen"
]

FAULTS: Final[tuple[Fault, ...]] = (
    "redis refused",
    "redis frozen",
    "store missing",
    "process killed",
    "process frozen",
)
CONNECTIONS: Final = 64


@dataclass(frozen=True, slots=True)
class Report:
    """What a fault did to the answers."""

    fault: Fault
    during: Load
    after: Load
    recovery_seconds: float
    """From the end of the fault until both processes answer as before."""

    @property
    def degraded_share(self) -> float:
        """Share of the answers during the fault that say that something was missing."""
        return self.during.degraded / max(1, self.during.answers)


class Site:
    """A server of two processes with a promoted model, a snapshot and a fresher live store."""

    def __init__(self, folder: Path, redis: RedisService | None) -> None:
        self.settings = Settings(home=folder / "home")
        self.redis = redis
        self.address = redis.url if redis else self.settings.live_store
        self.bodies = folder / "bodies.msgpack"
        # Above one, nothing is explained: reasons are no part of what is measured here.
        promote(self.settings, small_bundle("fraud-v1", seed=1, threshold=1.5))
        publish_history(self.settings)
        self.fill()
        self.bodies.write_bytes(
            msgspec.msgpack.encode([msgspec.json.encode({"requests": [o]}) for o in orders(100)])
        )

    def fill(self) -> None:
        """Fill the live store, as a backfill does."""
        store = open_live(self.address)
        fill_live(store, as_of_us=later(1))
        store.close()

    @contextmanager
    def serving(self) -> Iterator[RunningServer]:
        """The server, once both of its processes answer from the live store."""
        environment = {"IBOOK_ONLINE_URL": self.address}
        with running(self.settings, processes=2, environment=environment) as server:
            self.wait_until_well(server)
            yield server

    def wait_until_well(self, server: RunningServer) -> None:
        """Wait until two processes answer, and from the live store."""

        def well() -> bool:
            try:
                return len(server.asked_anew("process")) >= 1 and all(
                    str(name).startswith("live-") for name in server.asked_anew("online_snapshot")
                )
            except (OSError, httpx.HTTPError):
                return False

        eventually(well, what="answering from the live store")
        eventually(lambda: len(server.api_processes()) >= 2, what="two processes")

    def load(self, server: RunningServer, *, seconds: float, rate: float) -> Load:
        """Open-loop load from a process of its own."""
        with self.loading(server, seconds=seconds, rate=rate) as process:
            output, _ = process.communicate(timeout=seconds + 60)
        return Load(**json.loads(output))

    @contextmanager
    def loading(
        self, server: RunningServer, *, seconds: float, rate: float
    ) -> Iterator[subprocess.Popen[str]]:
        """The same, while something else is done."""
        command = [sys.executable, "-m", "bench.serving_load", "--bodies", str(self.bodies)]
        command += ["--port", str(server.client.base_url.port), "--connections", str(CONNECTIONS)]
        command += ["--seconds", str(seconds), "--rate", str(rate), "--announce"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == BEGUN
            yield process


def under(
    site: Site, server: RunningServer, fault: Fault, *, seconds: float, rate: float
) -> Report:
    """Load `server` while `fault` happens, and again when everything is well."""
    with site.loading(server, seconds=seconds, rate=rate) as process:
        # The load's first seconds still see everything well; the rest does not.
        time.sleep(seconds / 5)
        _break(fault, site, server)
        output, _ = process.communicate(timeout=seconds + 60)
    ended = time.monotonic()
    _mend(fault, site)
    site.wait_until_well(server)
    recovery = time.monotonic() - ended
    after = site.load(server, seconds=min(seconds / 2, 3), rate=rate)
    return Report(fault, Load(**json.loads(output)), after, recovery)


@contextmanager
def site_with(folder: Path, faults: Sequence[Fault]) -> Iterator[Site]:
    """A site on Redis when one of `faults` needs it, else on LMDB."""
    folder.mkdir(parents=True)
    if not any(fault.startswith("redis") for fault in faults):
        yield Site(folder, None)
        return
    redis = RedisService(folder)
    try:
        yield Site(folder, redis.start())
    finally:
        redis.restore()
        redis.kill()


def _break(fault: Fault, site: Site, server: RunningServer) -> None:
    if fault == "redis refused":
        assert site.redis is not None
        site.redis.kill()
    elif fault == "redis frozen":
        assert site.redis is not None
        site.redis.pause()
    elif fault == "store missing":
        shutil.rmtree(site.settings.live_store)
    else:
        number = signal.SIGKILL if fault == "process killed" else signal.SIGSTOP
        os.kill(_api_process(server), number)


def _mend(fault: Fault, site: Site) -> None:
    if fault == "redis refused":
        assert site.redis is not None
        site.redis.start()
        site.fill()
    elif fault == "redis frozen":
        assert site.redis is not None
        site.redis.resume()
    elif fault == "store missing":
        site.fill()


def _api_process(server: RunningServer) -> int:
    (pid, *_) = server.asked_anew("process")
    return int(pid)


def table(reports: Sequence[Report]) -> str:
    """The figures as docs/reliability.md has them."""
    lines = []
    for r in reports:
        failed = sum(r.during.failures.values())
        lines.append(
            f"| {r.fault} | {r.during.answers + failed:,} | {failed} | {r.during.p50_ms:.1f} | "
            f"{r.during.p99_ms:.0f} | {max(r.during.max_ms, r.during.longest_failure_ms):,.0f} | "
            f"{r.degraded_share:.0%} | {r.recovery_seconds:.1f} | "
            f"{r.after.p99_ms:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=500.0)
    parser.add_argument("faults", nargs="*", default=FAULTS)
    options = parser.parse_args()
    reports = []
    with tempfile.TemporaryDirectory() as folder:
        for fault in options.faults:
            place = Path(folder) / fault.replace(" ", "-")
            with site_with(place, [fault]) as site, site.serving() as server:
                load = {"seconds": options.seconds, "rate": options.rate}
                reports.append(under(site, server, fault, **load))
    sys.stdout.write(f"load average {os.getloadavg()[0]:.1f}\n{table(reports)}\n")


if __name__ == "__main__":
    main()
