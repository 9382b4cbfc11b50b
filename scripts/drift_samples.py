"""Write `data/sample/drift_*.csv`: orders of a world before and after its prices drifted."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.csv

from ibook_sim.drift import Drift, DriftedWorld
from ibook_sim.world import World, WorldConfig

FOLDER: Final = Path("data/sample")
COLUMNS: Final = ("amount_cents", "quantity", "tier", "channel", "declines", "avs_match")
CONFIG: Final = WorldConfig(seed=7, users=2_000, events=60, orders_per_day=300)
REFERENCE_DAYS: Final = 7
CURRENT_DAYS: Final = 3
LEVEL: Final = 0.7


def main() -> None:
    """Write both files."""
    first = CONFIG.start_date + timedelta(days=14)
    FOLDER.mkdir(parents=True, exist_ok=True)
    before = World(CONFIG)
    after = DriftedWorld(CONFIG, Drift(level=LEVEL, axes=("covariate",)))
    _write("reference", before, first, REFERENCE_DAYS)
    _write("current", after, first + timedelta(days=REFERENCE_DAYS), CURRENT_DAYS)


def _write(name: str, world: World, first: date, days: int) -> None:
    tables = [world.transactions(first + timedelta(days=n)) for n in range(days)]
    rows = pa.concat_tables(tables).select(list(COLUMNS))
    pyarrow.csv.write_csv(rows, FOLDER / f"drift_{name}.csv")


if __name__ == "__main__":
    main()
