"""Reading features out of packed records, whatever keeps them: one plan, one kernel."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, TypeVar

import numpy as np

from ibook_assets.core.errors import ContractError
from ibook_assets.core.facts import ENTITY_COLUMNS
from ibook_assets.core.features.catalog import resolve
from ibook_assets.core.features.kernel import MISSING, Floats, Ints
from ibook_assets.core.features.plan import Layout, plan_features
from ibook_assets.core.features.point import NO_ENTITY, UNKNOWN_ENTITY, PointPlan
from ibook_assets.core.features.requests import Request, check_columns, request_integers
from ibook_assets.core.features.spec import Transform
from ibook_assets.core.features.transforms import TRANSFORMS
from ibook_assets.stores.online.format import (
    EVENT_ATTRIBUTES,
    EVENT_PREFIX,
    absent_of,
    key_of,
    unpack_attributes,
)

Value = bytes | memoryview | None
ReadKeys = Callable[[Sequence[bytes]], Sequence[Value]]
"""Values of some keys, all of one moment; None where there is none."""

Asked = TypeVar("Asked")
Given = TypeVar("Given")
Result = TypeVar("Result")

_PLANS: Final = 64
"""Feature lists whose plan is remembered."""

_HINTS: Final = 100_000
"""Events whose attributes are remembered, so that one round trip is enough."""


@dataclass(frozen=True, slots=True)
class OnlineFeatures:
    """Features of some requests."""

    values: Floats
    """(requests, features); NaN where undefined."""
    unknown: tuple[tuple[str, ...], ...]
    """Per request, the entities it names that the store has never seen."""
    as_of_us: int
    """Time the windows end at."""
    snapshot_id: str
    """What was read: a published snapshot, or generation and version of a live store."""
    degraded: tuple[str, ...] = ()
    """Why the answer is worse than it should be; empty when it is not."""
    positions: bytes = b""
    """How far the log was applied to the live store that was read, as it is stored there."""


def driven(steps: Generator[Asked, Given, Result], give: Callable[[Asked], Given]) -> Result:
    """What `steps` returns when each thing it asks for is given at once."""
    asked = next(steps)
    while True:
        try:
            asked = steps.send(give(asked))
        except StopIteration as done:
            result: Result = done.value
            return result


class FeatureReader(Protocol):
    """What features can be asked of."""

    def fetch(
        self, features: Sequence[str], rows: Sequence[Request], as_of_us: int | None = None
    ) -> OnlineFeatures:
        """The `features` (`view:feature`) of every row, windows ending at `as_of_us`."""
        ...


class Prepared(NamedTuple):
    """A feature list, planned against one definition."""

    point: PointPlan
    names: tuple[str, ...]
    """Request columns to read."""
    entities: tuple[tuple[str, int, bytes], ...]
    """Per group: the entity, where its id is among `names`, prefix of its records' keys."""
    operands: tuple[tuple[int, Transform], ...]
    """Per row operand: where it is among `names`, how it is read."""
    attributes: tuple[tuple[int, int], ...]
    """Where the event's attributes are among `names`, and in their packed record."""


@dataclass(frozen=True, slots=True)
class Definition:
    """What the records of a store mean."""

    name: str
    """The store, as messages name it."""
    renew: str
    """What to do when it holds another definition than this code's."""
    spec_hashes: Mapping[str, str]
    layouts: tuple[Layout, ...]
    absent: tuple[tuple[int, ...] | None, ...]
    """Per layout, positions of columns its source did not have; None: the source had nothing."""

    def plan(self, features: Sequence[str]) -> Prepared:
        """The plan of `features`.

        Raises:
            UnknownFeatureError: no view defines a feature.
            ContractError: the store was filled with another definition of a view.
        """
        pairs = [resolve(name) for name in features]
        for view, _ in pairs:
            held_hash = self.spec_hashes.get(view.name)
            if held_hash != view.spec_hash:
                held = f"at spec {held_hash[:12]}" if held_hash else "not at all"
                msg = (
                    f"{self.name} holds {view.name} {held}, this code defines "
                    f"{view.spec_hash[:12]}; {self.renew}"
                )
                raise ContractError(msg)
        plan = plan_features(pairs, self.layouts)
        number = {layout.key: n for n, layout in enumerate(self.layouts)}
        numbers = [number[group.layout.key] for group in plan.groups]
        plan = plan.without([absent_of(self.layouts[n], self.absent[n]) for n in numbers])
        names = {ENTITY_COLUMNS[g.layout.entity]: None for g in plan.groups}
        names |= dict.fromkeys(["event_id", *(name for name, _ in plan.row_operands)])
        at = {name: k for k, name in enumerate(names)}
        return Prepared(
            PointPlan.of(plan),
            tuple(names),
            tuple(
                (g.layout.entity, at[ENTITY_COLUMNS[g.layout.entity]], bytes([n]))
                for g, n in zip(plan.groups, numbers, strict=True)
            ),
            tuple((at[name], transform) for name, transform in plan.row_operands),
            tuple((at[n], k) for k, n in enumerate(EVENT_ATTRIBUTES) if n in at),
        )


class Found(NamedTuple):
    """What a store knows about some requests."""

    values: list[list[int]]
    """Columns of each request, completed with its event's attributes."""
    buffer: Ints
    """Records of all entities, one after the other."""
    places: Ints
    """(requests, groups, 2): where a request's record starts and its length."""
    unknown: tuple[tuple[str, ...], ...]


class Planner:
    """Plans against one definition, and what was learnt on the way; safe for threads."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self._prepared: dict[tuple[str, ...], Prepared] = {}
        self._hints: dict[int, tuple[int, ...] | None] = {}

    def prepare(self, features: tuple[str, ...]) -> Prepared:
        """The plan of `features`; see Definition.plan."""
        found = self._prepared.get(features)
        if found is None:
            found = self.definition.plan(features)
            if len(self._prepared) >= _PLANS:
                self._prepared.clear()
            self._prepared[features] = found
        return found

    def look_up(self, prepared: Prepared, rows: Sequence[Request], read: ReadKeys) -> Found:
        """Everything the store knows about `rows`, out of one call of `read`; see `looking_up`."""
        return driven(self.looking_up(prepared, rows), read)

    def looking_up(
        self, prepared: Prepared, rows: Sequence[Request]
    ) -> Generator[Sequence[bytes], Sequence[Value], Found]:
        """Everything the store knows about `rows`, for whoever sends the values of yielded keys.

        An event's attributes can name an entity (its promoter) whose record is needed too. They
        are remembered, so that both are asked for together; only when that memory turns out to be
        missing or old, everything is read again.
        """
        check_columns(rows)
        given = request_integers(rows, prepared.names)
        event = prepared.names.index("event_id")
        asked = {row[event] for row in given if row[event] >= 0} if prepared.attributes else set()
        attributes = {e: self._hints.get(e) for e in asked}
        while True:
            values = [_completed(row, attributes.get(row[event]), prepared) for row in given]
            keys = _keys(values, asked, prepared)
            records = dict(zip(keys, (yield keys), strict=True))
            held = {e: _attributes(records[key_of(EVENT_PREFIX, e)]) for e in asked}
            if held == attributes:
                return Found(values, *_gather(records, values, prepared))
            attributes = held
            if len(self._hints) > _HINTS:
                self._hints.clear()
            self._hints.update(held)


def _attributes(value: Value) -> tuple[int, ...] | None:
    return None if value is None else unpack_attributes(value)


def _completed(row: list[int], attributes: tuple[int, ...] | None, prepared: Prepared) -> list[int]:
    """`row` with what its event's attributes say of columns that it leaves out."""
    if attributes is None:
        return row
    row = row.copy()
    for at, k in prepared.attributes:
        if row[at] < 0:
            row[at] = attributes[k]
    return row


def _keys(values: list[list[int]], events: set[int], prepared: Prepared) -> list[bytes]:
    keys = {key_of(EVENT_PREFIX, event): None for event in events}
    for row in values:
        for _, at, prefix in prepared.entities:
            if row[at] >= 0:
                keys[key_of(prefix, row[at])] = None
    return list(keys)


def _gather(
    records: Mapping[bytes, Value], values: list[list[int]], prepared: Prepared
) -> tuple[Ints, Ints, tuple[tuple[str, ...], ...]]:
    """Records of all entities in one buffer, where each row's are, and who is unknown."""
    parts: list[bytes | memoryview] = []
    length = 0
    places: list[tuple[int, int]] = []
    seen: dict[bytes, tuple[int, int]] = {}
    unknown = []
    for row in values:
        named: dict[str, bool] = {}
        for entity, at, prefix in prepared.entities:
            if row[at] < 0:
                places.append((0, NO_ENTITY))
                continue
            key = key_of(prefix, row[at])
            place = seen.get(key)
            if place is None:
                record = records[key]
                if record is None:
                    place = 0, UNKNOWN_ENTITY
                else:
                    place = length, len(record) // 8
                    length += place[1]
                    parts.append(record)
                seen[key] = place
            places.append(place)
            named[entity] = named.get(entity, False) or place[1] > 0
        unknown.append(tuple(entity for entity, known in named.items() if not known))
    shape = len(values), len(prepared.entities), 2
    return (
        np.frombuffer(bytearray().join(parts), np.int64),
        np.array(places, np.int64).reshape(shape),
        tuple(unknown),
    )


def answer(prepared: Prepared, found: Found, as_of_us: int | Ints) -> Floats:
    """The planned features of what was found, (requests, features) float32.

    The clock that row features read is the as-of time, one for all requests or one for each, where
    a request does not tell its `known_ts`.
    """
    times = np.broadcast_to(np.asarray(as_of_us, np.int64), len(found.values))
    clock = prepared.names.index("known_ts") if "known_ts" in prepared.names else None
    if clock is not None:
        for row, time in zip(found.values, times.tolist(), strict=True):
            if row[clock] < 0:
                row[clock] = time
    requests = [
        [MISSING if row[at] < 0 else TRANSFORMS[how](row[at]) for at, how in prepared.operands]
        for row in found.values
    ]
    return prepared.point.answer(
        found.buffer,
        found.places,
        np.ascontiguousarray(times),
        np.array(requests, np.int64).reshape(len(requests), len(prepared.operands)),
    )
