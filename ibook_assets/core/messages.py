"""Messages of the event log: their topics, their JSON form and its schema version.

A row travels as `{"schema": "1.0", <columns of its table, nulls left out>}`, binary columns in
base64. Readers take any schema 1.x and ignore fields they do not know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Final, TypeVar

import msgspec
import numpy as np
import pyarrow as pa

from ibook_assets.core.canonical import sha256_hex
from ibook_assets.core.errors import ContractError
from ibook_assets.core.tables import (
    EVENTS,
    EXPERIMENT_OUTCOMES,
    FEATURE_LOG,
    OUTCOMES,
    PREDICTIONS,
    REFUNDS,
    TRANSACTIONS,
    VIEWS,
    Column,
    TableSpec,
)

SCHEMA: Final = "1.0"
"""Version written into every message, `major.minor`."""

MAX_MESSAGE_BYTES: Final = 999_000
"""Greatest value of a message; with key and framing it stays below a request's 1,000,000 bytes."""

PAYLOAD_HEAD_BYTES: Final = 16_384
"""Bytes of a refused message that its dead letter quotes."""

HEARTBEATS: Final = "gateway.heartbeats"
DEAD_LETTERS: Final = "dead.letters"
FEATURES_LOG: Final = "features.log"
PREDICTION_LOG: Final = "predictions"
OUTCOME_LOG: Final = "experiment.outcomes"

_READABLE: Final = re.compile(r"1\.(0|[1-9][0-9]{0,8})", re.ASCII)
_INT64: Final = range(-(2**63), 2**63)
_Int64 = Annotated[int, msgspec.Meta(ge=_INT64.start, le=_INT64.stop - 1)]


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of the log; `spec` is the table its rows belong to, None for the log's own."""

    name: str
    spec: TableSpec | None


TOPICS: Final[Mapping[str, Topic]] = MappingProxyType(
    {
        topic.name: topic
        for topic in (
            Topic("raw.transactions", TRANSACTIONS),
            Topic("raw.views", VIEWS),
            Topic("raw.refunds", REFUNDS),
            Topic("raw.outcomes", OUTCOMES),
            Topic("raw.events", EVENTS),
            Topic(FEATURES_LOG, FEATURE_LOG),
            Topic(PREDICTION_LOG, PREDICTIONS),
            Topic(OUTCOME_LOG, EXPERIMENT_OUTCOMES),
            Topic(HEARTBEATS, None),
            Topic(DEAD_LETTERS, None),
        )
    }
)

DERIVED_TOPICS: Final = (FEATURES_LOG, PREDICTION_LOG, OUTCOME_LOG)
"""Topics that the platform itself writes, each row with its own time; no gateway is involved."""

_TOPIC_OF_TABLE: Final = {t.spec.name: t.name for t in TOPICS.values() if t.spec is not None}


def topic_of(table_name: str) -> str:
    """Name of the topic that carries rows of `table_name`."""
    if table_name not in _TOPIC_OF_TABLE:
        msg = f"table {table_name!r} has no topic; tables of the log: {sorted(_TOPIC_OF_TABLE)}"
        raise ContractError(msg)
    return _TOPIC_OF_TABLE[table_name]


def spec_of(topic: str) -> TableSpec:
    """The table whose rows `topic` carries."""
    found = TOPICS.get(topic)
    if found is None or found.spec is None:
        msg = f"topic {topic!r} carries no rows; topics that do: {list(_TOPIC_OF_TABLE.values())}"
        raise ContractError(msg)
    return found.spec


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway's promise: its events with a smaller `known_ts` lie below `ends`, all of them."""

    schema: str = SCHEMA
    gateway: str
    known_ts: int
    """T (microseconds UTC); every later event of this gateway is known at T or after."""
    ends: dict[str, list[int]]
    """Next offset of each partition, by topic."""
    closed: bool = False
    """The gateway has ended: nothing follows, so it holds nobody back."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message that was refused, and why. One `source` may be reported more than once."""

    source: str
    """`topic/partition/offset`, or `topic/gateway/number` for an event that was never sent."""
    topic: str
    reason: str
    """`column:rule`, or `message:rule` where the whole message is at fault."""
    timestamp_ms: int
    size: int
    """Bytes of the refused message."""
    sha256: str
    payload: bytes
    """Its first bytes, at most PAYLOAD_HEAD_BYTES of them."""
    schema: str = SCHEMA
    partition: int | None = None
    offset: int | None = None


def dead_letter(
    source: str,
    topic: str,
    reason: str,
    payload: bytes,
    *,
    timestamp_ms: int,
    partition: int | None = None,
    offset: int | None = None,
) -> DeadLetter:
    """The dead letter of `payload`."""
    return DeadLetter(
        source=source,
        topic=topic,
        reason=reason,
        timestamp_ms=timestamp_ms,
        size=len(payload),
        sha256=sha256_hex(payload),
        payload=payload[:PAYLOAD_HEAD_BYTES],
        partition=partition,
        offset=offset,
    )


_Own = TypeVar("_Own", Heartbeat, DeadLetter)


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    msg = f"{type(value).__name__} {str(value)[:80]!r} has no form in a message"
    raise TypeError(msg)


_ENCODER: Final = msgspec.json.Encoder(enc_hook=_plain)
_HEARTBEATS: Final = msgspec.json.Decoder(Heartbeat)
_DEAD_LETTERS: Final = msgspec.json.Decoder(DeadLetter)
_ANYTHING: Final = msgspec.json.Decoder()


class Row(msgspec.Struct):
    """What all rows have; the columns of a table are added to it."""

    schema: str


def _field_type(column: Column) -> object:
    if pa.types.is_integer(column.type):
        return _Int64 | None
    if pa.types.is_boolean(column.type):
        return bool | None
    if pa.types.is_binary(column.type):
        return bytes | None
    return (float if pa.types.is_floating(column.type) else str) | None


def _row_type(spec: TableSpec) -> type[Any]:
    # `schema` has no default, so that omit_defaults leaves out the nulls only.
    fields: list[Any] = [(column.name, _field_type(column), None) for column in spec.columns]
    return msgspec.defstruct(spec.name, fields, bases=(Row,), omit_defaults=True, gc=False)


_ROWS: Final = {t.name: _row_type(t.spec) for t in TOPICS.values() if t.spec is not None}
_DECODERS: Final[Mapping[str, msgspec.json.Decoder[Row]]] = {
    name: msgspec.json.Decoder(row) for name, row in _ROWS.items()
}


def encode(topic: str, row: Mapping[str, Any]) -> bytes:
    """One row of the topic's table as a message; its values are not checked here.

    Raises:
        ContractError: a column that the table does not have, or a value without a JSON form.
    """
    spec = spec_of(topic)
    try:
        return _ENCODER.encode(_ROWS[topic](SCHEMA, **row))
    except TypeError as error:
        unknown = sorted(set(row) - set(spec.column_names))
        msg = (
            f"a row of {spec.name} cannot be sent: "
            f"{f'unknown columns {unknown}' if unknown else error}; "
            f"its columns are {list(spec.column_names)}"
        )
        raise ContractError(msg) from error


def encode_rows(topic: str, table: pa.Table) -> list[bytes]:
    """The rows of `table`, which has columns of the topic's table only, as messages."""
    spec = spec_of(topic)
    unknown = sorted(set(table.column_names) - set(spec.column_names))
    if unknown:
        msg = (
            f"rows of {spec.name} cannot be sent: unknown columns {unknown}; "
            f"its columns are {list(spec.column_names)}"
        )
        raise ContractError(msg)
    absent = [None] * table.num_rows
    columns = [
        table[name].to_pylist() if name in table.column_names else absent
        for name in spec.column_names
    ]
    row = _ROWS[topic]
    return [_ENCODER.encode(row(SCHEMA, *values)) for values in zip(*columns, strict=True)]


def read(topic: str, value: bytes | None) -> Row | str:
    """A message's row, one attribute a column (None for null), or its reason to be refused.

    Only its form is judged: the reason, a text such as `message:unknown_schema` or
    `amount_cents:not_a_whole_number`, says why no typed row could be made of it.
    """
    if value is None:
        return "message:unreadable_message"
    if len(value) > MAX_MESSAGE_BYTES:
        return "message:oversized"
    try:
        row = _DECODERS[topic].decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _why_unreadable(topic, value)
    if not _READABLE.fullmatch(row.schema):
        return "message:unknown_schema"
    return row


def decode(topic: str, value: bytes) -> dict[str, Any]:
    """The row in a message, every column of its table, None for null; ContractError without one."""
    spec = spec_of(topic)
    row = read(topic, value)
    if isinstance(row, str):
        msg = (
            f"{topic}: a message of {len(value):,} bytes is refused ({row}): {value[:80]!r}. It "
            f'needs {{"schema": "{SCHEMA}", …}} with the columns of {spec.name} in their types.'
        )
        raise ContractError(msg)
    return {name: getattr(row, name) for name in spec.column_names}


def _why_unreadable(topic: str, value: bytes) -> str:
    try:
        fields = _ANYTHING.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "message:unreadable_message"
    if not isinstance(fields, dict):
        return "message:unreadable_message"
    schema = fields.get("schema")
    if not isinstance(schema, str) or not _READABLE.fullmatch(schema):
        return "message:unknown_schema"
    for column in spec_of(topic).columns:
        rule = _broken_type(column, fields.get(column.name))
        if rule is not None:
            return f"{column.name}:{rule}"
    return "message:unreadable_message"


def _broken_type(column: Column, value: object) -> str | None:
    """The rule that `value` breaks by its type alone."""
    try:
        msgspec.convert(value, _field_type(column))
    except msgspec.ValidationError:
        pass
    else:
        return None
    if pa.types.is_integer(column.type):
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return "out_of_range" if is_whole else "not_a_whole_number"
    if pa.types.is_boolean(column.type):
        return "not_a_flag"
    if pa.types.is_floating(column.type):
        return "not_finite"
    return "not_base64" if pa.types.is_binary(column.type) else "not_text"


def encode_heartbeat(heartbeat: Heartbeat) -> bytes:
    """`heartbeat` as a message."""
    return _ENCODER.encode(heartbeat)


def decode_heartbeat(value: bytes) -> Heartbeat:
    """The heartbeat in a message; ContractError when there is none of a schema that is read."""
    return _own(_HEARTBEATS, value)


def encode_dead_letter(letter: DeadLetter) -> bytes:
    """`letter` as a message."""
    return _ENCODER.encode(letter)


def decode_dead_letter(value: bytes) -> DeadLetter:
    """The dead letter in a message; ContractError when there is none of a schema that is read."""
    return _own(_DEAD_LETTERS, value)


def _own(decoder: msgspec.json.Decoder[_Own], value: bytes) -> _Own:
    try:
        found = decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        msg = f"not a message of the log's own: {value[:80]!r} ({error}); who writes that topic?"
        raise ContractError(msg) from error
    if not _READABLE.fullmatch(found.schema):
        msg = f"schema {found.schema[:20]!r} is not read here, only 1.x; update this process"
        raise ContractError(msg)
    return found
