"""The small world that most tests look at."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ibook_sim.world import WorldConfig, days_from

CONFIG = WorldConfig(users=6_000, events=120, orders_per_day=500)
DAYS = days_from(CONFIG.start_date, 100)


def ints(table: pa.Table, column: str) -> npt.NDArray[np.int64]:
    return np.asarray(table[column], dtype=np.int64)
