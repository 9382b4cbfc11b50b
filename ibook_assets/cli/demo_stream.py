"""The demo's stream: the day after history, event by event, while the model is trained."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final

import dagster as dg
import numpy as np
from rich.table import Table

from ibook_assets.cli import stream_parts as parts
from ibook_assets.cli.console import console
from ibook_assets.cli.materialise import materialise
from ibook_assets.cli.processes import Child, child, free_port
from ibook_assets.core.errors import IbookError, NotFoundError, StoreUnavailableError
from ibook_assets.core.settings import Settings
from ibook_assets.core.times import day_start_us
from ibook_assets.stores.skew_days import FEATURE_LOG_TABLE, recorded_counts

REPLAY_SECONDS: Final = 30
"""How long the day's events take."""

KAFKA_PORT: Final = 9092

EVEN_SECONDS: Final = 90.0
"""How long landing and applying may lag behind before the demo gives up."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """What came of the replay."""

    sent: int
    freshness_us: tuple[int, ...]
    """How far the store's watermark was behind the gateway's clock, again and again."""
    vectors: int
    """Feature vectors that were computed online, and compared with batch once landed."""
    skew: dict[str, int]
    """What differed, by kind."""


class DemoStream:
    """A broker, sink, worker and probe of their own, and a day that is replayed and landed."""

    def __init__(
        self, config: Settings, day: date, process: Child, keys: Sequence[dg.AssetKey]
    ) -> None:
        self._config = config
        self._day = day
        self._keys = keys
        self._process = process
        self._clock = parts.clock_from(day_start_us(day))
        self._stop = threading.Event()
        self._freshness_us: list[int] = []
        self._sent = 0
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._replay_and_land, name="replay", daemon=True)
        self._thread.start()

    def finish(self) -> Streamed:
        """Wait until every event is landed and applied, and the day materialised.

        Raises:
            StoreUnavailableError: a part has ended, or does not keep up.
            MaterialisationFailedError: the day could not be landed.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        lake, key = parts.lake_of(self._config), self._day.isoformat()
        return Streamed(
            self._sent,
            tuple(self._freshness_us),
            lake.receipt(FEATURE_LOG_TABLE, key).rows,
            recorded_counts(lake, until=key, days=1)[key],
        )

    def stop(self) -> None:
        """Replay no more."""
        self._stop.set()
        self._thread.join()

    def _replay_and_land(self) -> None:
        try:
            self._wait_until_filled()
            watching = threading.Thread(target=self._watch, daemon=True)
            watching.start()
            self._sent = parts.replay_day(
                self._config,
                self._day,
                clock=self._clock,
                seconds=REPLAY_SECONDS,
                stop=self._stop,
            )
            self._wait_until_even()
            self._land()
        except IbookError as error:
            self._error = error

    def _wait_until_even(self) -> None:
        deadline = time.monotonic() + EVEN_SECONDS
        while not self._is_even() and not self._stop.is_set():
            self._process.check_alive()
            if time.monotonic() > deadline:
                msg = f"the stream is not even after {EVEN_SECONDS:.0f} s; see {self._process.log}"
                raise StoreUnavailableError(msg)
            time.sleep(0.5)

    def _land(self) -> None:
        """Materialise the day out of the log."""
        if self._stop.is_set():
            return
        key = self._day.isoformat()
        log = self._config.home / "demo" / "landing.log"
        env = _environment(self._config)
        materialise(self._keys, log=log, days=(key, key), env=env, shown=False)

    def _wait_until_filled(self) -> None:
        """Wait for the worker's backfill of history."""
        store = parts.live_store_of(self._config)
        deadline = time.monotonic() + EVEN_SECONDS
        while not self._stop.wait(0.2):
            self._process.check_alive()
            try:
                store.meta()
            except NotFoundError:
                if time.monotonic() > deadline:
                    raise
                continue
            return

    def _watch(self) -> None:
        store = parts.live_store_of(self._config)
        began_us = self._clock()
        until = time.monotonic() + REPLAY_SECONDS
        while time.monotonic() < until and not self._stop.wait(0.05):
            watermark_us = store.progress().watermark_us
            if watermark_us > began_us:
                self._freshness_us.append(self._clock() - watermark_us)

    def _is_even(self) -> bool:
        found = parts.standing_of(self._config)
        applied = all(p.applied == p.end for p in found.partitions if p.applied is not None)
        return applied and not any(p.sink_lag for p in found.partitions)


@contextmanager
def streaming(settings: Settings, day: date, keys: Sequence[dg.AssetKey]) -> Iterator[DemoStream]:
    """Replay `day` and materialise its `keys` while the block runs; the parts live as long."""
    bootstrap = f"127.0.0.1:{free_port(KAFKA_PORT)}"
    config = settings.model_copy(update={"kafka_bootstrap": bootstrap, "log_from": day})
    command = [str(Path(sys.executable).with_name("ibook")), "stream", "up"]
    log = settings.home / "demo" / "stream.log"
    with child("stream", command, log=log, env=_environment(config)) as process:
        stream = DemoStream(config, day, process, keys)
        try:
            yield stream
        finally:
            stream.stop()


def show(streamed: Streamed) -> None:
    """What came of the replay, for people."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("events streamed and landed", f"{streamed.sent:,}")
    if streamed.freshness_us:
        median, tail = np.percentile(streamed.freshness_us, (50, 99)) / 1_000
        table.add_row("online features behind now", f"median {median:,.0f} ms, p99 {tail:,.0f} ms")
    table.add_row("vectors online, held against batch bit by bit", f"{streamed.vectors:,}")
    table.add_row("of these", ", ".join(f"{n} {kind}" for kind, n in streamed.skew.items()))
    console.print(table)


def _environment(config: Settings) -> dict[str, str]:
    return {
        "IBOOK_KAFKA_BOOTSTRAP": config.kafka_bootstrap,
        "IBOOK_LOG_FROM": str(config.log_from),
    }
