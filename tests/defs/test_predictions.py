"""What servers wrote lands as daily assets: each trace once, damage shown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import msgspec
import pytest

from ibook_assets.core.predictions import Trace, sealed
from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import EXPERIMENT_OUTCOMES, PREDICTIONS
from ibook_assets.core.times import HOUR_US, day_start_us
from ibook_assets.definitions import build_defs
from ibook_assets.defs.predictions import CHECKSUMS_HOLD
from ibook_assets.defs.raw import NOTHING_QUARANTINED
from ibook_assets.defs.resources import LakeResource
from tests.defs.conftest import run
from tests.defs.sinking import lake_of, sink_messages
from tests.traces import a_trace

DAY = "2026-01-03"
NOON_US = day_start_us(datetime(2026, 1, 3, tzinfo=UTC).date()) + 12 * HOUR_US


def at_noon(request_id: str, **changes: Any) -> Trace:
    return a_trace(request_id, known_ts=NOON_US, features_as_of=NOON_US - 9, **changes)


def sink_traces(settings: Settings, *messages: bytes) -> None:
    times = [NOON_US // 1_000] * len(messages)
    sink_messages(settings, PREDICTIONS, list(messages), times)


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {e.check_name: e.passed for e in result.get_asset_check_evaluations()}


def test_each_trace_lands_once_with_counts_and_scores(small: Settings) -> None:
    first, shadow = at_noon("r-1"), at_noon("r-1", variant="shadow", served=False, score=0.9)
    sink_traces(small, sealed(first), sealed(shadow), sealed(first), sealed(at_noon("r-2")))
    result = run(small, [["raw", "predictions"]], days=(DAY, DAY))
    assert checks(result) == {NOTHING_QUARANTINED: True, CHECKSUMS_HOLD: True}
    rows = lake_of(small).read("raw/predictions", [DAY], spec=PREDICTIONS).to_pylist()
    found = [(row["request_id"], row["variant"], row["served"]) for row in rows]
    assert found == [
        ("r-1", "champion", True),
        ("r-1", "shadow", False),
        ("r-2", "champion", True),
    ]
    (event,) = result.get_asset_materialization_events()
    shown = event.step_materialization_data.materialization.metadata
    assert (shown["rows_champion"].value, shown["rows_shadow"].value) == (2, 1)
    assert shown["repeated_rows"].value == 1
    assert "data:image/png" in str(shown["scores"].value)


def test_a_changed_trace_is_landed_and_named(small: Settings) -> None:
    changed = sealed(at_noon("r-1")).replace(b'"score":0.25', b'"score":0.01')
    sink_traces(small, changed, sealed(at_noon("r-2")), b"no trace")
    result = run(small, [["raw", "predictions"]], days=(DAY, DAY))
    assert checks(result) == {NOTHING_QUARANTINED: False, CHECKSUMS_HOLD: False}
    (named,) = (e for e in result.get_asset_check_evaluations() if e.check_name == CHECKSUMS_HOLD)
    assert "trace r-1 (champion)" in str(named.metadata["traces"])
    assert "r-2" not in str(named.metadata["traces"])


def test_a_day_without_traces_is_empty(small: Settings) -> None:
    result = run(small, [["raw", "predictions"], ["raw", "experiment_outcomes"]], days=(DAY, DAY))
    assert all(checks(result).values())
    assert lake_of(small).read("raw/predictions", [DAY], spec=PREDICTIONS).num_rows == 0


def test_outcomes_land_by_what_was_reported(small: Settings) -> None:
    row = {
        "schema": "1.0",
        "outcome_id": "o-1",
        "occurred_ts": NOON_US - 5,
        "known_ts": NOON_US,
        "experiment": "fees",
        "request_id": "r-1",
        "user_id": 1042,
        "variant": "treatment",
        "outcome": "fraud",
    }
    messages = [msgspec.json.encode(row), msgspec.json.encode(row | {"known_ts": NOON_US + 7})]
    sink_messages(small, EXPERIMENT_OUTCOMES, messages, [NOON_US // 1_000] * 2)
    run(small, [["raw", "experiment_outcomes"]], days=(DAY, DAY))
    (found,) = lake_of(small).read("raw/experiment_outcomes", [DAY]).to_pylist()
    assert (found["variant"], found["outcome"], found["known_ts"]) == (
        "treatment",
        "fraud",
        NOON_US,
    )


@pytest.mark.parametrize(("log", "sensors"), [("off", 0), ("lake", 1), ("kafka", 1)])
def test_a_sensor_lands_days_that_are_over_unless_nothing_is_logged(
    small: Settings, instance: dg.DagsterInstance, log: str, sensors: int
) -> None:
    defs = build_defs(small.model_copy(update={"prediction_log": log}))
    found = [s for s in defs.sensors or () if s.name == "served_landing"]
    assert len(found) == sensors
    if not found:
        return

    def tick(cursor: str | None) -> Any:
        with dg.build_sensor_context(
            instance=instance,
            cursor=cursor,
            definitions=defs,
            resources={"lake": LakeResource(uri=small.lake)},
        ) as context:
            return defs.resolve_sensor_def("served_landing").evaluate_tick(context)

    assert not tick(None).run_requests
    today_us = int((datetime.now(UTC) - timedelta(seconds=1)).timestamp()) * 1_000_000
    sink_traces(small, sealed(at_noon("r-1")))
    sink_messages(
        small,
        PREDICTIONS,
        [sealed(a_trace("r-2", known_ts=today_us))],
        [today_us // 1_000],
        partition=1,
    )
    (request,) = tick(tick(None).cursor).run_requests
    assert request.partition_key == DAY
    job = defs.resolve_job_def("served_data")
    assert {key.to_user_string() for key in job.asset_layer.executable_asset_keys} == {
        "raw/predictions",
        "raw/experiment_outcomes",
    }
