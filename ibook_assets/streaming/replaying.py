"""Replaying recorded rows through a gateway, as if they happened now, only faster."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ibook_assets.core.arrow import array, integers
from ibook_assets.core.errors import ContractError
from ibook_assets.core.ids import MISSING_ID
from ibook_assets.streaming.gateway import Gateway

TICK_SECONDS: Final = 0.05
"""Rows due within a tick are sent together."""

MISSING_USER: Final = 0
"""Key of rows whose user nobody knows, such as a visitor without an account."""


@dataclass(frozen=True, slots=True)
class Recording:
    """Rows of one table, the users they belong to, and when each was known."""

    rows: pa.Table
    users: npt.NDArray[np.int64]
    known_us: npt.NDArray[np.int64]


def recorded(
    tables: Mapping[str, pa.Table], user_of_order: Mapping[int, int]
) -> dict[str, Recording]:
    """Recordings of raw tables by name.

    Args:
        tables: rows with `known_ts`; those without a `user_id` name an order.
        user_of_order: buyer of every order that such rows name and `tables` does not hold.
    """
    buyers = dict(user_of_order)
    if "transactions" in tables:
        orders = tables["transactions"]
        ids = integers(orders["transaction_id"], null=MISSING_ID).tolist()
        buyers |= dict(zip(ids, integers(orders["user_id"], null=0).tolist(), strict=True))
    found = {}
    for name, rows in tables.items():
        if "user_id" in rows.column_names:
            users = integers(rows["user_id"], null=MISSING_USER)
        else:
            named = integers(rows["transaction_id"], null=MISSING_ID).tolist()
            users = np.array([buyers.get(order, MISSING_USER) for order in named], np.int64)
        found[name] = Recording(rows, users, integers(rows["known_ts"], null=0))
    return found


def replay(
    recordings: Mapping[str, Recording],
    gateway: Gateway,
    *,
    clock: Callable[[], int],
    seconds: float,
    stop: threading.Event,
) -> int:
    """Send everything, spread over `seconds` as it was spread in time; the rows that were sent.

    Args:
        recordings: see `recorded`.
        gateway: assigns the new times of knowledge.
        clock: the gateway's clock (microseconds). What is sent occurred as long before it as it
            had occurred before it was known.
        seconds: how long to take. Rows behind their schedule are sent at once, so the rate holds
            on average.
        stop: ends the replay early.

    Raises:
        ContractError: there is nothing to replay.
        StoreUnavailableError: the log does not take rows any more.
    """
    times = [r.known_us for r in recordings.values() if len(r.known_us)]
    if not times:
        msg = "nothing to replay: the recording has no rows; choose another day"
        raise ContractError(msg)
    first = min(int(t.min()) for t in times)
    span_us = max(int(t.max()) for t in times) - first + 1
    started = time.monotonic()
    sent = 0
    for due_seconds, chunk in _ticks(recordings, first, seconds / span_us):
        wait = started + due_seconds - time.monotonic()
        if stop.wait(max(wait, 0.0)):
            break
        for name, recording in chunk.items():
            gateway.send_rows(name, _as_if_now(recording, clock()), recording.users)
            sent += recording.rows.num_rows
    gateway.flush()
    return sent


def _ticks(
    recordings: Mapping[str, Recording], first_us: int, seconds_per_us: float
) -> Iterator[tuple[float, dict[str, Recording]]]:
    """When each tick is due, and the rows that fall into it."""
    ticks = {
        name: ((r.known_us - first_us) * seconds_per_us / TICK_SECONDS).astype(np.int64)
        for name, r in recordings.items()
    }
    for tick in np.unique(np.concatenate(list(ticks.values()))).tolist():
        yield (
            tick * TICK_SECONDS,
            {
                name: _taken(recording, ticks[name] == tick)
                for name, recording in recordings.items()
                if (ticks[name] == tick).any()
            },
        )


def _as_if_now(recording: Recording, now_us: int) -> pa.Table:
    rows = recording.rows
    if "occurred_ts" not in rows.column_names:
        return rows
    ago = recording.known_us - integers(rows["occurred_ts"], null=0)
    column = rows.column_names.index("occurred_ts")
    return rows.set_column(column, rows.schema.field(column), array(now_us - ago))


def _taken(recording: Recording, rows: npt.NDArray[np.bool_]) -> Recording:
    return Recording(
        recording.rows.filter(array(rows)), recording.users[rows], recording.known_us[rows]
    )
