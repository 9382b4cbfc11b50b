"""Hand-made files of the sink, out of what the simulated world has of a day."""

from datetime import date

import numpy as np
import pyarrow as pa

from ibook_assets.core.arrow import integers
from ibook_assets.core.messages import encode_rows, topic_of
from ibook_assets.core.settings import Settings
from ibook_assets.core.skew import definition_of
from ibook_assets.core.tables import FEATURE_LOG, RAW_TABLES, TableSpec
from ibook_assets.core.times import DAY_US
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.defs.sources import source_of
from ibook_assets.stores.intake import LogRecord, intake
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.local_blobs import LocalBlobs
from ibook_assets.stores.log_files import LogFiles
from ibook_assets.stores.skew_days import batch_vectors

PARTITIONS = 2


def lake_of(settings: Settings) -> Lake:
    return Lake(LocalBlobs(settings.lake))


def simulated(settings: Settings, spec: TableSpec, day: str) -> pa.Table:
    """What the simulated world has of `day`."""
    world = source_of(settings.model_copy(update={"log_from": None}))
    return world.delivery(spec, date.fromisoformat(day)).rows


def sink(settings: Settings, spec: TableSpec, rows: pa.Table, *, partition: int = 0) -> None:
    """Land `rows` as the sink does, after what the partition already has."""
    values = encode_rows(topic_of(spec.name), rows)
    known = rows["known_ts"] if spec.time_column else pa.nulls(rows.num_rows, pa.int64())
    times_ms = integers(known, null=DAY_US) // 1_000
    sink_messages(settings, spec, values, times_ms.tolist(), partition=partition)


def sink_messages(
    settings: Settings,
    spec: TableSpec,
    values: list[bytes],
    times_ms: list[int],
    *,
    partition: int = 0,
) -> None:
    log = LogFiles(LocalBlobs(settings.lake))
    topic = topic_of(spec.name)
    start = log.next_offset(topic, partition) or 0
    records = [
        LogRecord(partition, start + n, times_ms[n], b"1", value) for n, value in enumerate(values)
    ]
    log.create(topic, partition, records, intake(topic, records))


def sink_day(settings: Settings, day: str) -> None:
    """Land a simulated day, out of order over two partitions."""
    for spec in RAW_TABLES:
        rows = simulated(settings, spec, day)
        place = np.arange(rows.num_rows) % PARTITIONS
        for partition in range(PARTITIONS):
            part = rows.filter(pa.array(place == partition))
            if part.num_rows:
                sink(settings, spec, part, partition=partition)


def sink_vectors(settings: Settings, day: str, *, leave_out: int = 0) -> int:
    """Land what the online side logs of `day` when it computes what batch does; how many."""
    batch = batch_vectors(lake_of(settings), FRAUD.features, day)
    rows = pa.table(
        [
            pa.array(batch.transaction_ids),
            pa.array(batch.known_ts),
            pa.array([definition_of(FRAUD.features)] * len(batch.known_ts)),
            pa.array([values.astype("<f4").tobytes() for values in batch.values], pa.binary()),
        ],
        schema=FEATURE_LOG.schema,
    )
    sink(settings, FEATURE_LOG, rows.slice(leave_out))
    return rows.num_rows - leave_out
