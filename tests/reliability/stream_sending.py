"""Sending a world's events into the log while things break, and remembering what was said."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ibook_assets.core.arrow import integers
from ibook_assets.core.errors import StoreUnavailableError
from ibook_assets.core.tables import EVENTS, RAW_TABLES
from ibook_assets.core.times import day_start_us
from ibook_assets.stores.log import LogAddress
from ibook_assets.streaming.gateway import Gateway
from ibook_assets.streaming.replaying import Recording, recorded
from ibook_sim.world import World

DAY: Final = date(2026, 1, 20)
BASE_US: Final = day_start_us(DAY)
PARTITIONS: Final = 4
CHUNK_ROWS: Final = 500


class Sending(threading.Thread):
    """Sends a world's events through one gateway."""

    def __init__(
        self,
        log: LogAddress,
        world: World,
        events: int,
        *,
        name: str = "door",
        share: tuple[int, int] = (0, 1),
        rows_per_second: float | None = None,
        singly: bool = False,
    ) -> None:
        """Prepare; `start` sends, as quickly as the log takes them unless a rate is given.

        `singly` it sends each event again until the gateway has taken it, as a client would.

        Several that share a world's events, (number, how many), have gateways of their own.
        """
        super().__init__(name=name)
        self._log = log
        self._seconds_per_row = 1 / rows_per_second if rows_per_second else 0.0
        self._singly = singly
        self.catalogue = world.catalogue(DAY).events
        self._recordings = _share(_recordings(world, events), *share)
        self.tables: dict[str, list[pa.Table]] = {spec.name: [] for spec in RAW_TABLES}
        self.sent = 0
        self.refusals: list[str] = []
        """What the gateway said when it took no events for a while."""
        self.last_known_us = BASE_US
        self.stopping = threading.Event()
        """Ends the sending early."""
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._send_everything()
        except Exception as error:  # noqa: BLE001 - a thread's error is raised by who joins it
            self.error = error

    def finish(self) -> None:
        """Wait until everything is sent; raises what went wrong."""
        self.join()
        if self.error is not None:
            raise self.error

    def _send_everything(self) -> None:
        began = time.monotonic_ns()

        def clock() -> int:
            return BASE_US + (time.monotonic_ns() - began) // 1_000

        with Gateway(
            self._log, gateway_id=self.name, partitions=PARTITIONS, clock=clock
        ) as gateway:
            ids = integers(self.catalogue["event_id"], null=0)
            gateway.send_rows(EVENTS.name, self.catalogue, ids)
            self._flush(gateway)
            for name, chunk in _chunks(self._recordings, 1 if self._singly else CHUNK_ROWS):
                if self.stopping.wait(self._seconds_per_row * chunk.rows.num_rows):
                    break
                rows = occurring_at(chunk.rows, clock())
                if self._singly:
                    known_us = self._send_singly(gateway, name, rows, chunk.users)
                else:
                    answer = gateway.send_rows(name, rows, chunk.users)
                    assert not answer.refused
                    known_us = answer.known_us
                self.tables[name].append(known_at(rows, known_us))
                self.last_known_us = int(known_us[-1])
                self.sent += rows.num_rows
            self._flush(gateway)

    def _send_singly(
        self, gateway: Gateway, name: str, rows: pa.Table, users: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """When each row became known, however often the gateway had to be asked."""
        known_us = []
        for row, user in zip(rows.to_pylist(), users.tolist(), strict=True):
            while True:
                try:
                    known_us.append(gateway.send(name, row, user_id=user))
                except StoreUnavailableError as error:
                    self.refusals.append(str(error))
                    continue
                break
        return np.array(known_us, np.int64)

    def _flush(self, gateway: Gateway) -> None:
        while True:
            try:
                gateway.flush()
            except StoreUnavailableError as error:
                self.refusals.append(str(error))
                continue
            return


def occurring_at(rows: pa.Table, times_us: int | npt.NDArray[np.int64]) -> pa.Table:
    """The rows as if they had occurred at other times."""
    return _with(rows, "occurred_ts", np.broadcast_to(times_us, rows.num_rows))


def known_at(rows: pa.Table, known_us: npt.NDArray[np.int64]) -> pa.Table:
    """The rows as they became known."""
    return _with(rows, "known_ts", known_us)


def _with(rows: pa.Table, name: str, values: npt.NDArray[np.int64]) -> pa.Table:
    if name not in rows.column_names:
        return rows
    at = rows.column_names.index(name)
    return rows.set_column(at, rows.schema.field(at), pa.array(values, pa.int64()))


def _recordings(world: World, events: int) -> dict[str, Recording]:
    """`events` rows of a world's days, of all tables."""
    found: dict[str, list[pa.Table]] = {spec.name: [] for spec in RAW_TABLES}
    rows, day = 0, DAY
    while rows < events:
        for name, table in world.day(day).items():
            if name in found:
                found[name].append(table.slice(0, max(events - rows, 0)))
                rows += found[name][-1].num_rows
        day += timedelta(days=1)
    return recorded({name: pa.concat_tables(tables) for name, tables in found.items()}, {})


def _share(recordings: Mapping[str, Recording], number: int, of: int) -> dict[str, Recording]:
    mine = slice(number, None, of)
    return {
        name: Recording(
            r.rows.take(np.arange(r.rows.num_rows)[mine]), r.users[mine], r.known_us[mine]
        )
        for name, r in recordings.items()
    }


def _chunks(recordings: Mapping[str, Recording], rows: int) -> Iterator[tuple[str, Recording]]:
    """Pieces of all tables in turn, so that orders, views and outcomes interleave."""
    pieces = max(len(r.users) for r in recordings.values()) // rows + 1
    for piece in range(pieces):
        for name, recording in recordings.items():
            size = -(-len(recording.users) // pieces)
            at = slice(piece * size, (piece + 1) * size)
            taken = recording.rows.slice(at.start, size)
            if taken.num_rows:
                yield name, Recording(taken, recording.users[at], recording.known_us[at])
