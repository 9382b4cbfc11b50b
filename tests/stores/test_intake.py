"""Intake: each message has one verdict, alone and in any batch; the landing's contract agrees."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibook_assets.core.messages import MAX_MESSAGE_BYTES, encode, read, topic_of
from ibook_assets.core.quarantine import RULES
from ibook_assets.core.tables import EVENTS, FEATURE_LOG, RAW_TABLES, TRANSACTIONS, TableSpec
from ibook_assets.core.times import DAY_US, MINUTE_US
from ibook_assets.stores.contracts import CLOCK_SKEW_CAP_US, validate
from ibook_assets.stores.intake import LAST_TIMESTAMP_MS, LogRecord, Refused, intake, verdict

NOON_US = 20_454 * DAY_US + DAY_US // 2
NOON_MS = NOON_US // 1_000
ORDERS = topic_of("transactions")
ORDER: dict[str, Any] = {
    "transaction_id": 1, "occurred_ts": NOON_US - 5, "known_ts": NOON_US, "user_id": 2,
    "event_id": 3, "amount_cents": 500, "quantity": 1, "tier": "vip", "avs_match": True,
}  # fmt: skip


def _record(value: bytes | None, offset: int = 0, timestamp_ms: int = NOON_MS) -> LogRecord:
    return LogRecord(0, offset, timestamp_ms, b"2", value)


def _order(**changed: Any) -> bytes:
    return encode(ORDERS, ORDER | changed)


def test_a_sound_message_is_a_row() -> None:
    found = intake(ORDERS, [_record(_order(), offset=41), _record(_order(user_id=9), offset=42)])
    assert found.rows.schema == TRANSACTIONS.schema
    assert found.rows["user_id"].to_pylist() == [2, 9]
    assert found.rows.to_pylist()[0] == dict.fromkeys(TRANSACTIONS.column_names) | ORDER
    assert (found.offsets.tolist(), found.positions.tolist(), found.refused) == (
        [41, 42],
        [0, 1],
        [],
    )


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"user_id": None}, "user_id:null"),
        ({"known_ts": None}, "known_ts:null"),
        ({"known_ts": -1}, "occurred_ts:after_known"),
        ({"amount_cents": -1}, "amount_cents:below_minimum"),
        ({"amount_cents": 10**10 + 1}, "amount_cents:above_maximum"),
        ({"tier": "gold"}, "tier:unknown_category"),
        ({"occurred_ts": NOON_US + CLOCK_SKEW_CAP_US + 1}, "occurred_ts:after_known"),
        ({"known_ts": NOON_US + CLOCK_SKEW_CAP_US + 1_000}, "known_ts:in_the_future"),
        ({"known_ts": 2**63 - 1}, "known_ts:in_the_future"),
        ({"user_id": "7", "amount_cents": -1}, "user_id:not_a_whole_number"),
        ({"user_id": -1, "tier": 3}, "tier:not_text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_message_is_refused_with_its_reason(changed: dict[str, Any], reason: str) -> None:
    bad = _order(**changed)
    found = intake(ORDERS, [_record(_order(), 5), _record(bad, 6), _record(_order(), 7)])
    assert found.offsets.tolist() == [5, 7]
    assert found.positions.tolist() == [0, 2]
    assert found.refused == [Refused(0, 6, NOON_MS, b"2", reason, bad)]
    assert reason.partition(":")[2] in RULES


@pytest.mark.parametrize("skew_us", [0, MINUTE_US, CLOCK_SKEW_CAP_US])
def test_clocks_may_run_ahead_up_to_the_cap(skew_us: int) -> None:
    found = intake(ORDERS, [_record(_order(occurred_ts=NOON_US + skew_us))])
    assert found.refused == []
    assert intake(ORDERS, [_record(_order(known_ts=NOON_US + skew_us))]).refused == []


@pytest.mark.parametrize("timestamp_ms", [-1, -(2**63), 2**63 - 1, 0])
def test_a_senseless_timestamp_of_the_log_does_no_harm(timestamp_ms: int) -> None:
    far = _order(known_ts=LAST_TIMESTAMP_MS * 1_000 + DAY_US)
    found = intake(ORDERS, [_record(far, timestamp_ms=timestamp_ms)])
    assert [r.reason for r in found.refused] == ["known_ts:in_the_future"]


def test_a_field_that_is_there_twice_is_refused_when_one_of_the_two_is_bad() -> None:
    twice = _order().replace(b'"quantity":1', b'"quantity":0,"quantity":1')
    assert verdict(ORDERS, twice, timestamp_ms=NOON_MS) == "message:unreadable_message"


def test_a_newer_minor_schema_is_a_row_and_keeps_the_contract() -> None:
    newer = _order().replace(b'"1.0"', b'"1.3","colour":"red"')
    assert intake(ORDERS, [_record(newer)]).rows["user_id"].to_pylist() == [2]
    bad = newer.replace(b'"quantity":1', b'"quantity":0')
    assert verdict(ORDERS, bad, timestamp_ms=NOON_MS) == "quantity:below_minimum"


@pytest.mark.parametrize("spec", [*RAW_TABLES, EVENTS, FEATURE_LOG], ids=lambda s: s.name)
def test_every_topic_takes_no_message_and_tombstones(spec: TableSpec) -> None:
    topic = topic_of(spec.name)
    assert intake(topic, []).rows.schema == spec.schema
    found = intake(topic, [_record(None, 3)])
    assert found.rows.num_rows == 0
    assert found.refused == [Refused(0, 3, NOON_MS, b"2", "message:unreadable_message", b"")]


poisons = st.sampled_from(
    [None, b"", b"\xff", b"[]", b"[" * 10_000, b'{"schema":"2.0"}', b" " * (MAX_MESSAGE_BYTES + 1)]
) | st.binary(max_size=9)
fields = st.fixed_dictionaries(
    {
        "transaction_id": st.integers(0, 9),
        "user_id": st.sampled_from([None, -1, 0, 1, "1"]),
        "occurred_ts": st.sampled_from([None, -1, 0, NOON_US, NOON_US + 10 * MINUTE_US]),
        "known_ts": st.sampled_from([None, -1, NOON_US, NOON_US + 1, NOON_US + 10 * MINUTE_US]),
        "amount_cents": st.sampled_from([None, -1, 0, 10**10, 10**10 + 1, 1.5]),
        "quantity": st.sampled_from([None, 0, 1, 10_000, 10_001, True]),
        "tier": st.sampled_from([None, "vip", "gold", "", 1]),
        "avs_match": st.sampled_from([None, True, False, 1]),
        "event_id": st.just(1),
    }
)
messages = fields.map(lambda row: encode(ORDERS, row)) | poisons


@settings(max_examples=60, deadline=None)
@given(st.lists(messages, max_size=12), st.integers(0, 12))
def test_a_verdict_is_the_same_alone_and_in_any_batch(values: list[bytes | None], cut: int) -> None:
    records = [_record(value, offset) for offset, value in enumerate(values)]
    whole = intake(ORDERS, records)
    assert whole.messages == len(records)
    parts = [intake(ORDERS, part) for part in (records[:cut], records[cut:])]
    assert pa.concat_tables([p.rows for p in parts]).equals(whole.rows)
    assert np.concatenate([p.offsets for p in parts]).tolist() == whole.offsets.tolist()
    assert parts[0].refused + parts[1].refused == whole.refused
    alone = [intake(ORDERS, [record]) for record in records]
    assert [r for one in alone for r in one.refused] == whole.refused


@settings(max_examples=40, deadline=None)
@given(st.lists(fields, min_size=1, max_size=9))
def test_the_landing_contract_gives_the_same_verdict(rows: list[dict[str, Any]]) -> None:
    readable = [row for row in rows if not isinstance(read(ORDERS, encode(ORDERS, row)), str)]
    for row in readable:
        found = verdict(ORDERS, encode(ORDERS, row), timestamp_ms=NOON_MS)
        complete = dict.fromkeys(TRANSACTIONS.column_names) | row
        nullable = pa.schema([(c.name, c.type) for c in TRANSACTIONS.columns])
        table = pa.Table.from_pylist([complete], schema=nullable)
        landed = validate(table, TRANSACTIONS, source="x", now_us=NOON_US)
        assert list(landed.counts) == ([found] if isinstance(found, str) else [])


def test_what_json_writers_do_is_read() -> None:
    pretty = json.dumps({"schema": "1.0"} | ORDER, indent=2).encode()
    assert intake(ORDERS, [_record(pretty)]).rows.num_rows == 1
