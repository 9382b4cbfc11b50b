"""Run `dagster asset materialize` as a user would, and show how far it is."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import dagster as dg
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from ibook_assets.cli.console import console
from ibook_assets.cli.processes import child
from ibook_assets.core.errors import IbookError

MODULE: Final = "ibook_assets.definitions"

_POLL_SECONDS: Final = 1.0

_LATEST_RUNS: Final = 20
"""Runs among which the shown one is; others may begin meanwhile."""


class MaterialisationFailedError(IbookError):
    """A Dagster run of the demo failed."""


def keys_of(*groups: str) -> list[dg.AssetKey]:
    """What can be materialised of the groups of the graph."""
    from ibook_assets.definitions import defs

    graph = defs.resolve_asset_graph()
    found = dg.AssetSelection.groups(*groups).resolve(graph)
    return sorted(found & graph.materializable_asset_keys)


def materialise(
    keys: Sequence[dg.AssetKey],
    *,
    log: Path,
    days: tuple[str, str] | None = None,
    env: dict[str, str] | None = None,
    shown: bool = True,
) -> None:
    """Materialise `keys`, for the partitions of the first to the last of `days` where given.

    Args:
        keys: what to materialise, in one run.
        log: file for what the command prints.
        days: first and last partition.
        env: variables that differ from this process's.
        shown: whether to show how far it is; of several at a time only one can.

    Raises:
        MaterialisationFailedError: the run failed; the message ends with its last errors.
    """
    select = ",".join(f'key:"{key.to_user_string()}"' for key in keys)
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", MODULE]
    command += ["--select", select]
    if days:
        command += ["--partition-range", "...".join(days)]
    started = time.time()
    with child("dagster", command, log=log, env=env) as run:
        if shown:
            _show(run.process, since=started)
        run.process.wait()
        if run.process.returncode != 0:
            msg = f"materialising {select} failed; the whole log is {log}. It ends:\n{run.tail(40)}"
            raise MaterialisationFailedError(msg)


def _show(process: subprocess.Popen[bytes], *, since: float) -> None:
    """Show the progress of the first run after `since` until `process` ends."""
    with dg.DagsterInstance.get() as instance, _progress() as progress:
        task = progress.add_task("starting Dagster", total=None)
        while process.poll() is None:
            _update(progress, task, _steps(instance, since=since))
            time.sleep(_POLL_SECONDS)
        _update(progress, task, _steps(instance, since=since))
        progress.update(task, description="done" if process.returncode == 0 else "failed")


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=console,
    )


def _steps(instance: dg.DagsterInstance, *, since: float) -> dict[str, str]:
    """Step to `waiting`, `running` or `done`, of the first run that began after `since`."""
    later = [
        record
        for record in instance.get_run_records(limit=_LATEST_RUNS)
        if record.create_timestamp.timestamp() >= since - 1
    ]
    if not later:
        return {}
    run = later[-1].dagster_run
    if run.execution_plan_snapshot_id is None:
        return {}
    plan = instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
    steps = dict.fromkeys(plan.step_keys_to_execute, "waiting")
    events = instance.get_records_for_run(
        run.run_id,
        of_type={dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_SUCCESS},
    )
    for record in events.records:
        event = record.event_log_entry.dagster_event
        if event is not None and event.step_key:
            started = event.event_type == dg.DagsterEventType.STEP_START
            steps[event.step_key] = "running" if started else "done"
    return steps


def _update(progress: Progress, task: TaskID, steps: Mapping[str, str]) -> None:
    if not steps:
        return
    states = list(steps.values())
    progress.update(task, total=len(states), completed=states.count("done"))
    running = [name.replace("__", "/") for name, state in steps.items() if state == "running"]
    if running:
        progress.update(task, description=running[0])
