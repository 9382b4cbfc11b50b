"""The platform whose loop is played under kills: its world, and where its runs kill themselves.

It is the product's, but for three things: a model of few orders may pass the gate, sensors tick
every second, and a run kills itself at each point that `IBOOK_LOOP_CRASHES` names, once.
`python -m tests.reliability.looping_world` makes the world that the loop begins with.
"""

import os
import signal
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.settings import Settings
from ibook_assets.core.use_cases import FRAUD, USE_CASES
from ibook_assets.definitions import build_defs
from ibook_assets.defs import retraining, rollout
from ibook_assets.defs.monitoring import drift_key
from ibook_assets.defs.partitions import daily
from ibook_assets.stores.local_blobs import LocalBlobs
from ibook_assets.stores.registry import ModelRegistry
from tests.quick_fraud import QUICK

HISTORY_DAYS = 30
DRIFTED_DAYS = 3
DRIFT_JOB = "drift_of_a_day"

WRITES = {
    "drift record": f"monitoring/feature_drift/{FRAUD.name}/*/decision.json",
    "training set": f"{FRAUD.name}/training_set/_newest",
    "model": f"models/{FRAUD.name}/_newest.json",
    "evaluation": f"reports/{FRAUD.name}/*/evaluation.json",
    "candidate": f"rollouts/{FRAUD.name}/log/*1.json",
    "gated": f"rollouts/{FRAUD.name}/log/*2.json",
    "shadow decided": f"rollouts/{FRAUD.name}/log/*3.json",
    "shadow": f"promotions/{FRAUD.name}/*2.json",
    "canary decided": f"rollouts/{FRAUD.name}/log/*4.json",
    "canary": f"promotions/{FRAUD.name}/*3.json",
    "champion decided": f"rollouts/{FRAUD.name}/log/*5.json",
    "champion": f"promotions/{FRAUD.name}/*4.json",
    "card": f"cards/{FRAUD.name}/*.md",
    "second canary decided": f"rollouts/{FRAUD.name}/log/*8.json",
    "second canary": f"promotions/{FRAUD.name}/*5.json",
    "rolled back decided": f"rollouts/{FRAUD.name}/log/*9.json",
    "rolled back": f"promotions/{FRAUD.name}/*6.json",
}
"""What a transition of the loop writes last, by the keys of the lake."""
MIRROR = "mirrored"
POINTS = [f"{when} {name}" for name in (*WRITES, MIRROR) for when in ("before", "after")]


def day(number: int) -> date:
    """A day of the world; 0 is the first."""
    return date(2026, 1, 1) + timedelta(days=number)


def crash_once(point: str) -> None:
    """Kill this process with SIGKILL if `point` was asked for and did not come yet."""
    if point not in os.environ.get("IBOOK_LOOP_CRASHES", "").split(","):
        return
    folder = Path(os.environ["IBOOK_HOME"]) / "crashed"
    folder.mkdir(exist_ok=True)
    try:
        (folder / point.replace(" ", "_")).touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def _crashing(call: Callable[..., Any], point_of: Callable[..., str | None]) -> Callable[..., Any]:
    def crashing(*args: Any, **options: Any) -> Any:
        point = point_of(*args)
        if point is None:
            return call(*args, **options)
        crash_once(f"before {point}")
        done = call(*args, **options)
        crash_once(f"after {point}")
        return done

    return crashing


def _written(_: LocalBlobs, key: str, *__: Any) -> str | None:
    return next((name for name, keys in WRITES.items() if Path(key).match(keys)), None)


def with_crash_points() -> None:
    """Let sensors tick every second, and this process kill itself where it is asked to."""
    for module in (retraining, rollout):
        setattr(module, "SECONDS_BETWEEN", 1)  # noqa: B010 - mypy forbids the plain way
    for owner, name, point_of in (
        (LocalBlobs, "put", _written),
        (LocalBlobs, "create", _written),
        (
            ModelRegistry,
            "set_alias",
            lambda _, __, alias, *___: MIRROR if alias == "champion" else None,
        ),
    ):
        setattr(owner, name, _crashing(getattr(owner, name), point_of))


def platform() -> dg.Definitions:
    """The graph with its crash points."""
    USE_CASES[FRAUD.name] = QUICK
    with_crash_points()
    settings = Settings()
    monitoring = dg.define_asset_job(
        DRIFT_JOB,
        selection=dg.AssetSelection.assets(drift_key(FRAUD)),
        partitions_def=daily(settings),
    )
    return dg.Definitions.merge(build_defs(settings), dg.Definitions(jobs=[monitoring]))


def prepare() -> None:
    """A champion that has learnt from the first days, and days after those that have drifted."""
    history = [
        ["truth", "orders"],
        *(
            [kind, name]
            for kind in ("raw", "facts")
            for name in ("transactions", "views", "refunds", "outcomes")
        ),
        *(["features", view.name] for view in FEATURE_VIEWS),
    ]
    last = HISTORY_DAYS + DRIFTED_DAYS - 1
    model = [[FRAUD.name, name] for name in ("training_set", "model", "evaluation", "promotion")]
    graph = platform()
    with dg.DagsterInstance.get() as instance:
        for keys, days in (
            ([["raw", "events"]], None),
            (history, (day(0), day(HISTORY_DAYS - 1))),
            (model, None),
            (history, (day(HISTORY_DAYS), day(last))),
        ):
            _materialise(graph, instance, keys, days)


def _materialise(
    graph: dg.Definitions,
    instance: dg.DagsterInstance,
    keys: list[list[str]],
    days: tuple[date, date] | None,
) -> None:
    wanted = [dg.AssetKey(key) for key in keys]
    job = graph.resolve_implicit_job_def_def_for_assets(wanted)
    assert job is not None
    tags = {}
    if days is not None:
        tags["dagster/asset_partition_range_start"] = days[0].isoformat()
        tags["dagster/asset_partition_range_end"] = days[1].isoformat()
    job.execute_in_process(asset_selection=wanted, tags=tags, instance=instance)


if __name__ == "__main__":
    prepare()
