"""Shipping: what is in the trace store arrives, whatever is away or killed meanwhile."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import pytest

from ibook_assets.core.errors import ContractError, StoreUnavailableError
from ibook_assets.core.messages import PREDICTION_LOG
from ibook_assets.core.predictions import unsealed
from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import PREDICTIONS
from ibook_assets.core.times import DAY_US
from ibook_assets.stores.blobs import open_blobs
from ibook_assets.stores.log import open_consumer, partitions_of
from ibook_assets.stores.log_files import LogFiles
from ibook_assets.stores.trace_archive import TraceArchive
from ibook_assets.stores.traces import TraceStore, open_traces
from ibook_serving.provenance.shipping import FIRST_OWN_PARTITION, Shipper, destination_of
from tests.services.brokers import BrokerService, DevBrokerService
from tests.serving.harness import eventually
from tests.traces import KNOWN_US, a_trace


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, trace_store_days=365_000)


@pytest.fixture
def store(settings: Settings) -> TraceStore:
    return open_traces(settings)


def within(seconds: float, settings: Settings) -> Settings:
    """`settings` that let a message wait so long for others."""
    return settings.model_copy(update={"prediction_ship_seconds": seconds})


def landed(settings: Settings) -> list[str | None]:
    rows = LogFiles(open_blobs(settings.lake)).rows(PREDICTION_LOG)
    return list(rows["request_id"].to_pylist())


def test_messages_wait_for_others_or_for_their_time(settings: Settings, store: TraceStore) -> None:
    store.append([a_trace(f"r-{i}") for i in range(7)])
    patient = Shipper(store, within(3_600, settings), rows=10)
    assert patient.turn() == 0
    store.append([a_trace(f"s-{i}") for i in range(5)])
    assert patient.turn() == 10
    assert patient.turn() == 0
    assert Shipper(store, within(0, settings), rows=10).turn() == 2
    assert landed(settings) == [f"r-{i}" for i in range(7)] + [f"s-{i}" for i in range(5)]
    files = LogFiles(open_blobs(settings.lake)).files(PREDICTION_LOG)
    assert [file.rows for file in files] == [10, 2]
    assert min(file.partition for file in files) >= FIRST_OWN_PARTITION


def test_a_batch_that_was_not_marked_arrives_again_and_is_one_trace(
    settings: Settings, store: TraceStore
) -> None:
    store.append([a_trace("r-1"), a_trace("r-2")])
    destination = destination_of(settings)
    destination.deliver(PREDICTION_LOG, store.predictions.unshipped(10))
    destination.close()
    assert Shipper(store, settings).turn(everything=True) == 2
    assert landed(settings) == ["r-1", "r-2", "r-1", "r-2"]
    recent = TraceArchive(open_blobs(settings.lake)).recent()
    assert sorted(trace.request_id for trace in recent) == ["r-1", "r-2"]


def test_two_writers_of_one_partition_take_turns(settings: Settings, store: TraceStore) -> None:
    one, other = destination_of(settings), destination_of(settings)
    store.append([a_trace("r-1")])
    messages = store.predictions.unshipped(1)
    for destination in (one, other, one, other):
        destination.deliver(PREDICTION_LOG, messages)
    assert landed(settings) == ["r-1"] * 4


def test_while_the_lake_is_away_everything_waits(settings: Settings, store: TraceStore) -> None:
    store.append([a_trace("r-1")])
    Path(settings.lake).write_text("no folder")
    stop = threading.Event()
    shipping = threading.Thread(target=Shipper(store, within(0, settings)).run, args=(stop,))
    shipping.start()
    try:
        # Refused at least once by the time that a second writer of the store has been served.
        store.append([a_trace("r-2")])
        assert store.predictions.backlog() == 2
        Path(settings.lake).unlink()
        eventually(lambda: store.predictions.backlog() == 0, what="everything has arrived")
    finally:
        stop.set()
        shipping.join()
    assert set(landed(settings)) == {"r-1", "r-2"}


def test_what_has_landed_is_forgotten_by_age(store: TraceStore, settings: Settings) -> None:
    store.append([a_trace("old", known_ts=KNOWN_US - 400 * DAY_US), a_trace("r-1")])
    days = (2**62 - KNOWN_US) / DAY_US  # No clock of a machine that runs this is that far.
    Shipper(store, settings.model_copy(update={"trace_store_days": days})).turn(everything=True)
    assert len(store.find("old")) == 1
    Shipper(store, settings.model_copy(update={"trace_store_days": 1e-6})).turn()
    assert store.find("old") == store.find("r-1") == []
    assert landed(settings) == ["old", "r-1"]


def test_off_has_no_destination(settings: Settings) -> None:
    with pytest.raises(ContractError, match="use lake or kafka"):
        destination_of(settings.model_copy(update={"prediction_log": "off"}))


def test_kafka_gets_every_message_by_user(
    broker: BrokerService, settings: Settings, store: TraceStore
) -> None:
    chosen = settings.model_copy(
        update={"prediction_log": "kafka", "kafka_bootstrap": broker.log.bootstrap}
    )
    store.append([a_trace(f"r-{i}", user_id=i % 3) for i in range(30)])
    shipper = Shipper(store, within(0, chosen))
    assert shipper.turn() == 30
    stop = threading.Event()
    stop.set()
    shipper.run(stop)
    with closing(open_consumer(broker.log)) as consumer:
        partitions = partitions_of(broker.log, consumer, PREDICTION_LOG)
        assert len(partitions) == settings.log_partitions
        consumer.assign(partitions)
        found: list[tuple[str, int, str]] = []
        while len(found) < 30:
            for place, records in consumer.poll(timeout_ms=500).items():
                found += [
                    (
                        record.key.decode(),
                        place.partition,
                        unsealed(record.value, where="the log").request_id,
                    )
                    for record in records
                ]
    assert {request_id for _, _, request_id in found} == {f"r-{i}" for i in range(30)}
    assert len({(key, partition) for key, partition, _ in found}) == 3, "a user has one partition"
    assert PREDICTIONS.name == PREDICTION_LOG


def test_a_broker_that_is_away_loses_nothing(
    dev_broker: DevBrokerService, settings: Settings, store: TraceStore
) -> None:
    chosen = settings.model_copy(
        update={"prediction_log": "kafka", "kafka_bootstrap": dev_broker.log.bootstrap}
    )
    dev_broker.kill()
    store.append([a_trace("r-1")])
    shipper = Shipper(store, within(0, chosen))
    with pytest.raises(StoreUnavailableError):
        shipper.turn()
    assert store.predictions.backlog() == 1
    dev_broker.start()
    assert shipper.turn() == 1
    assert store.predictions.backlog() == 0
    stop = threading.Event()
    stop.set()
    shipper.run(stop)
    assert not (Path(settings.lake) / "log").exists()
