"""Messages: what goes in comes out, what cannot be read is named, nothing else is raised."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibook_assets.core.errors import ContractError
from ibook_assets.core.messages import (
    MAX_MESSAGE_BYTES,
    PAYLOAD_HEAD_BYTES,
    SCHEMA,
    TOPICS,
    Heartbeat,
    dead_letter,
    decode,
    decode_dead_letter,
    decode_heartbeat,
    encode,
    encode_dead_letter,
    encode_heartbeat,
    encode_rows,
    read,
    spec_of,
    topic_of,
)
from ibook_assets.core.quarantine import RULES
from ibook_assets.core.tables import Column

ROW_TOPICS = [topic.name for topic in TOPICS.values() if topic.spec is not None]
ORDERS = "raw.transactions"


def _values(column: Column) -> st.SearchStrategy[Any]:
    if pa.types.is_integer(column.type):
        found: st.SearchStrategy[Any] = st.integers(-(2**63), 2**63 - 1)
    elif pa.types.is_boolean(column.type):
        found = st.booleans()
    elif pa.types.is_floating(column.type):
        found = st.floats(allow_nan=False, allow_infinity=False)
    else:
        found = st.binary(max_size=9) if pa.types.is_binary(column.type) else st.text(max_size=9)
    return st.none() | found


def rows_of(topic: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    columns = {column.name: _values(column) for column in spec_of(topic).columns}
    return st.lists(st.fixed_dictionaries(columns), max_size=5)


@pytest.mark.parametrize("topic", ROW_TOPICS)
@given(data=st.data())
def test_rows_come_back_as_they_were_sent(topic: str, data: st.DataObject) -> None:
    rows = data.draw(rows_of(topic))
    messages = [encode(topic, row) for row in rows]
    assert [decode(topic, message) for message in messages] == rows
    nullable = pa.schema([(c.name, c.type) for c in spec_of(topic).columns])
    assert encode_rows(topic, pa.Table.from_pylist(rows, schema=nullable)) == messages


def test_a_message_says_its_schema_and_leaves_nulls_out() -> None:
    row = {"refund_id": 1, "transaction_id": np.int64(2), "amount_cents": None}
    assert encode("raw.refunds", row) == b'{"schema":"1.0","refund_id":1,"transaction_id":2}'


def test_binary_columns_travel_as_base64() -> None:
    assert b'"vector":"AAE="' in encode("features.log", {"vector": b"\x00\x01"})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "message:unreadable_message"),
        (b"", "message:unreadable_message"),
        (b"\xff\xfe", "message:unreadable_message"),
        (b"[]", "message:unreadable_message"),
        (b'{"schema":"1.0"', "message:unreadable_message"),
        (b"[" * 100_000, "message:unreadable_message"),
        (b'{"schema":"1.0","x":' + b"[" * 100_000, "message:unreadable_message"),
        (b'{"schema":"1.0","tier":"\\ud800"}', "message:unreadable_message"),
        (b'{"schema":"1.0","user_id":"x","user_id":1}', "message:unreadable_message"),
        (b"{}", "message:unknown_schema"),
        (b'{"schema":1.0}', "message:unknown_schema"),
        (b'{"schema":"2.0"}', "message:unknown_schema"),
        (b'{"schema":"2.0","user_id":"x"}', "message:unknown_schema"),
        (b'{"schema":"1.0\\n"}', "message:unknown_schema"),
        (b'{"schema":"1"}', "message:unknown_schema"),
        (b'{"schema":"1.0","user_id":"7"}', "user_id:not_a_whole_number"),
        (b'{"schema":"1.0","user_id":7.0}', "user_id:not_a_whole_number"),
        (b'{"schema":"1.0","user_id":true}', "user_id:not_a_whole_number"),
        (b'{"schema":"1.0","user_id":1e999}', "message:unreadable_message"),
        (b'{"schema":"1.0","user_id":9223372036854775808}', "user_id:out_of_range"),
        (b'{"schema":"1.0","tier":3}', "tier:not_text"),
        (b'{"schema":"1.0","avs_match":1}', "avs_match:not_a_flag"),
        (b" " * (MAX_MESSAGE_BYTES + 1), "message:oversized"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_read_is_named(value: bytes | None, reason: str) -> None:
    assert read(ORDERS, value) == reason
    assert reason.partition(":")[2] in RULES
    if value is not None:
        with pytest.raises(ContractError, match=reason):
            decode(ORDERS, value)


def test_a_vector_must_be_base64() -> None:
    assert read("features.log", b'{"schema":"1.0","vector":"?"}') == "vector:not_base64"


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_bytes_whatever_raise(value: bytes) -> None:
    assert isinstance(read(ORDERS, value), str)


@pytest.mark.parametrize("schema", ["1.0", "1.1", "1.27"])
def test_a_newer_minor_schema_is_read(schema: str) -> None:
    value = f'{{"schema":"{schema}","refund_id":7,"colour":{{"deep":[1]}}}}'.encode()
    found = decode("raw.refunds", value)
    assert found == dict.fromkeys(spec_of("raw.refunds").column_names) | {"refund_id": 7}


@pytest.mark.parametrize("row", [{"surprise": 1}, {"user_id": object()}], ids=["column", "value"])
def test_a_row_that_has_no_message_is_named(row: dict[str, Any]) -> None:
    with pytest.raises(ContractError, match="a row of transactions cannot be sent"):
        encode(ORDERS, row)


def test_a_table_with_unknown_columns_is_named() -> None:
    with pytest.raises(ContractError, match=r"unknown columns \['surprise'\]"):
        encode_rows(ORDERS, pa.table({"surprise": [1]}))


def test_columns_that_a_table_lacks_are_null() -> None:
    assert encode_rows("raw.refunds", pa.table({"refund_id": [1]})) == [
        b'{"schema":"1.0","refund_id":1}'
    ]


def test_topics_and_tables_name_each_other() -> None:
    assert {topic_of(spec_of(name).name) for name in ROW_TOPICS} == set(ROW_TOPICS)
    with pytest.raises(ContractError, match="table 'venues' has no topic"):
        topic_of("venues")
    with pytest.raises(ContractError, match=r"topic 'gateway\.heartbeats' carries no rows"):
        spec_of("gateway.heartbeats")


def test_a_heartbeat_comes_back() -> None:
    beat = Heartbeat(gateway="g", known_ts=5, ends={ORDERS: [1, 2]}, closed=True)
    assert decode_heartbeat(encode_heartbeat(beat)) == beat


def test_a_dead_letter_comes_back_with_the_head_of_its_payload() -> None:
    payload = b"x" * (PAYLOAD_HEAD_BYTES + 1)
    letter = dead_letter(
        f"{ORDERS}/3/9", ORDERS, "a:b", payload, timestamp_ms=4, partition=3, offset=9
    )
    assert decode_dead_letter(encode_dead_letter(letter)) == letter
    assert (letter.size, len(letter.payload)) == (len(payload), PAYLOAD_HEAD_BYTES)


@pytest.mark.parametrize(
    "value", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"schema":"9.0"}'], ids=range(6)
)
def test_foreign_messages_on_the_logs_own_topics_are_refused(value: bytes) -> None:
    for own in (decode_heartbeat, decode_dead_letter):
        with pytest.raises(ContractError, match="not a message of the log's own"):
            own(value)


def test_a_heartbeat_of_another_major_schema_is_refused() -> None:
    beat = Heartbeat(schema="2.0", gateway="g", known_ts=5, ends={})
    assert beat.schema != SCHEMA
    with pytest.raises(ContractError, match="update this process"):
        decode_heartbeat(encode_heartbeat(beat))
