"""A job whose steps wait just before they commit; Dagster's own processes load this file.

A run that is a retry does not wait.
"""

import os
import time
from pathlib import Path

import dagster as dg
import pyarrow as pa

from ibook_assets.core.errors import RunNotLiveError
from ibook_assets.defs.runs import fails_fast, live_run_check
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.local_blobs import LocalBlobs

HOME = Path(os.environ["IBOOK_ORPHANS"])
DAY = "2026-01-01"
WAIT_SECONDS = 180


def commit_late(context: dg.AssetExecutionContext) -> None:
    """Commit the number of this attempt; files tell the test what happens."""
    name = context.asset_key.path[-1]
    first = context.run.parent_run_id is None
    if first:
        told = HOME / f"{name}.starting"
        told.write_text(f"{os.getpid()} {os.getppid()}")
        told.rename(HOME / f"{name}.started")
    deadline = time.monotonic() + WAIT_SECONDS
    while first and not (HOME / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    rows = pa.table({"attempt": pa.array([1 if first else 2], pa.int64())})
    lake = Lake(LocalBlobs(HOME / "lake"))
    try:
        lake.write(f"facts/{name}", DAY, rows, precommit=live_run_check(context))
    except RunNotLiveError as error:
        (HOME / f"{name}.refused").write_text(str(error))
        raise
    with (HOME / f"{name}.commits").open("a") as file:
        file.write(f"{context.run.run_id}\n")


@dg.asset
@fails_fast
def dying(context: dg.AssetExecutionContext) -> None:
    """As all of ours: it ends with its run worker."""
    commit_late(context)


@dg.asset
def orphan(context: dg.AssetExecutionContext) -> None:
    """It outlives its run worker, as it would where the kernel cannot end it."""
    commit_late(context)


job = dg.define_asset_job("late", executor_def=dg.multiprocess_executor)
defs = dg.Definitions(assets=[dying, orphan], jobs=[job])
