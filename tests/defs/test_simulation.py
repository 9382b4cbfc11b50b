"""Scenarios through Dagster: judged reports, checks that fail, days with the same bytes always."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ibook_assets.core.quarantine import quarantine_spec
from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import EVENTS, RAW_TABLES, TRANSACTIONS, TRUTH_ORDERS
from ibook_assets.definitions import build_defs
from ibook_assets.defs import scenario_days
from ibook_assets.defs.partitions import days_between
from ibook_assets.defs.schedules import DAILY_DATA, SCENARIO_DAYS, SIMULATE
from ibook_assets.defs.simulation import verdict
from ibook_assets.stores.contracts import validate
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.local_blobs import LocalBlobs
from ibook_sim.chaos import Chaos
from ibook_sim.datasets.scenario_days import ScenarioDays, scenarios_with_days
from ibook_sim.judging.validators import FAMILIES, Check, Family
from ibook_sim.offline.planning import plan_of
from ibook_sim.offline.running import run
from ibook_sim.report import read_summary
from ibook_sim.scenarios import Scenario, scenario, scenarios

REPORT = dg.AssetKey(["simulation", "report"])
TABLES = [dg.AssetKey(["simulation", spec.name]) for spec in RAW_TABLES]
TRUTH = dg.AssetKey(["truth", "simulation"])
DAYS = days_between(date(2026, 1, 1), date(2026, 1, 3))
ROUGH = "system-degradation"


@pytest.fixture(autouse=True)
def fresh() -> None:
    """No world of an earlier test, so that nothing is right only because it was remembered."""
    scenario_days.days_of.cache_clear()


def lake_of(settings: Settings) -> Lake:
    return Lake(LocalBlobs(settings.lake))


def materialise(
    settings: Settings,
    keys: Sequence[dg.AssetKey],
    *,
    partition: str | None = None,
    between: tuple[str, str] | None = None,
    options: dict[str, Any] | None = None,
    raise_on_error: bool = True,
) -> dg.ExecuteInProcessResult:
    tags = {}
    if between:
        tags["dagster/asset_partition_range_start"] = between[0]
        tags["dagster/asset_partition_range_end"] = between[1]
    job = build_defs(settings).resolve_implicit_job_def_def_for_assets(keys)
    assert job is not None
    config = {"ops": {"simulation__report": {"config": options}}} if options else {}
    with dg.DagsterInstance.ephemeral(tempdir=str(settings.home)) as instance:
        return job.execute_in_process(
            asset_selection=list(keys),
            partition_key=partition,
            tags=tags,
            run_config=config,
            instance=instance,
            raise_on_error=raise_on_error,
        )


def verdicts(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {e.check_name: e.passed for e in result.get_asset_check_evaluations()}


def shown(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (event,) = result.asset_materializations_for_node("simulation__report")
    return {name: value.value for name, value in event.metadata.items()}


def test_a_report_shows_what_the_run_found_and_where_it_is(small: Settings) -> None:
    options = {"seed": 11, "drift_transactions": 2_000}
    result = materialise(small, [REPORT], partition="flash-sale", options=options)
    expected = run(plan_of("flash-sale", seed=11, drift_transactions=2_000))
    found = shown(result)
    assert found["digest"] == expected.digest
    assert (found["seed"], found["orders"]) == (11, 2_000)
    assert found["same_as_previous"] == "no previous run"
    assert verdicts(result) == dict.fromkeys(FAMILIES, True)
    assert found["verdict"] == "passed"
    assert found["timeline"].startswith("![orders a second, p99 latency (ms)")
    page = Path(found["report"])
    assert page.is_relative_to(small.lake)
    assert "flash-sale" in page.read_text()
    assert read_summary(Path(found["figures"]))["digest"] == expected.digest


def test_a_report_is_compared_with_the_scenario_s_run_before(small: Settings) -> None:
    options = {"seed": 11, "drift_transactions": 1_000}
    materialise(small, [REPORT], partition="null", options=options)
    again = shown(materialise(small, [REPORT], partition="null", options=options))
    assert again["same_as_previous"] == "yes"
    assert all("previous" in record.data for record in again["objectives"].records)
    other = materialise(small, [REPORT], partition="null", options={**options, "seed": 12})
    assert shown(other)["same_as_previous"] == "no"
    elsewhere = materialise(small, [REPORT], partition="flash-sale", options=options)
    assert shown(elsewhere)["same_as_previous"] == "no previous run"


def test_a_scenario_broken_by_its_options_fails_the_check(small: Settings) -> None:
    options = {"drift_level": 1.0, "drift_transactions": 2_000}
    result = materialise(small, [REPORT], partition="null", options=options)
    found = verdicts(result)
    assert found["drift"] is False
    assert found["conservation"] is True
    assert shown(result)["verdict"].startswith("failed: ")
    assert "no drift" in shown(result)["verdict"]
    (check,) = [e for e in result.get_asset_check_evaluations() if e.check_name == "drift"]
    assert check.severity is dg.AssetCheckSeverity.ERROR
    assert (check.description or "").startswith("null: no drift is broken")
    seen: list[Any] = [check.metadata[name].value for name in ("no drift", "no drift, limit")]
    assert seen[0] > seen[1] == 0.0


@pytest.mark.parametrize("broken", FAMILIES)
def test_a_broken_objective_fails_its_own_check_and_no_other(broken: Family) -> None:
    checks = [
        Check(family, f"{family} objective", "", 2.0, "at most", 1.0 if family == broken else 3.0)
        for family in FAMILIES
    ]
    assert {f for f in FAMILIES if not verdict(f, checks, name="x").passed} == {broken}


def test_what_cannot_be_measured_fails_its_check() -> None:
    found = verdict(
        "latency", [Check("latency", "p99", "", float("nan"), "at most", 1.0)], name="x"
    )
    assert not found.passed
    assert "not measured" in (found.description or "")


def test_a_family_without_objectives_passes_and_says_so() -> None:
    found = verdict("accuracy", [Check("latency", "p99", "", 1.0, "at most", 2.0)], name="x")
    assert found.passed
    assert "not judged" in (found.description or "")
    assert found.metadata["judged"].value is False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"duration": "1m", "drift_transactions": 500}, "both set the number of orders"),
        ({"duration": "a while"}, "is no duration"),
        ({"model": "champion"}, "NoPromotedModelError"),
        ({"model": "/nowhere"}, "/nowhere has no"),
    ],
    ids=["contradiction", "no_duration", "nothing_promoted", "no_model"],
)
def test_options_that_cannot_be_met_end_the_run_without_retry(
    small: Settings, options: dict[str, Any], message: str
) -> None:
    settings = small.model_copy(update={"task_retries": 2})
    result = materialise(
        settings, [REPORT], partition="null", options=options, raise_on_error=False
    )
    (failed,) = result.get_step_failure_events()
    assert message in str(failed.event_specific_data)
    assert dg.DagsterEventType.STEP_UP_FOR_RETRY not in {e.event_type for e in result.all_events}
    assert lake_of(settings).blobs.list("reports/") == []


@pytest.mark.parametrize("name", ["drift", ROUGH])
def test_days_of_a_scenario_are_what_the_simulator_plays(small: Settings, name: str) -> None:
    span = (f"{DAYS[0]}|{name}", f"{DAYS[-1]}|{name}")
    result = materialise(small, [*TABLES, TRUTH], between=span)
    assert verdicts(result) == {"refused_as_meant": True}
    lake, played = lake_of(small), ScenarioDays(scenario(name), seed=small.sim_seed)
    for day in map(date.fromisoformat, DAYS):
        for spec in RAW_TABLES:
            arriving = played.arriving(spec, day)
            expected = validate(arriving, spec, source="test", day=day, one_delivery=False)
            table, partition = f"simulation/{spec.name}/{name}", [day.isoformat()]
            assert lake.read(table, partition, spec=spec).equals(expected.accepted)
            if expected.quarantined.num_rows:
                refused = lake.read(f"simulation/quarantine/{spec.name}/{name}", partition)
                assert refused["reason"].equals(expected.quarantined["reason"])
                assert refused.schema == quarantine_spec(spec).schema
            assert expected.rows == arriving.num_rows
        truth = lake.read(f"truth/simulation/{name}", [day.isoformat()], spec=TRUTH_ORDERS)
        assert truth.equals(played.truth([day])[day])
    if name == ROUGH:
        assert lake.partitions(f"simulation/quarantine/{TRANSACTIONS.name}/{name}")
    # The platform's own tables do not know of it.
    assert not [key for key in lake.blobs.list() if key.startswith(("raw/", "truth/orders/"))]
    assert not [key for key in lake.blobs.list() if key.startswith("quarantine/")]


def receipts(settings: Settings) -> dict[str, tuple[str, str | None]]:
    lake = lake_of(settings)
    tables = [f"simulation/{spec.name}/{ROUGH}" for spec in RAW_TABLES]
    found = [
        receipt
        for table in [*tables, f"truth/simulation/{ROUGH}"]
        for receipt in lake.receipts(table, DAYS)
    ]
    return {r.path.rsplit("/", 1)[0]: (r.sha256, r.superseded) for r in found}


def test_days_have_the_same_bytes_in_any_order_and_in_one_backfill(
    small: Settings, tmp_path: Path
) -> None:
    keys = [*TABLES, TRUTH]
    materialise(small, keys, between=(f"{DAYS[0]}|{ROUGH}", f"{DAYS[-1]}|{ROUGH}"))
    at_once = receipts(small)
    assert len(at_once) == len(DAYS) * len(keys)
    alone = small.model_copy(update={"home": tmp_path / "alone"})
    for day in reversed(DAYS):
        scenario_days.days_of.cache_clear()
        materialise(alone, keys, partition=f"{day}|{ROUGH}")
    assert receipts(alone) == at_once
    # A longer horizon, and the same again: nothing is superseded.
    materialise(small, [TABLES[0]], partition=f"2026-03-01|{ROUGH}")
    materialise(small, keys, between=(f"{DAYS[0]}|{ROUGH}", f"{DAYS[-1]}|{ROUGH}"))
    assert receipts(small) == at_once


def test_one_backfill_of_two_scenarios_keeps_them_apart(small: Settings) -> None:
    first, last = sorted(("drift", "flash-sale"))
    events = dg.AssetKey(["simulation", EVENTS.name])
    materialise(small, [TABLES[0]], between=(f"{DAYS[0]}|{first}", f"{DAYS[0]}|{last}"))
    materialise(small, [events], between=(first, last))
    lake = lake_of(small)
    dear, plain = (
        lake.read(f"simulation/transactions/{name}", spec=TRANSACTIONS)
        for name in ("drift", "flash-sale")
    )
    assert not dear.equals(plain)
    for name, orders in (("drift", dear), ("flash-sale", plain)):
        on_sale = lake.read(f"simulation/events/{name}", spec=EVENTS)["event_id"].to_pylist()
        assert set(orders["event_id"].to_pylist()) <= set(on_sale)


def test_refused_rows_of_a_scenario_that_breaks_none_fail_the_check(
    small: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A clock that is hours ahead breaks the contract without any corrupt row being asked for.
    odd = Scenario(
        name="odd",
        description="Wrong clocks.",
        world={"users": 400, "events": 20, "orders_per_day": 60},
        chaos=Chaos(clock_skew_share=0.5, clock_skew_seconds=80_000.0),
    )
    monkeypatch.setattr(scenario_days, "scenario", lambda _: odd)
    result = materialise(small, [TABLES[0]], partition=f"{DAYS[0]}|null")
    assert verdicts(result) == {"refused_as_meant": False}


def test_the_jobs_offer_every_scenario_and_the_daily_job_none(small: Settings) -> None:
    defs = build_defs(small)
    simulate = defs.resolve_job_def(SIMULATE)
    assert simulate.partitions_def is not None
    assert set(simulate.partitions_def.get_partition_keys()) == set(scenarios())
    days = defs.resolve_job_def(SCENARIO_DAYS).partitions_def
    assert isinstance(days, dg.MultiPartitionsDefinition)
    named = days.get_partitions_def_for_dimension("scenario").get_partition_keys()
    assert set(named) == set(scenarios_with_days())
    platform = days.get_partitions_def_for_dimension("day")
    daily = defs.resolve_job_def(DAILY_DATA)
    assert platform == daily.partitions_def
    assert not {key for key in daily.asset_layer.selected_asset_keys if "simulation" in key.path}
