"""How quickly a worker applies a log that was filled before, beside the broker's own limits."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from kafka import TopicPartition

from bench.streaming_sender import PARTITIONS
from bench.streaming_stage import Stage, cpu_seconds, said, sender
from ibook_assets.stores.intake import LogRecord, intake
from ibook_assets.stores.log import LogAddress, open_consumer
from ibook_assets.streaming.worker import POLL_RECORDS, TOPICS
from tests.services.brokers import BrokerService

PRODUCER: Final = "gateway, in bulk"
POLLING: Final = "consumer that only polls"
DECODING: Final = "consumer that polls and decodes"


@dataclass(frozen=True)
class Throughput:
    """What one contender took."""

    broker: str
    contender: str
    rows: int
    rows_per_s: float
    cpu_us_per_row: float
    """Of its own process; the broker's and the store's are beside it."""


def fill(broker: BrokerService, rows: int) -> Throughput:
    """Put at least `rows` rows into the log."""
    with sender("fill", "--bootstrap", broker.address, "--rows", str(rows)) as sending:
        assert sending.stdout is not None
        found = said(sending.stdout.readline())
        sending.wait()
    return Throughput(broker.name, PRODUCER, found["rows"], found["rate"], found["cpu_us_per_row"])


def read(broker: BrokerService, rows: int, *, decoding: bool) -> Throughput:
    """Poll everything as the worker does, and give it up."""
    with closing(open_consumer(LogAddress(broker.address), group=None)) as consumer:
        consumer.assign([TopicPartition(t, n) for t in TOPICS for n in range(PARTITIONS)])
        seen = 0
        began, cpu = time.perf_counter(), time.process_time()
        while seen < rows:
            for place, records in consumer.poll(timeout_ms=200, max_records=POLL_RECORDS).items():
                seen += len(records)
                if decoding:
                    log = [
                        LogRecord(r.partition, r.offset, r.timestamp, r.key, r.value)
                        for r in records
                    ]
                    assert not intake(place.topic, log).refused
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
    contender = DECODING if decoding else POLLING
    return Throughput(broker.name, contender, seen, seen / took, 1e6 * cpu / seen)


def apply(stage: Stage, rows: int) -> Throughput:
    """Let a worker of its own process apply everything; from its first commit to its last."""

    def applied() -> int:
        positions = stage.store.progress().positions
        return sum(p.offset for name, p in positions.items() if name.rpartition("/")[0] in TOPICS)

    with stage.part("worker") as worker:
        stage.wait(lambda: applied() > 0)
        first, began = applied(), time.perf_counter()
        cpu = cpu_seconds({"worker": worker})["worker"]
        stage.wait(lambda: applied() >= rows)
        took = time.perf_counter() - began
        cpu = cpu_seconds({"worker": worker})["worker"] - cpu
    done = rows - first
    return Throughput(
        stage.broker.name,
        f"worker to {stage.store_name}",
        done,
        done / took,
        1e6 * cpu / done,
    )
