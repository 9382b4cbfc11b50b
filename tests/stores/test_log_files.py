"""The log's files: every offset once, found again by position and by day, damage refused."""

from __future__ import annotations

import shutil
from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibook_assets.core.errors import ConflictError, ContractError
from ibook_assets.core.messages import PAYLOAD_HEAD_BYTES, encode
from ibook_assets.core.quarantine import quarantine_spec
from ibook_assets.core.tables import EVENTS, FEATURE_LOG, VIEWS
from ibook_assets.core.times import DAY_US
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.intake import LogRecord, intake
from ibook_assets.stores.local_blobs import LocalBlobs
from ibook_assets.stores.log_files import LogFile, LogFiles

TOPIC = "raw.views"
MONDAY = date(2026, 1, 5)
MONDAY_US = int(datetime(2026, 1, 5, tzinfo=UTC).timestamp()) * 1_000_000


def _message(view: int, known_us: int = MONDAY_US, **changed: Any) -> bytes:
    row = {"view_id": view, "occurred_ts": known_us, "known_ts": known_us, "session_id": 1}
    return encode(TOPIC, row | {"event_id": 1, "dwell_ms": 5} | changed)


def _records(*values: bytes | None, start: int = 0, at_us: int = MONDAY_US) -> list[LogRecord]:
    return [LogRecord(0, start + i, at_us // 1_000, b"1", value) for i, value in enumerate(values)]


def _land(files: LogFiles, records: list[LogRecord], partition: int = 0) -> LogFile:
    return files.create(TOPIC, partition, records, intake(TOPIC, records))


def test_the_next_offset_follows_the_last_file(blobs: Blobs) -> None:
    files = LogFiles(blobs)
    assert files.next_offset(TOPIC, 0) is None
    assert files.ends(TOPIC) == {}
    _land(files, _records(_message(1), b"?"))
    _land(files, _records(_message(2), start=2))
    _land(files, _records(_message(3), start=7), partition=12)
    assert files.next_offset(TOPIC, 0) == 3
    assert files.ends(TOPIC) == {0: 3, 12: 8}
    assert files.partitions(TOPIC) == [0, 12]
    assert LogFiles(blobs).ends(TOPIC) == {0: 3, 12: 8}


def test_an_offset_lands_once(blobs: Blobs) -> None:
    files = LogFiles(blobs)
    _land(files, _records(_message(1)))
    with pytest.raises(ConflictError):
        _land(files, _records(_message(1), _message(2)))
    assert files.next_offset(TOPIC, 0) == 1


def test_what_is_said_of_a_file_is_what_its_footer_says(blobs: Blobs) -> None:
    files = LogFiles(blobs)
    said = [
        _land(files, _records(_message(1), b"?", _message(2, MONDAY_US + 7))),
        _land(files, _records(b"!", start=3, at_us=MONDAY_US + 2_000)),
    ]
    assert LogFiles(blobs).files(TOPIC) == said
    first, second = said
    assert (first.rows, first.refused, first.end) == (2, 1, 3)
    assert (first.first_known_ts, first.last_known_ts) == (MONDAY_US, MONDAY_US + 7)
    assert (second.first_known_ts, second.last_known_ts) == (None, None)
    assert second.first_timestamp_ms == MONDAY_US // 1_000 + 2
    assert [f.start for f in files.files(TOPIC, since={0: 3})] == [3]
    assert [f.start for f in files.files(TOPIC, since={0: 2})] == [0, 3]
    assert files.files(TOPIC, since={0: 4}) == []


def test_a_refused_message_is_quarantined_with_reason_place_and_text(tmp_path: Path) -> None:
    files = LogFiles(LocalBlobs(tmp_path))
    _land(files, _records(_message(1), b"\xff?", _message(2, dwell_ms=-1), None, b"x" * 20_000))
    rows, refused = files.day(TOPIC, VIEWS, MONDAY)
    assert rows["view_id"].to_pylist() == [1]
    assert rows.schema == VIEWS.schema
    assert refused.schema == quarantine_spec(VIEWS).schema
    assert refused["reason"].to_pylist() == [
        "message:unreadable_message",
        "dwell_ms:below_minimum",
        "message:unreadable_message",
        "message:unreadable_message",
    ]
    assert refused["source"].to_pylist() == ["raw.views/0"] * 4
    assert refused["source_row"].to_pylist() == [1, 2, 3, 4]
    texts = refused["record"].to_pylist()
    assert texts[:3] == ["\\xff?", _message(2, dwell_ms=-1).decode(), ""]
    assert texts[3] == "x" * PAYLOAD_HEAD_BYTES


def test_a_table_without_time_is_read_whole_and_by_the_logs_day(tmp_path: Path) -> None:
    event = {
        "event_id": 1, "promoter_id": 1, "venue_id": 1, "category": "concert", "capacity": 5,
        "list_price_cents": 1, "on_sale_ts": 0, "starts_ts": 1,
    }  # fmt: skip
    files = LogFiles(LocalBlobs(tmp_path))
    records = _records(encode("raw.events", event), b"?", encode("raw.events", event))
    files.create("raw.events", 0, records, intake("raw.events", records))
    assert files.rows("raw.events").to_pylist() == [event, event]
    assert files.day("raw.events", EVENTS, MONDAY)[0].num_rows == 2
    assert files.new_days("raw.events", {}) == {MONDAY}


def test_binary_columns_survive(tmp_path: Path) -> None:
    row = {"transaction_id": 1, "known_ts": MONDAY_US, "definition": "d", "vector": b"\x00\xff"}
    files = LogFiles(LocalBlobs(tmp_path))
    records = _records(encode("features.log", row))
    files.create("features.log", 0, records, intake("features.log", records))
    assert files.day("features.log", FEATURE_LOG, MONDAY)[0].to_pylist() == [row]


@pytest.mark.parametrize("timestamp_ms", [-1, 2**62])
def test_a_senseless_timestamp_of_the_log_still_has_a_day(
    timestamp_ms: int, tmp_path: Path
) -> None:
    files = LogFiles(LocalBlobs(tmp_path))
    _land(files, _records(b"?", at_us=timestamp_ms * 1_000))
    (day,) = files.new_days(TOPIC, {})
    assert files.day(TOPIC, VIEWS, day)[1].num_rows == 1


@pytest.mark.parametrize("offsets", [[], [3, 5], [3, 3], [4, 3]], ids=str)
def test_messages_that_do_not_follow_each_other_are_not_landed(
    offsets: list[int], tmp_path: Path
) -> None:
    records = [LogRecord(0, offset, 0, None, b"?") for offset in offsets]
    with pytest.raises(ContractError, match="do not follow each other"):
        _land(LogFiles(LocalBlobs(tmp_path)), records)


def test_the_latest_files_are_found_without_looking_into_earlier_ones(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    for number in range(4):
        known_us = MONDAY_US + number * DAY_US
        records = _records(_message(number, known_us), start=number, at_us=known_us)
        _land(LogFiles(blobs), records)
    # A file that is looked into would be found damaged; another lake's path is not known yet.
    moved = LocalBlobs(shutil.copytree(tmp_path, tmp_path / "moved"))
    (oldest, *_) = moved.list(f"log/{TOPIC}/")
    Path(moved.location(oldest)).write_bytes(b"?")
    files = LogFiles(moved)
    found = files.latest(TOPIC, from_us=MONDAY_US + 2 * DAY_US)
    assert [file.start for file in found] == [3, 2]
    sound, refused = files.day(TOPIC, VIEWS, date(2026, 1, 7), among=found)
    assert (sound["view_id"].to_pylist(), refused.num_rows) == ([2], 0)
    with pytest.raises(ContractError, match="is damaged"):
        files.latest(TOPIC, from_us=0)


def test_a_missing_file_is_named(blobs: Blobs) -> None:
    files = LogFiles(blobs)
    middle = [_land(files, _records(b"?", start=start)) for start in range(3)][1]
    blobs.delete(middle.key)
    with pytest.raises(ContractError, match="ends at offset 1, the next file starts at 2"):
        files.files(TOPIC)


def test_a_lake_that_was_emptied_and_filled_again_is_read_anew(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    for sizes in ((3, 1), (2, 1)):
        for key in blobs.list("log/"):
            blobs.delete(key)
        start = 0
        for size in sizes:
            _land(LogFiles(blobs), _records(*[b"?"] * size, start=start))
            start += size
        assert [f.end for f in LogFiles(blobs).files(TOPIC)] == [sizes[0], start]


def test_a_foreign_file_below_log_is_named(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    blobs.put(f"log/{TOPIC}/notes.txt", b"")
    with pytest.raises(ContractError, match=r"notes\.txt is no file of the log"):
        LogFiles(blobs).ends(TOPIC)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    file = _land(LogFiles(blobs), _records(*[_message(i) for i in range(200)]))
    data = blobs.get(file.key)
    rng = np.random.default_rng(3)
    wrong = 0
    for position in rng.integers(4, len(data) - 8, 60).tolist():
        blobs.put(file.key, data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        try:
            rows, _ = LogFiles(blobs).day(TOPIC, VIEWS, MONDAY)
        except ContractError:
            continue
        wrong += rows["view_id"].to_pylist() != list(range(200))
    assert wrong == 0


landings = st.lists(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["sound", "bad", "poison"])),
        min_size=1,
        max_size=4,
    ),
    max_size=6,
)


def _landed(blobs: Blobs, batches: list[list[tuple[int, str]]]) -> list[tuple[int, str]]:
    files = LogFiles(blobs)
    start = 0
    for batch in batches:
        records = []
        for i, (day, kind) in enumerate(batch):
            known_us = MONDAY_US + day * DAY_US + i
            value = b"?" if kind == "poison" else _message(start + i, known_us, session_id=1)
            if kind == "bad":
                value = _message(start + i, known_us, dwell_ms=-1)
            records.append(LogRecord(0, start + i, known_us // 1_000, None, value))
        _land(files, records)
        start += len(batch)
    return [message for batch in batches for message in batch]


@settings(max_examples=40, deadline=None)
@given(landings, st.integers(0, 24))
def test_days_hold_every_message_once_and_new_days_are_those_that_changed(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[int, str]]], seen: int
) -> None:
    blobs = LocalBlobs(tmp_path_factory.getbasetemp() / uuid4().hex)
    messages = _landed(blobs, batches)
    files = LogFiles(blobs)
    assert files.next_offset(TOPIC, 0) == (len(messages) or None)
    found: Counter[tuple[int, bool]] = Counter()
    for day in range(4):
        rows, refused = files.day(TOPIC, VIEWS, date(2026, 1, 5 + day))
        found[day, True] += rows.num_rows
        found[day, False] += refused.num_rows
    assert +found == Counter((day, kind == "sound") for day, kind in messages)
    new = {date(2026, 1, 5 + day) for day, _ in messages[seen:]}
    assert files.new_days(TOPIC, {0: seen}) == new
    assert files.rows(TOPIC).num_rows == sum(kind == "sound" for _, kind in messages)
    assert isinstance(files.rows(TOPIC), pa.Table)
