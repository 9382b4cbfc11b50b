"""The sink beside the log's own limits: what producers put in and a bare consumer takes out.

    python -m bench.streaming_sink --rows 200000

All in one run, on one broker of this machine, over the same messages: a producer of messages made
beforehand (the broker's own limit for writing), the gateway (judges, stamps and encodes rows), a
consumer that only polls (the limit for reading), and the sink (judges them and writes Parquet).
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from ibook_assets.core.messages import encode_rows
from ibook_assets.core.tables import CHANNELS, TIERS, TRANSACTIONS
from ibook_assets.stores.local_blobs import LocalBlobs
from ibook_assets.stores.log import LogAddress, ensure_topics, open_consumer, open_producer
from ibook_assets.streaming.gateway import Gateway, wall_clock_us
from ibook_assets.streaming.sink import Sink
from tests.services.brokers import JARS, BrokerService, DevBrokerService, KafkaService

REPORT: Final = Path("reports/bench/streaming_sink.json")
TOPIC: Final = "raw.transactions"
PARTITIONS: Final = 4
GATEWAY_ROWS: Final = 50_000


@dataclass(frozen=True)
class Measurement:
    """What one contender took."""

    broker: str
    contender: str
    rows: int
    rows_per_s: float
    cpu_us_per_row: float
    """This process's CPU time; the broker's is beside it."""
    mib_per_s: float


def orders(rows: int, rng: np.random.Generator) -> pa.Table:
    """Orders with every column filled, without `known_ts`."""
    now_us = wall_clock_us()
    columns: dict[str, Any] = {
        c.name: rng.integers(c.minimum or 0, min(c.maximum or 10**6, 10**6), rows)
        for c in TRANSACTIONS.columns
        if pa.types.is_integer(c.type)
    }
    columns |= {
        "transaction_id": np.arange(rows),
        "occurred_ts": np.full(rows, now_us),
        "known_ts": np.full(rows, now_us),
        "tier": np.array(TIERS)[rng.integers(0, len(TIERS), rows)],
        "channel": np.array(CHANNELS)[rng.integers(0, len(CHANNELS), rows)],
        "avs_match": rng.random(rows) < 0.9,
    }
    return pa.table({name: columns[name] for name in TRANSACTIONS.column_names})


def produce(log: LogAddress, messages: list[bytes], keys: list[bytes]) -> None:
    """Send messages that were made beforehand."""
    now_ms = wall_clock_us() // 1_000
    with closing(open_producer(log)) as producer:
        for message, key in zip(messages, keys, strict=True):
            producer.send(TOPIC, message, key=key, timestamp_ms=now_ms)
        producer.flush(timeout=600)


def through_gateway(log: LogAddress, table: pa.Table, users: np.typing.NDArray[np.int64]) -> None:
    """Send rows the way applications do."""
    with Gateway(log, gateway_id="bench", partitions=PARTITIONS) as gateway:
        gateway.send_rows("transactions", table, users)
        gateway.flush()


def poll(log: LogAddress, rows: int) -> None:
    """Read everything and do nothing with it."""
    with closing(open_consumer(log, group="bare", max_partition_fetch_bytes=4 * 2**20)) as consumer:
        consumer.subscribe([TOPIC])
        seen = 0
        while seen < rows:
            found = consumer.poll(timeout_ms=200, max_records=20_000)
            seen += sum(len(records) for records in found.values())


def land(log: LogAddress, rows: int, folder: Path) -> None:
    """Land everything."""
    with closing(Sink(log, LocalBlobs(folder), (TOPIC,), max_seconds=0.5)) as sink:
        while sink.status().rows < rows:
            sink.turn()


def measure(
    work: Callable[[], None], *, broker: str, contender: str, rows: int, size: int
) -> Measurement:
    """Run `work` once."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    mib = size / 2**20
    return Measurement(broker, contender, rows, rows / wall, 1e6 * cpu / rows, mib / wall)


@contextmanager
def running(service: type[BrokerService], folder: Path) -> Iterator[BrokerService]:
    """A broker as long as the block."""
    broker = service(folder)
    try:
        yield broker.start()
    finally:
        broker.kill()


def measurements(service: type[BrokerService], rows: int) -> list[Measurement]:
    """All contenders on one broker."""
    table = orders(rows, np.random.default_rng(7))
    messages = encode_rows(TOPIC, table)
    users = np.asarray(table["user_id"])
    keys = [str(user).encode() for user in users.tolist()]
    size = sum(map(len, messages))
    found = []
    with tempfile.TemporaryDirectory() as scratch, running(service, Path(scratch)) as broker:
        ensure_topics(broker.log, [TOPIC], PARTITIONS)
        for contender, work in (
            ("producer alone", lambda: produce(broker.log, messages, keys)),
            ("consumer alone", lambda: poll(broker.log, rows)),
            ("sink", lambda: land(broker.log, rows, Path(scratch) / "lake")),
        ):
            found.append(
                measure(work, broker=broker.name, contender=contender, rows=rows, size=size)
            )
        some = min(GATEWAY_ROWS, rows)
        found.append(
            measure(
                lambda: through_gateway(broker.log, table.slice(0, some), users[:some]),
                broker=broker.name,
                contender="gateway",
                rows=some,
                size=size * some // rows,
            )
        )
    return found


def main() -> None:
    """Measure on Apache Kafka where it is installed, and on the development broker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    options = parser.parse_args()
    kafka = shutil.which("java") is not None and any(JARS.glob("kafka_*.jar"))
    if not kafka:
        print("Apache Kafka is left out: it needs Java and `make services`")
    services: tuple[type[BrokerService], ...] = (DevBrokerService,)
    services = (KafkaService, *services) if kafka else services
    found = [m for service in services for m in measurements(service, options.rows)]
    shown = Table("broker", "contender", "rows", "rows/s", "CPU µs/row", "MiB/s")
    for m in found:
        speed, cpu, mib = f"{m.rows_per_s:,.0f}", f"{m.cpu_us_per_row:.1f}", f"{m.mib_per_s:.1f}"
        shown.add_row(m.broker, m.contender, f"{m.rows:,}", speed, cpu, mib)
    Console().print(shown)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps([asdict(m) for m in found], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
