"""The sink: every offset lands once, whoever else lands, and whatever was away for a while."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, TopicPartition

from ibook_assets.core.arrow import integers
from ibook_assets.core.errors import ContractError, StoreUnavailableError
from ibook_assets.core.messages import FEATURES_LOG, encode
from ibook_assets.stores.blob_terms import Data
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.intake import LogRecord, intake
from ibook_assets.stores.local_blobs import LocalBlobs
from ibook_assets.stores.log import LogAddress, open_consumer, open_producer
from ibook_assets.stores.log_files import LogFiles
from ibook_assets.streaming.sink import Sink, SinkStatus
from ibook_assets.streaming.topics import ROW_TOPICS, create_log
from tests.services.brokers import BrokerService, DevBrokerService
from tests.streaming.log_reading import letters_in

TOPIC = "raw.views"
OTHER = "raw.refunds"
NOON_US = 1_767_614_400_000_000
PARTITIONS = 2
LONGEST_WAIT_SECONDS = 60.0
"""Beyond this what is waited for does not come; nothing is asserted about time."""


def _view(number: int, **changed: Any) -> bytes:
    row = {"view_id": number, "occurred_ts": NOON_US, "known_ts": NOON_US + number}
    return encode(TOPIC, row | {"session_id": 1, "event_id": 1, "dwell_ms": 5} | changed)


def _send(log: LogAddress, values: list[bytes], topic: str = TOPIC, *, same: bool = False) -> None:
    with closing(open_producer(log)) as producer:
        for number, value in enumerate(values):
            place = 0 if same else number % PARTITIONS
            producer.send(topic, value, partition=place, timestamp_ms=NOON_US // 1_000)
        producer.flush(timeout=30)


@pytest.fixture
def log(broker: BrokerService) -> LogAddress:
    create_log(broker.log, PARTITIONS)
    return broker.log


@pytest.fixture
def dev_log(dev_broker: DevBrokerService) -> LogAddress:
    create_log(dev_broker.log, PARTITIONS)
    return dev_broker.log


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path / "lake")


def _group(blobs: Blobs) -> str:
    """A group of the test's own: members that an earlier one left behind are not waited for."""
    return Path(blobs.uri).parent.name


@contextmanager
def sinking(log: LogAddress, blobs: Blobs, **options: Any) -> Iterator[Sink]:
    """A sink that runs in a thread of its own as long as the block."""
    chosen: dict[str, Any] = {
        "max_rows": 7, "max_seconds": 0.2, "idle_seconds": 0.5, "group": _group(blobs),
    }  # fmt: skip
    stop = threading.Event()
    failures: list[ContractError] = []
    with closing(Sink(log, blobs, (TOPIC, OTHER), **(chosen | options))) as sink:

        def run() -> None:
            try:
                sink.run(stop)
            except ContractError as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield sink
        finally:
            stop.set()
            thread.join()
    if failures:
        raise failures[0]


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def _landed(blobs: Blobs, topic: str = TOPIC) -> int:
    return sum(LogFiles(blobs).ends(topic).values())


def _views(blobs: Blobs) -> list[int]:
    return sorted(integers(LogFiles(blobs).rows(TOPIC)["view_id"], null=-1).tolist())


def test_everything_lands_once_and_the_lag_is_gone(log: LogAddress, blobs: LocalBlobs) -> None:
    _send(log, [_view(i) for i in range(100)])
    with sinking(log, blobs) as sink:
        _until(lambda: sink.status().rows == 100)
        _until(lambda: sum(sink.status().lag.values()) == 0 and len(sink.status().lag) == 4)
        status = sink.status()
    assert _views(blobs) == list(range(100))
    assert (status.rows, status.refused, status.conflicts) == (100, 0, 0)
    assert status.files == len(LogFiles(blobs).files(TOPIC)) >= 100 / 7
    with closing(open_consumer(log, group=_group(blobs))) as consumer:
        for place in [(TOPIC, 0), (TOPIC, 1)]:
            assert consumer.committed(TopicPartition(*place)) == 50


def test_a_sink_goes_on_where_the_files_end_not_the_group(
    log: LogAddress, blobs: LocalBlobs
) -> None:
    _send(log, [_view(i) for i in range(10)], same=True)
    records = [LogRecord(0, i, NOON_US // 1_000, None, _view(i)) for i in range(4)]
    LogFiles(blobs).create(TOPIC, 0, records, intake(TOPIC, records))
    for _ in range(2):
        with sinking(log, blobs):
            _until(lambda: _landed(blobs) == 10)
    shutil.rmtree(Path(blobs.uri) / "log")
    with sinking(log, blobs):
        _until(lambda: _landed(blobs) == 10)
    assert _views(blobs) == list(range(10))


def test_what_was_read_lands_when_the_sink_is_stopped(
    dev_log: LogAddress, blobs: LocalBlobs
) -> None:
    _send(dev_log, [_view(i) for i in range(5)], same=True)
    with sinking(dev_log, blobs, max_rows=1_000, max_seconds=3_600) as sink:
        _until(lambda: sink.status().lag.get(f"{TOPIC}/0") == 5)
    assert _views(blobs) == list(range(5))


def test_poison_lands_as_refused_and_in_the_dead_letters_and_blocks_nothing(
    log: LogAddress, blobs: LocalBlobs
) -> None:
    poison = [b"", b"\xff", b"[" * 10_000, b'{"schema":"9.0"}', _view(1, dwell_ms=-1)]
    _send(log, [_view(0), *poison, _view(2)], same=True)
    with sinking(log, blobs) as sink:
        _until(lambda: (sink.status().rows, sink.status().refused) == (2, 5))
    assert _views(blobs) == [0, 2]
    letters = letters_in(log)
    assert {source: letter.reason for source, letter in letters.items()} == {
        f"{TOPIC}/0/1": "message:unreadable_message",
        f"{TOPIC}/0/2": "message:unreadable_message",
        f"{TOPIC}/0/3": "message:unreadable_message",
        f"{TOPIC}/0/4": "message:unknown_schema",
        f"{TOPIC}/0/5": "dwell_ms:below_minimum",
    }
    assert [letters[f"{TOPIC}/0/{i + 1}"].payload for i in range(5)] == poison


def test_two_sinks_that_share_nothing_but_the_lake_overlap_nowhere(
    log: LogAddress, blobs: LocalBlobs
) -> None:
    # Two groups: both read every partition, so they race for every single file.
    _send(log, [_view(i) for i in range(300)])
    with sinking(log, blobs, group="a") as one, sinking(log, blobs, group="b", max_rows=5) as two:
        _until(lambda: _landed(blobs) == 300)
        _until(lambda: one.status().conflicts + two.status().conflicts > 0)
        _until(lambda: one.status().rows + two.status().rows == 300)
    assert _views(blobs) == list(range(300))


def test_sinks_of_a_group_share_the_partitions_and_take_over(
    log: LogAddress, blobs: LocalBlobs
) -> None:
    with sinking(log, blobs) as one:
        with sinking(log, blobs) as two:
            _until(lambda: len(one.status().lag) == len(two.status().lag) == 2)
            _send(log, [_view(i) for i in range(40)])
            _until(lambda: one.status().rows == two.status().rows == 20)
        _until(lambda: len(one.status().lag) == 4)
        _send(log, [_view(i) for i in range(40, 60)])
        _until(lambda: _landed(blobs) == 60)
    assert _views(blobs) == list(range(60))


def test_a_topic_that_comes_later_is_found(dev_broker: DevBrokerService, blobs: LocalBlobs) -> None:
    with sinking(dev_broker.log, blobs):
        create_log(dev_broker.log, PARTITIONS)
        _send(dev_broker.log, [_view(0)])
        _until(lambda: _landed(blobs) == 1)


class Flaky(LocalBlobs):
    """A lake that does not answer when `away` is set."""

    away = False

    def create(self, key: str, data: Data) -> None:
        self._answer()
        super().create(key, data)

    def list(self, prefix: str = "") -> list[str]:
        self._answer()
        return super().list(prefix)

    def _answer(self) -> None:
        if self.away:
            msg = "the lake is away"
            raise StoreUnavailableError(msg)


def test_a_lake_that_is_away_is_waited_for(dev_log: LogAddress, tmp_path: Path) -> None:
    blobs = Flaky(tmp_path)
    blobs.away = True
    with sinking(dev_log, blobs) as sink:
        _send(dev_log, [_view(i) for i in range(50)])
        _until(lambda: sink.status().retries >= 2)
        blobs.away = False
        _until(lambda: _landed(blobs) == 50)
        blobs.away = True
        _send(dev_log, [_view(i) for i in range(50, 150)])
        retries = sink.status().retries
        _until(lambda: sink.status().retries >= retries + 2)
        blobs.away = False
        _until(lambda: _landed(blobs) == 150)
    assert _views(blobs) == list(range(150))


def test_a_log_that_is_away_is_waited_for(
    broker: BrokerService, log: LogAddress, blobs: LocalBlobs
) -> None:
    with sinking(log, blobs) as sink:
        _send(log, [_view(i) for i in range(20)])
        _until(lambda: _landed(blobs) == 20)
        broker.pause()
        _until(lambda: sink.status().retries >= 1)
        broker.resume()
        _send(log, [_view(i) for i in range(20, 40)])
        _until(lambda: _landed(blobs) == 40)
    assert _views(blobs) == list(range(40))


def test_a_broker_that_restarts_is_waited_for(kafka: BrokerService, blobs: LocalBlobs) -> None:
    create_log(kafka.log, PARTITIONS)
    with sinking(kafka.log, blobs):
        _send(kafka.log, [_view(i) for i in range(20)])
        _until(lambda: _landed(blobs) == 20)
        kafka.kill()
        kafka.start()
        _send(kafka.log, [_view(i) for i in range(20, 40)])
        _until(lambda: _landed(blobs) == 40)
    assert _views(blobs) == list(range(40))


def test_another_log_than_the_landed_one_is_refused(dev_log: LogAddress, blobs: LocalBlobs) -> None:
    records = [LogRecord(0, i, 0, None, _view(i)) for i in range(9)]
    LogFiles(blobs).create(TOPIC, 0, records, intake(TOPIC, records))
    _send(dev_log, [_view(0)], same=True)
    with (
        pytest.raises(ContractError, match="it is not the log that was landed"),
        closing(Sink(dev_log, blobs, (TOPIC,), group="test")) as sink,
    ):
        sink.run(threading.Event())
    assert _landed(blobs) == 9


def test_messages_that_were_deleted_before_they_landed_are_named(
    kafka: BrokerService, blobs: LocalBlobs
) -> None:
    create_log(kafka.log, PARTITIONS)
    records = [LogRecord(0, i, 0, None, _view(i)) for i in range(4)]
    LogFiles(blobs).create(TOPIC, 0, records, intake(TOPIC, records))
    _send(kafka.log, [_view(i) for i in range(9)], same=True)
    with closing(KafkaAdminClient(bootstrap_servers=kafka.address)) as admin:
        admin.delete_records({TopicPartition(TOPIC, 0): 6})
    with (
        pytest.raises(ContractError, match=r"up to offset 4, the log at .* holds 6 up to 9"),
        closing(Sink(kafka.log, blobs, (TOPIC,), group=_group(blobs))) as sink,
    ):
        sink.run(threading.Event())
    assert _landed(blobs) == 4


def test_offsets_without_a_message_block_nothing(kafka: BrokerService, blobs: LocalBlobs) -> None:
    create_log(kafka.log, PARTITIONS)
    with closing(open_producer(kafka.log, transactional_id="foreign")) as producer:
        producer.init_transactions()
        for view in range(3):
            producer.begin_transaction()
            producer.send(TOPIC, _view(view), partition=0, timestamp_ms=NOON_US // 1_000)
            # Its marker takes an offset, and no consumer gets to see it.
            producer.commit_transaction()
    with sinking(kafka.log, blobs, max_rows=1):
        _until(lambda: len(_views(blobs)) == 3)
    assert _views(blobs) == [0, 1, 2]
    assert LogFiles(blobs).next_offset(TOPIC, 0) == 5
    assert set(letters_in(kafka.log)) == {f"{TOPIC}/0/1", f"{TOPIC}/0/3"}


def test_without_a_log_there_is_no_sink(dev_broker: DevBrokerService, blobs: LocalBlobs) -> None:
    dev_broker.stop()
    with pytest.raises(StoreUnavailableError, match="did not answer"):
        Sink(dev_broker.log, blobs)


def test_by_default_every_topic_with_rows_lands(dev_log: LogAddress, blobs: LocalBlobs) -> None:
    row = {"transaction_id": 1, "known_ts": NOON_US, "definition": "d", "vector": b"\x00"}
    _send(dev_log, [encode(FEATURES_LOG, row)], FEATURES_LOG)
    with closing(Sink(dev_log, blobs, group="test", max_seconds=0)) as sink:
        while not _landed(blobs, FEATURES_LOG):
            sink.turn()
        assert len(sink.status().lag) == len(ROW_TOPICS) * PARTITIONS
    assert json.dumps(sink.status().lag)
    assert isinstance(sink.status(), SinkStatus)
