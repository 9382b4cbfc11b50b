"""The log as Parquet files in the lake: every offset once, in files that are never changed.

`log/<topic>/p=<partition>/<start offset>.parquet` is created exclusively, so of several writers one
lands an offset; where a partition goes on is read from its last file. One row an offset, without
gaps: `_offset`, `_timestamp_ms`, `_error` (null when sound), `_payload` (the refused message), then
the columns of the topic's table.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ibook_assets.core.arrow import Array, Positions, array, integers, nulls, pc
from ibook_assets.core.errors import ContractError, StoreUnavailableError
from ibook_assets.core.messages import PAYLOAD_HEAD_BYTES, spec_of
from ibook_assets.core.quarantine import quarantine_spec, quarantined
from ibook_assets.core.tables import TableSpec
from ibook_assets.core.times import DAY_US, HOUR_US, day_of, day_start_us
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.intake import LAST_TIMESTAMP_MS, Intake, LogRecord
from ibook_assets.stores.parquet import column_range, encode, null_count
from ibook_assets.stores.sealing import check_seal, sealed, sealed_tail

OFFSET: Final = "_offset"
TIMESTAMP_MS: Final = "_timestamp_ms"
ERROR: Final = "_error"
PAYLOAD: Final = "_payload"

DISORDER_US: Final = HOUR_US
_KEY: Final = re.compile(
    r"^log/(?P<topic>[^/]+)/p=(?P<partition>\d{5})/(?P<start>\d{20})\.parquet$"
)
_TIMES: Final = (OFFSET, TIMESTAMP_MS, ERROR)


@dataclass(frozen=True, slots=True)
class LogFile:
    """One file: the messages of a partition from `start` up to, without, `end`."""

    topic: str
    partition: int
    start: int
    rows: int
    """Sound messages."""
    refused: int
    """Messages that broke the contract."""
    first_known_ts: int | None
    last_known_ts: int | None
    """Range of the sound rows' knowledge time (microseconds); None without such rows."""
    first_timestamp_ms: int
    last_timestamp_ms: int
    """Range of the log's own timestamps."""

    @property
    def end(self) -> int:
        """Offset the next file starts at."""
        return self.start + self.rows + self.refused

    @property
    def key(self) -> str:
        """Its key in the lake."""
        return _key(self.topic, self.partition, self.start)


_seen: dict[str, LogFile] = {}
"""Files by location, as far as this process has looked into them: they never change."""


class LogFiles:
    """The files below `log/` of a lake. All methods raise StoreUnavailableError when it fails."""

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs

    def create(
        self, topic: str, partition: int, records: Sequence[LogRecord], taken: Intake
    ) -> LogFile:
        """Land `records`, one or more messages in a row, with their verdict `taken`.

        Raises:
            ConflictError: somebody landed the first of them; read the position again.
            ContractError: an offset is missing between two of them.
        """
        offsets = np.array([record.offset for record in records], np.int64)
        if not len(offsets) or not (np.diff(offsets) == 1).all():
            msg = (
                f"{topic}/{partition}: offsets {offsets[:5].tolist()}… do not follow each other; "
                "land the messages between them first"
            )
            raise ContractError(msg)
        table = _as_file(records, taken, spec_of(topic))
        key = _key(topic, partition, int(offsets[0]))
        self.blobs.create(key, sealed(encode(table, table=f"log/{topic}")))
        known_us = _known_us(taken.rows)
        timestamps = integers(table[TIMESTAMP_MS], null=0)
        return LogFile(
            topic,
            partition,
            int(offsets[0]),
            taken.rows.num_rows,
            len(taken.refused),
            int(known_us.min()) if len(known_us) else None,
            int(known_us.max()) if len(known_us) else None,
            int(timestamps.min()),
            int(timestamps.max()),
        )

    def next_offset(self, topic: str, partition: int) -> int | None:
        """Offset at which the partition goes on; None when nothing of it has landed."""
        starts = self._starts(topic, f"p={partition:05d}/").get(partition)
        return None if not starts else self._look_into(topic, partition, starts[-1]).end

    def partitions(self, topic: str) -> list[int]:
        """Partitions of which something has landed, ascending."""
        return sorted(self._starts(topic))

    def ends(self, topic: str) -> dict[int, int]:
        """Next offset of each partition of which something has landed."""
        return {
            partition: self._look_into(topic, partition, starts[-1]).end
            for partition, starts in self._starts(topic).items()
        }

    def files(self, topic: str, *, since: Mapping[int, int] | None = None) -> list[LogFile]:
        """Files by partition and offset, those that end after `since` (offset by partition).

        Raises:
            ContractError: two files overlap or leave a gap.
        """
        found: list[LogFile] = []
        for partition, starts in self._starts(topic).items():
            first = (since or {}).get(partition, 0)
            # A file ends where the next one starts, so names say which ones lie before `first`.
            skipped = max(bisect_right(starts, first) - 1, 0)
            chain = self._chain(topic, partition, starts[skipped:])
            found += [file for file in chain if file.end > first]
        return found

    def latest(self, topic: str, *, from_us: int) -> list[LogFile]:
        """Files with messages of that time (microseconds) or later, found from the end.

        Those before cost nothing; a partition's timestamps go back by `DISORDER_US` at most.
        """
        found = []
        for partition, starts in self._starts(topic).items():
            for start in reversed(starts):
                file = self._seen(topic, partition, start)
                if file.last_timestamp_ms * 1_000 < from_us - DISORDER_US:
                    break
                found.append(file)
        return found

    def rows(self, topic: str) -> pa.Table:
        """All sound rows, in the order of their offsets within each partition."""
        spec = spec_of(topic)
        return _sound((self._read(file) for file in self.files(topic)), spec)

    def sound_rows(self, file: LogFile, columns: Sequence[str]) -> pa.Table:
        """Offset and `columns` of the sound rows of one file, in the order of their offsets."""
        messages = self._read(file, [OFFSET, ERROR, *columns])
        return messages.filter(pc.is_null(messages[ERROR])).drop_columns([ERROR])

    def day(
        self, topic: str, spec: TableSpec, day: date, *, among: Sequence[LogFile] | None = None
    ) -> tuple[pa.Table, pa.Table]:
        """Sound rows known on `day`, and what was refused on it, of all files or `among` some.

        A refused message belongs to the UTC day of the log's timestamp, and so do the rows of a
        table without a time column. Every message belongs to one day exactly.
        """
        start_us = day_start_us(day)
        sound: list[pa.Table] = []
        refused: list[pa.Table] = []
        for file in self.files(topic) if among is None else among:
            if not _may_hold(file, spec, start_us):
                continue
            messages = self._read(file)
            days_us = _days_us(messages, spec)
            of_day = messages.filter(array(days_us == start_us))
            is_sound = pc.is_null(of_day[ERROR])
            sound.append(of_day.filter(is_sound))
            refused.append(_quarantined(of_day.filter(pc.invert(is_sound)), spec, file))
        return _sound(sound, spec), pa.concat_tables(
            [quarantine_spec(spec).schema.empty_table(), *refused]
        ).combine_chunks()

    def new_days(self, topic: str, since: Mapping[int, int]) -> set[date]:
        """Days that got messages at or after `since`, the next offset by partition when last asked.

        A partition that `since` leaves out is new from its start.
        """
        spec = spec_of(topic)
        days: set[date] = set()
        for file in self.files(topic, since=since):
            first = since.get(file.partition, 0)
            columns = [*_TIMES, *([spec.time_column] if spec.time_column else [])]
            messages = self._read(file, columns)
            new = messages.filter(pc.greater_equal(messages[OFFSET], first))
            days |= {day_of(int(us)) for us in np.unique(_days_us(new, spec))}
        return days

    def _starts(self, topic: str, below: str = "") -> dict[int, list[int]]:
        """Start offsets, ascending, by partition."""
        found: dict[int, list[int]] = {}
        for key in self.blobs.list(f"log/{topic}/{below}"):
            match = _KEY.match(key)
            if match is None:
                msg = (
                    f"{self.blobs.location(key)} is no file of the log; only the sink writes below "
                    "log/: move it away"
                )
                raise ContractError(msg)
            found.setdefault(int(match["partition"]), []).append(int(match["start"]))
        return found

    def _chain(self, topic: str, partition: int, starts: Sequence[int]) -> list[LogFile]:
        """The files at `starts`, which must follow each other without gap or overlap."""
        files = [self._seen(topic, partition, start) for start in starts[:-1]]
        # Where it is known from before, the last file may have been replaced by hand.
        files += [self._look_into(topic, partition, start) for start in starts[-1:]]
        for position, following in enumerate(starts[1:]):
            if files[position].end != following:
                # This process may know a file of an older lake: look again before blaming it.
                files[position] = self._look_into(topic, partition, starts[position])
            if files[position].end != following:
                msg = (
                    f"{self.blobs.location(files[position].key)} ends at offset "
                    f"{files[position].end}, the next file starts at {following}: messages were "
                    "lost or landed twice. Was a file deleted, or another log landed in this lake?"
                )
                raise ContractError(msg)
        return files

    def _seen(self, topic: str, partition: int, start: int) -> LogFile:
        known = _seen.get(self.blobs.location(_key(topic, partition, start)))
        return known or self._look_into(topic, partition, start)

    def _look_into(self, topic: str, partition: int, start: int) -> LogFile:
        """What the footer of a file says."""
        key = _key(topic, partition, start)
        tail = self._tail(key)
        with self._explained(key):
            check_seal(tail)
            footer = pq.read_metadata(pa.BufferReader(tail))
        time_column = spec_of(topic).time_column
        known = column_range(footer, time_column) if time_column else None
        first_ms, last_ms = column_range(footer, TIMESTAMP_MS) or (0, 0)
        refused = footer.num_rows - null_count(footer, ERROR)
        rows = footer.num_rows - refused
        first_known, last_known = known or (None, None)
        found = LogFile(
            topic, partition, start, rows, refused, first_known, last_known, first_ms, last_ms
        )
        _seen[self.blobs.location(key)] = found
        return found

    def _read(self, file: LogFile, columns: Sequence[str] | None = None) -> pa.Table:
        """Messages of `file`, every page's checksum and every offset verified."""
        data = self.blobs.get(file.key)
        with self._explained(file.key):
            check_seal(data)
            messages = pq.read_table(
                pa.BufferReader(data),
                columns=None if columns is None else list(columns),
                partitioning=None,
                page_checksum_verification=True,
                use_threads=False,
            )
        offsets = integers(messages[OFFSET], null=-1)
        if not np.array_equal(offsets, np.arange(file.start, file.end)):
            msg = (
                f"{self.blobs.location(file.key)} does not hold offsets {file.start} up to "
                f"{file.end}: it was changed after it was written; restore it from a copy"
            )
            raise ContractError(msg)
        return messages.replace_schema_metadata(None)

    def _tail(self, key: str) -> bytes:
        """The sealed footer at the end of a file."""
        filesystem, source = self.blobs.arrow_source(key)
        try:
            with filesystem.open_input_file(source) as file:
                return sealed_tail(file)
        except OSError as error:
            self.blobs.stat(key)  # Tells a missing file from a store that does not answer.
            msg = f"{self.blobs.location(key)} could not be read: {error}. Run again"
            raise StoreUnavailableError(msg) from error

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            # All bytes are in memory: what is wrong is the bytes.
            msg = f"{self.blobs.location(key)} is damaged: {error}. Restore it from a copy"
            raise ContractError(msg) from error


def _key(topic: str, partition: int, start: int) -> str:
    return f"log/{topic}/p={partition:05d}/{start:020d}.parquet"


def _as_file(records: Sequence[LogRecord], taken: Intake, spec: TableSpec) -> pa.Table:
    place = np.full(len(records), -1, np.int64)
    place[taken.positions] = np.arange(taken.rows.num_rows)
    is_sound = place >= 0
    rows = taken.rows.take(array(place, mask=~is_sound))
    reasons = np.full(len(records), None, dtype=object)
    reasons[~is_sound] = [refused.reason for refused in taken.refused]
    payloads = np.full(len(records), None, dtype=object)
    payloads[~is_sound] = [refused.payload for refused in taken.refused]
    own: dict[str, Array] = {
        OFFSET: array([record.offset for record in records], pa.int64()),
        TIMESTAMP_MS: array([record.timestamp_ms for record in records], pa.int64()),
        ERROR: array(reasons, pa.string()),
        PAYLOAD: array(payloads, pa.binary()),
    }
    columns: dict[str, Any] = {name: rows[name] for name in spec.column_names}
    return pa.table(own | columns)


def _known_us(rows: pa.Table) -> Positions:
    if "known_ts" not in rows.column_names:
        return np.empty(0, np.int64)
    return integers(rows["known_ts"], null=0)


def _days_us(messages: pa.Table, spec: TableSpec) -> Positions:
    """First microsecond of the day that each message belongs to."""
    timestamps = integers(messages[TIMESTAMP_MS], null=0)
    log_us = np.clip(timestamps, 0, LAST_TIMESTAMP_MS) * 1_000
    if spec.time_column is not None:
        known = np.asarray(pc.is_valid(messages[spec.time_column]))
        log_us = np.where(known, integers(messages[spec.time_column], null=0), log_us)
    days_us: Positions = log_us // DAY_US * DAY_US
    return days_us


def _may_hold(file: LogFile, spec: TableSpec, start_us: int) -> bool:
    """Whether a message of `file` can belong to the day that starts at `start_us`."""
    spans = []
    if file.refused or spec.time_column is None:
        first, last = (
            min(max(ms, 0), LAST_TIMESTAMP_MS) * 1_000
            for ms in (file.first_timestamp_ms, file.last_timestamp_ms)
        )
        spans.append((first, last))
    if file.first_known_ts is not None and file.last_known_ts is not None:
        spans.append((file.first_known_ts, file.last_known_ts))
    return any(first < start_us + DAY_US and last >= start_us for first, last in spans)


def _sound(messages: Iterable[pa.Table], spec: TableSpec) -> pa.Table:
    names = list(spec.column_names)
    rows = [table.filter(pc.is_null(table[ERROR])).select(names) for table in messages]
    return pa.concat_tables(
        [spec.schema.empty_table(), *(table.cast(spec.schema) for table in rows)]
    ).combine_chunks()


def _quarantined(messages: pa.Table, spec: TableSpec, file: LogFile) -> pa.Table:
    blank = pa.table({name: nulls(messages.num_rows, pa.string()) for name in spec.column_names})
    heads = [
        (payload or b"")[:PAYLOAD_HEAD_BYTES].decode("utf-8", "backslashreplace")
        for payload in messages[PAYLOAD].to_pylist()
    ]
    return quarantined(
        blank,
        spec,
        reasons=messages[ERROR].combine_chunks(),
        source=f"{file.topic}/{file.partition}",
        source_rows=integers(messages[OFFSET], null=-1),
        records=array(heads, pa.string()),
    )
