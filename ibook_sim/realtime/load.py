"""Orders with the moment each is due: made by the world, or recorded before."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ibook_assets.core.arrow import array, integers
from ibook_assets.core.errors import ContractError, NotFoundError
from ibook_assets.core.tables import TRANSACTIONS
from ibook_sim.chaos import NO_CHAOS, Chaos, deliver
from ibook_sim.drift import DriftedWorld
from ibook_sim.export import TRUTH_FOLDER, day_path
from ibook_sim.realtime.schedule import MAX_REQUESTS, arrivals
from ibook_sim.scenarios.spec import Scenario
from ibook_sim.world.randomness import Bools, Floats

FLAGGED_ABOVE: Final = 0.5
"""P(fraud | the order alone) from which an offline answer holds the order for review."""
MAX_DAYS: Final = 3_650


@dataclass(frozen=True, slots=True)
class Load:
    """Orders to send; shape (n,) each."""

    name: str
    rows: pa.Table
    """Columns of `TRANSACTIONS`."""
    due: Floats
    seconds: float
    fraud: Bools | None
    """Ground truth, where it is known."""
    flagged: Bools
    """What an offline answer says."""
    seed: int
    chaos: Chaos = NO_CHAOS


def simulated(asked: Scenario, *, seed: int, rps: float, seconds: float) -> Load:
    """The first orders of the scenario's world, as they arrive, on its schedule.

    Raises:
        ContractError: the schedule cannot be, the scenario is a mix, or its world has too few
            orders.
    """
    if asked.parts:
        msg = f"{asked.name} mixes scenarios; realtime plays one world: choose one of its parts"
        raise ContractError(msg)
    due = arrivals(rps, seconds, seed=seed, traffic=asked.traffic)
    config = asked.config(seed)
    world, count = DriftedWorld(config, asked.drift), due.size
    rows, truth, found = [], [], 0
    for number in range(MAX_DAYS):
        day = config.start_date + timedelta(days=number)
        sent = world.transactions(day)
        delivery = deliver(sent, TRANSACTIONS, asked.chaos, seed=seed)
        rows.append(delivery.rows)
        truth.append(world.truth([day])[day].take(array(delivery.origin)))
        found += delivery.rows.num_rows
        if found >= count:
            break
    else:
        msg = (
            f"{MAX_DAYS} days hold {found:,} orders, {count:,} are asked: lower --rps or --duration"
        )
        raise ContractError(msg)
    known = pa.concat_tables(truth).slice(0, count)
    return Load(
        asked.name,
        pa.concat_tables(rows).slice(0, count),
        due,
        seconds,
        integers(known["archetype"], null=0) > 0,
        np.asarray(known["row_posterior"]) >= FLAGGED_ABOVE,
        seed,
        asked.chaos,
    )


def recorded(folder: Path, first: date, days: int, *, speed: float, seed: int) -> Load:
    """Orders that `world` wrote to `folder`, spread as they were known, `speed` times as fast.

    Raises:
        NotFoundError: a day is not in `folder`.
        ContractError: the days hold no orders, or more than one run may.
    """
    dates = [first + timedelta(days=number) for number in range(days)]
    rows = pa.concat_tables([_read(folder, TRANSACTIONS.name, day) for day in dates])
    if not 0 < rows.num_rows <= MAX_REQUESTS:
        msg = (
            f"{days} days from {first} hold {rows.num_rows:,} orders; 1 to {MAX_REQUESTS:,} can run"
        )
        raise ContractError(msg)
    known = integers(rows["known_ts"], null=0)
    due = (known - known[0]) / 1e6 / speed
    truth_folder = folder / TRUTH_FOLDER
    fraud, flagged = None, np.zeros(rows.num_rows, np.bool_)
    if truth_folder.exists():
        truth = pa.concat_tables([_read(truth_folder, "orders", day) for day in dates])
        fraud = integers(truth["archetype"], null=0) > 0
        flagged = np.asarray(truth["row_posterior"]) >= FLAGGED_ABOVE
    seconds = float(due[-1]) + 1e-3
    return Load("replay", rows, due, seconds, fraud, flagged, seed)


def _read(folder: Path, table: str, day: date) -> pa.Table:
    path = day_path(folder, table, day)
    if not path.exists():
        msg = f"{path} does not exist; record days with `world --days N --out {folder}`"
        raise NotFoundError(msg)
    return pq.ParquetFile(path).read()
