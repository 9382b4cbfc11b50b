"""Days of the simulator's scenarios, and the truth beside them. No other group reads from here."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Final

import dagster as dg

from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import EVENTS, RAW_TABLES, TRUTH_ORDERS, TableSpec
from ibook_assets.defs.landing import Landed, Landing, Place
from ibook_assets.defs.metadata import preview, records, rows_by_day, summary, table_schema
from ibook_assets.defs.partitions import (
    DATA_PLATFORM,
    DAY,
    SCENARIO,
    SIMULATION,
    SINGLE_RUN,
    by_scenario,
    daily_by_scenario,
)
from ibook_assets.defs.resources import LakeResource
from ibook_assets.defs.runs import fails_fast, feature_retries, live_run_check
from ibook_assets.defs.sources import Delivery
from ibook_assets.stores.lake import Receipt
from ibook_sim.datasets.scenario_days import ScenarioDays, scenarios_with_days
from ibook_sim.scenarios import scenario

TRUTH_KEY: Final = dg.AssetKey(["truth", SIMULATION])
REFUSED_AS_MEANT: Final = "refused_as_meant"


class ScenarioSource:
    """Feeds the tables of one scenario, message by message as they arrive."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.days = days_of(name, settings.sim_seed, settings.start_date)
        self.label = f"scenario {name}, seed {settings.sim_seed}"

    def delivery(self, spec: TableSpec, day: date) -> Delivery:
        """Rows of `spec` that arrive on `day`, as drift and chaos leave them."""
        return Delivery(self.days.arriving(spec, day), streamed=True)


@lru_cache(maxsize=2)
def days_of(name: str, seed: int, start_date: date) -> ScenarioDays:
    """The scenario's days; one world a process, its plan is shared by every table and day."""
    return ScenarioDays(scenario(name), seed=seed, start_date=start_date)


def scenario_day_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """The scenarios' events on sale, daily tables and truth."""
    return [_events(settings), _tables(settings), _truth(settings)]


def _events(settings: Settings) -> dg.AssetsDefinition:
    @dg.asset(
        key=[SIMULATION, EVENTS.name],
        group_name=SIMULATION,
        owners=[DATA_PLATFORM],
        kinds={"parquet"},
        description=f"Of each scenario: {EVENTS.description}",
        partitions_def=by_scenario(scenarios_with_days()),
        backfill_policy=SINGLE_RUN,
        retry_policy=feature_retries(settings),
        metadata={"dagster/column_schema": table_schema(EVENTS)},
    )
    @fails_fast
    def events(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult[None]:
        from ibook_assets.stores.contracts import validate

        today = datetime.now(UTC).date()
        for name in context.partition_keys:
            source = ScenarioSource(name, settings)
            catalogue = source.days.world.catalogue(today).events
            checked = validate(catalogue, EVENTS, source=source.label)
            receipt = lake.tables.write(
                f"{SIMULATION}/{EVENTS.name}/{name}",
                None,
                checked.accepted,
                spec=EVENTS,
                precommit=live_run_check(context),
            )
            context.add_asset_metadata(summary(receipt), partition_key=name)
        return dg.MaterializeResult(metadata={"preview": preview(checked.accepted)})

    return events


def _tables(settings: Settings) -> dg.AssetsDefinition:
    keys = {spec.name: dg.AssetKey([SIMULATION, spec.name]) for spec in RAW_TABLES}

    @dg.multi_asset(
        name="simulation_tables",
        specs=[
            dg.AssetSpec(
                keys[spec.name],
                group_name=SIMULATION,
                owners=[DATA_PLATFORM],
                kinds={"parquet"},
                description=f"As a scenario's chaos lets it arrive: {spec.description}",
                metadata={"dagster/column_schema": table_schema(spec)},
            )
            for spec in RAW_TABLES
        ],
        check_specs=[
            dg.AssetCheckSpec(
                REFUSED_AS_MEANT,
                asset=key,
                description="Rows break the contract only in scenarios that break some.",
            )
            for key in keys.values()
        ],
        can_subset=True,
        partitions_def=daily_by_scenario(settings, scenarios_with_days()),
        backfill_policy=SINGLE_RUN,
        retry_policy=feature_retries(settings),
    )
    @fails_fast
    def tables(
        context: dg.AssetExecutionContext, lake: LakeResource
    ) -> Iterator[dg.MaterializeResult[None]]:
        chosen = [spec for spec in RAW_TABLES if keys[spec.name] in context.selected_asset_keys]
        landings = {}
        for name, days in _asked(context).items():
            place = Place(SIMULATION, f"{SIMULATION}/quarantine", within=name)
            landings[name] = Landing(ScenarioSource(name, settings), chosen, days, place=place)
            landings[name].run(lake.tables, precommit=live_run_check(context))
        for spec in chosen:
            landed = {name: landing.of(spec) for name, landing in landings.items()}
            yield _landed_result(context, keys[spec.name], landed)

    return tables


def _truth(settings: Settings) -> dg.AssetsDefinition:
    @dg.asset(
        key=TRUTH_KEY,
        group_name=SIMULATION,
        owners=[DATA_PLATFORM],
        kinds={"parquet"},
        description=f"Of each scenario: {TRUTH_ORDERS.description}",
        partitions_def=daily_by_scenario(settings, scenarios_with_days()),
        backfill_policy=SINGLE_RUN,
        retry_policy=feature_retries(settings),
        metadata={"dagster/column_schema": table_schema(TRUTH_ORDERS)},
    )
    @fails_fast
    def truth(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult[None]:
        from ibook_assets.stores.bulk import Write, write_all

        receipts: dict[str, list[Receipt]] = {}
        for name, days in _asked(context).items():
            table = "/".join((*TRUTH_KEY.path, name))
            truths = ScenarioSource(name, settings).days.truth(
                [date.fromisoformat(d) for d in days]
            )
            writes = (
                Write(table, day.isoformat(), rows, TRUTH_ORDERS) for day, rows in truths.items()
            )
            commit = live_run_check(context)
            receipts[name] = list(write_all(lake.tables, writes, precommit=commit))
            for receipt in receipts[name]:
                key = _partition(str(receipt.partition), name)
                context.add_asset_metadata(summary(receipt), partition_key=key)
        return dg.MaterializeResult(metadata=_plots(receipts))

    return truth


def _asked(context: dg.AssetExecutionContext) -> Mapping[str, list[str]]:
    """Days of each scenario that the run is for."""
    found: dict[str, list[str]] = {}
    for key in context.partition_keys:
        assert isinstance(key, dg.MultiPartitionKey)
        at = key.keys_by_dimension
        found.setdefault(at[SCENARIO], []).append(at[DAY])
    return found


def _partition(day: str, name: str) -> dg.MultiPartitionKey:
    return dg.MultiPartitionKey({DAY: day, SCENARIO: name})


def _plots(receipts: Mapping[str, Sequence[Receipt]]) -> Mapping[str, dg.MetadataValue]:
    return {f"rows_by_day, {name}": rows_by_day(written) for name, written in receipts.items()}


def _landed_result(
    context: dg.AssetExecutionContext, key: dg.AssetKey, landed: Mapping[str, list[Landed]]
) -> dg.MaterializeResult[None]:
    refused = []
    for name, days in landed.items():
        for one in days:
            shown = {
                **summary(one.receipt),
                "quarantined_rows": sum(one.refused.values()),
                "repeated_rows": one.repeated,
            }
            partition = _partition(one.day, name)
            context.add_asset_metadata(shown, asset_key=key, partition_key=partition)
            refused += [
                {"scenario": name, "day": one.day, "reason": reason, "rows": rows}
                for reason, rows in one.refused.items()
            ]
    meant = {name for name in landed if scenario(name).chaos.corrupt_share > 0.0}
    return dg.MaterializeResult(
        asset_key=key,
        metadata=_plots({name: [one.receipt for one in days] for name, days in landed.items()}),
        check_results=[
            dg.AssetCheckResult(
                check_name=REFUSED_AS_MEANT,
                asset_key=key,
                passed=all(row["scenario"] in meant for row in refused),
                metadata={"refused": records(refused)} if refused else {},
            )
        ],
    )
