"""Intake: the one verdict on a message of the log, wherever it is read.

The gateway, the sink and the stream worker decide alike because a verdict depends on the message
and the log's timestamp only: not on the clock, not on what else came in the batch. Rules are
derived from the `TableSpec`s, as in `stores.contracts`; repetitions are that module's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from ibook_assets.core.arrow import Positions, array
from ibook_assets.core.messages import MAX_MESSAGE_BYTES, SCHEMA, TOPICS, Row, read, spec_of
from ibook_assets.core.tables import Column, TableSpec
from ibook_assets.core.times import DAY_US
from ibook_assets.stores.contracts import CLOCK_SKEW_CAP_US

LAST_TIMESTAMP_MS: Final = 8_000 * 365 * DAY_US // 1_000
"""A log's timestamp counts as this moment at most, in the year 9964: days must have a date."""


class LogRecord(NamedTuple):
    """A message as the log holds it."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


def log_records(polled: Iterable[Any]) -> list[LogRecord]:
    """Messages as a consumer polled them."""
    return [LogRecord(r.partition, r.offset, r.timestamp, r.key, r.value) for r in polled]


class Refused(NamedTuple):
    """A message that breaks the contract, and the rule it breaks first, as `column:rule`."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    reason: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Intake:
    """Messages after their verdict: each is a row or refused."""

    rows: pa.Table
    """Sound rows in the schema of the topic's table, in the order of their messages."""
    offsets: Positions
    """Offset of each row."""
    positions: Positions
    """Place of each row among the messages, from 0."""
    refused: list[Refused]

    @property
    def messages(self) -> int:
        """How many there were."""
        return self.rows.num_rows + len(self.refused)


def intake(topic: str, records: Sequence[LogRecord]) -> Intake:
    """Rows and refusals out of messages of `topic`; bad data never raises.

    ContractError only for a topic that carries no rows.
    """
    spec = spec_of(topic)
    rows: list[Row] = []
    positions: list[int] = []
    refused = []
    for position, record in enumerate(records):
        found = verdict(topic, record.value, timestamp_ms=record.timestamp_ms)
        if isinstance(found, str):
            place = (record.partition, record.offset, record.timestamp_ms)
            refused.append(Refused(*place, record.key, found, record.value or b""))
        else:
            rows.append(found)
            positions.append(position)
    sound = np.array(positions, np.int64)
    offsets = np.array([record.offset for record in records], np.int64)
    return Intake(_as_table(rows, spec), offsets[sound], sound, refused)


def verdict(topic: str, value: bytes | None, *, timestamp_ms: int) -> Row | str:
    """The row in a message, one attribute a column, or the reason to refuse it.

    Args:
        topic: one that carries rows.
        value: what was sent.
        timestamp_ms: the log's timestamp; what is known much later comes from a wrong clock.
    """
    limit_us = min(timestamp_ms, LAST_TIMESTAMP_MS) * 1_000 + 999 + CLOCK_SKEW_CAP_US
    strict = _strictly_read(topic, value)
    if strict is not None and strict.schema == SCHEMA and _times_hold(strict, limit_us):
        return strict
    # Whatever has no fast yes is looked at again for the rule it breaks.
    loose = read(topic, value)
    if isinstance(loose, str):
        return loose
    broken = _broken_rule(loose, spec_of(topic), limit_us)
    if broken is None and strict is None:
        # A field that is there twice, sound the second time only: parsers need not agree on it.
        return "message:unreadable_message"
    return broken or loose


def _strictly_read(topic: str, value: bytes | None) -> Row | None:
    if value is None or len(value) > MAX_MESSAGE_BYTES:
        return None
    try:
        return _DECODERS[topic].decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _times_hold(row: Row, limit_us: int) -> bool:
    known_us = getattr(row, "known_ts", 0)
    leads = getattr(row, "occurred_ts", 0) - known_us > CLOCK_SKEW_CAP_US
    return not leads and known_us <= limit_us


def _broken_rule(row: Row, spec: TableSpec, limit_us: int) -> str | None:
    """The first rule, by column, that a row of readable types breaks."""
    fields = {name: getattr(row, name) for name in spec.column_names}
    for column in spec.columns:
        rule = _broken_by(column, fields) or _broken_in_time(column.name, fields, limit_us)
        if rule is not None:
            return f"{column.name}:{rule}"
    return None


def _broken_by(column: Column, fields: Mapping[str, Any]) -> str | None:
    value = fields[column.name]
    if value is None:
        return None if column.nullable else "null"
    if column.minimum is not None and value < column.minimum:
        return "below_minimum"
    if column.maximum is not None and value > column.maximum:
        return "above_maximum"
    if column.allowed is not None and value not in column.allowed:
        return "unknown_category"
    return None


def _broken_in_time(name: str, fields: Mapping[str, Any], limit_us: int) -> str | None:
    known_us = fields.get("known_ts")
    if known_us is None:
        return None
    if name == "occurred_ts" and fields[name] - known_us > CLOCK_SKEW_CAP_US:
        return "after_known"
    return "in_the_future" if name == "known_ts" and known_us > limit_us else None


def _as_table(rows: Sequence[object], spec: TableSpec) -> pa.Table:
    if not rows:
        return spec.schema.empty_table()
    values = zip(*map(attrgetter(*spec.column_names), rows), strict=True)
    columns = [array(v, f.type) for v, f in zip(values, spec.schema, strict=True)]
    return pa.table(columns, schema=spec.schema)


def _strict_type(column: Column) -> object:
    if pa.types.is_integer(column.type):
        bits = (-(2**63), 2**63 - 1)
        limits = [d if m is None else m for d, m in zip(bits, _limits(column), strict=True)]
        kind: Any = Annotated[int, msgspec.Meta(ge=limits[0], le=limits[1])]
    elif pa.types.is_boolean(column.type):
        kind = bool
    elif pa.types.is_binary(column.type):
        kind = bytes
    elif pa.types.is_floating(column.type):
        kind = float
    else:
        kind = str if column.allowed is None else Literal[column.allowed]
    return kind | None if column.nullable else kind


def _limits(column: Column) -> tuple[int | None, int | None]:
    return column.minimum, column.maximum


def _strict_row(spec: TableSpec) -> type[Any]:
    """The form of a message that keeps every rule but those about times, for a fast yes."""
    fields: list[Any] = []
    for column in spec.columns:
        default = (None,) if column.nullable else ()
        fields.append((column.name, _strict_type(column), *default))
    return msgspec.defstruct(spec.name, fields, bases=(Row,), kw_only=True, gc=False)


_DECODERS: Final[Mapping[str, msgspec.json.Decoder[Row]]] = {
    topic.name: msgspec.json.Decoder(_strict_row(topic.spec))
    for topic in TOPICS.values()
    if topic.spec is not None
}
