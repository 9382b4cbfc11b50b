"""The log through Dagster: hand-made sink files to raw rows and facts, and observations."""

from datetime import date
from pathlib import Path

import dagster as dg
import pyarrow as pa

from ibook_assets.core.arrow import integers
from ibook_assets.core.messages import encode_rows, topic_of
from ibook_assets.core.quarantine import MIN_REJECTED_ROWS
from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import EVENTS, RAW_TABLES, VIEWS
from ibook_assets.core.times import day_start_us
from ibook_assets.definitions import build_defs
from ibook_assets.defs.sources import LogSource, source_of
from ibook_assets.stores.log import ensure_topics, flush, open_producer
from tests.defs.conftest import NOBODY, run
from tests.defs.sinking import (
    PARTITIONS,
    lake_of,
    simulated,
    sink,
    sink_day,
    sink_messages,
)
from tests.services.brokers import DevBrokerService

FIRST, SECOND, THIRD = "2026-01-01", "2026-01-02", "2026-01-03"
NAMES = [spec.name for spec in RAW_TABLES]
STAGES = [["raw", "events"], *([stage, name] for stage in ("raw", "facts") for name in NAMES)]


def test_days_from_the_log_have_the_bytes_of_the_same_days_from_their_source(
    small: Settings, logged: Settings, tmp_path: Path
) -> None:
    from_source = small.model_copy(update={"home": tmp_path / "source"})
    run(from_source, STAGES, days=(FIRST, THIRD))
    for day in (SECOND, THIRD):
        sink_day(logged, day)
    run(logged, STAGES, days=(FIRST, THIRD))
    for table in map("/".join, STAGES):
        found = [receipt.sha256 for receipt in lake_of(logged).receipts(table)]
        assert found == [receipt.sha256 for receipt in lake_of(from_source).receipts(table)], table
    assert lake_of(logged).read("raw/transactions", [SECOND]).num_rows > 0


def test_repeated_events_land_once_and_refused_ones_go_to_quarantine_in_any_number(
    logged: Settings,
) -> None:
    rows = simulated(logged, VIEWS, SECOND)
    known_ms = day_start_us(date.fromisoformat(SECOND)) // 1_000
    refused = 10 * max(MIN_REJECTED_ROWS, rows.num_rows)
    sink(logged, VIEWS, rows)
    sink(logged, VIEWS, rows.slice(0, 7), partition=1)
    sink_messages(logged, VIEWS, [b"{"] * refused, [known_ms] * refused)
    result = run(logged, [["raw", "views"]], days=(SECOND, SECOND))
    (check,) = result.get_asset_check_evaluations()
    assert not check.passed
    assert lake_of(logged).read("raw/views", [SECOND]).num_rows == rows.num_rows
    quarantined = lake_of(logged).read("quarantine/views", [SECOND])
    assert quarantined["reason"].to_pylist() == ["message:unreadable_message"] * refused


def test_the_catalogue_takes_what_the_log_said_last_of_an_event(logged: Settings) -> None:
    source = source_of(logged)
    assert isinstance(source, LogSource)
    before = source.before.catalogue()
    first, second = before.slice(0, 1).to_pylist()[0], before.slice(1, 1).to_pylist()[0]
    said = [
        {**first, "capacity": first["capacity"] + 1},
        {**first, "capacity": first["capacity"] + 2},
        {**second, "event_id": 2**60},
    ]
    for row in said:
        sink(logged, EVENTS, pa.Table.from_pylist([row], schema=EVENTS.schema))
    run(logged, [["raw", "events"]])
    rows = {row["event_id"]: row for row in lake_of(logged).read("raw/events").to_pylist()}
    assert len(rows) == before.num_rows + 1
    assert rows[first["event_id"]] == said[1]
    assert rows[2**60] == said[2]
    assert rows[second["event_id"]] == second


def observations(instance: dg.DagsterInstance, table: str) -> list[dg.AssetObservation]:
    """Newest first."""
    found = instance.fetch_observations(dg.AssetKey(["log", table]), limit=20).records
    return [record.asset_observation for record in found if record.asset_observation]


def observe(settings: Settings, instance: dg.DagsterInstance) -> None:
    job = build_defs(settings).resolve_job_def("log_observation")
    assert job.execute_in_process(instance=instance).success


def test_an_observation_says_what_has_landed_and_how_far_the_broker_is_ahead(
    logged: Settings, instance: dg.DagsterInstance, dev_broker: DevBrokerService
) -> None:
    settings = logged.model_copy(update={"kafka_bootstrap": dev_broker.address})
    rows = simulated(settings, VIEWS, SECOND).slice(0, 10)
    ensure_topics(dev_broker.log, [topic_of("views")], PARTITIONS)
    producer = open_producer(dev_broker.log)
    for value in encode_rows(topic_of("views"), rows):
        producer.send(topic_of("views"), value, partition=1)
    flush(dev_broker.log, producer)
    producer.close()
    sink(settings, VIEWS, rows.slice(0, 6), partition=1)
    sink_messages(settings, VIEWS, [b"{"], [0], partition=1)
    observe(settings, instance)
    seen = observations(instance, "views")[0]
    assert seen.metadata["landed_offsets"].value == {"1": 7}
    assert seen.metadata["broker_offsets"].value == {"0": 0, "1": 10}
    assert seen.metadata["lag"].value == 3
    assert seen.metadata["dagster/row_count"].value == 6
    assert seen.metadata["refused_rows"].value == 1
    newest_us = int(integers(rows["known_ts"], null=0)[:6].max())
    assert seen.metadata["newest_known"].value == newest_us / 1_000_000
    assert isinstance(seen.metadata["freshness_seconds"].value, float)
    before = seen.tags["dagster/data_version"]
    observe(settings, instance)
    assert observations(instance, "views")[0].tags["dagster/data_version"] == before
    sink(settings, VIEWS, rows.slice(6), partition=1)
    observe(settings, instance)
    assert observations(instance, "views")[0].tags["dagster/data_version"] != before
    assert "broker" in observations(instance, "refunds")[0].metadata


def test_an_observation_succeeds_and_says_so_when_no_broker_answers(
    logged: Settings, instance: dg.DagsterInstance
) -> None:
    sink(logged, VIEWS, simulated(logged, VIEWS, SECOND))
    observe(logged, instance)
    seen = observations(instance, "views")[0]
    assert NOBODY in str(seen.metadata["broker"].value)
    assert "lag" not in seen.metadata
    assert seen.metadata["dagster/row_count"].value
