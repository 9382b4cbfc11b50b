"""The live online store: what the stream worker writes and everybody reads, one contract."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from ibook_assets.core.errors import ContractError, StoreUnavailableError
from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.features.kernel import Floats, Ints
from ibook_assets.core.features.plan import Layout, layouts_of
from ibook_assets.core.features.requests import Request
from ibook_assets.core.features.spec import FeatureView
from ibook_assets.stores.online.format import LATENESS_US, META_KEY, PROGRESS_KEY
from ibook_assets.stores.online.reading import (
    Definition,
    Found,
    OnlineFeatures,
    Planner,
    Prepared,
    Result,
    answer,
    driven,
)

LIVE_FORMAT: Final = 1

BACKFILL: Final = "run `ibook stream backfill`"
"""The next step when a live store cannot be used as it is."""

_ATTEMPTS: Final = 5
"""How often a read is repeated because another generation was published meanwhile."""

Entry = tuple[bytes, bytes, int | None]
"""Key, value and expiry of something stored."""


_Asking = Generator[Sequence[bytes], "Reading", Result]


class Write(NamedTuple):
    """New bytes of a value, from `offset` to its end."""

    data: bytes
    offset: int = 0
    expires_us: int | None = None
    """Time of the data (known_ts, not the wall clock) from which on it may go; None: never."""


class Reading(NamedTuple):
    """Values of one moment."""

    version: int
    """Changes with every commit and publication."""
    values: list[bytes | None]
    generation: int


class Position(msgspec.Struct, frozen=True):
    """How far one partition of a topic is applied."""

    offset: int
    """Next one to read."""
    applied_us: int
    """Rows known before this time are in the store."""


def partition_name(topic: str, number: int) -> str:
    """A partition of the log as `Progress` names it."""
    return f"{topic}/{number}"


class Progress(msgspec.Struct, frozen=True):
    """How far the log is applied; committed with the records it describes."""

    base_us: int
    """Everything known before this time was in the store from the start of its generation."""
    positions: dict[str, Position] = {}
    """By `partition_name`; every partition that anybody reads, from the first commit on."""

    @property
    def watermark_us(self) -> int:
        """Everything known before this time is in the store."""
        return min((p.applied_us for p in self.positions.values()), default=self.base_us)

    def including(self, names: Iterable[str]) -> Progress:
        """With positions at the start of the log for those of `names` that have none yet."""
        start = Position(0, self.base_us)
        return self.advanced({n: start for n in names if n not in self.positions})

    def advanced(self, positions: Mapping[str, Position]) -> Progress:
        """With new `positions` of some partitions."""
        return Progress(self.base_us, {**self.positions, **positions})

    def encoded(self) -> bytes:
        """JSON, the value of PROGRESS_KEY."""
        return msgspec.json.encode(self, order="deterministic")

    @classmethod
    def decode(cls, value: bytes) -> Progress:
        """A stored one."""
        return msgspec.json.decode(value, type=cls)


class LiveMeta(msgspec.Struct, frozen=True):
    """What the records of a generation mean."""

    format: int
    base_us: int
    spec_hashes: dict[str, str]
    layouts: tuple[Layout, ...]

    def encoded(self) -> bytes:
        """JSON, the value of META_KEY."""
        return msgspec.json.encode(self, order="deterministic")

    @classmethod
    def decode(cls, value: bytes) -> LiveMeta:
        """A stored one; ContractError when its format is not this code's."""
        found = msgspec.json.decode(value, type=cls)
        if found.format != LIVE_FORMAT:
            msg = f"the live store has format {found.format}, this code {LIVE_FORMAT}; {BACKFILL}"
            raise ContractError(msg)
        return found


def progress_of(value: bytes | None) -> Progress:
    """The value of PROGRESS_KEY, decoded; ContractError when it is gone."""
    if value is None:
        raise _lost(PROGRESS_KEY)
    return Progress.decode(value)


def meta_of(value: bytes | None) -> LiveMeta:
    """The value of META_KEY, decoded; ContractError when it is gone or of another format."""
    if value is None:
        raise _lost(META_KEY)
    return LiveMeta.decode(value)


def _lost(key: bytes) -> ContractError:
    return ContractError(f"the live store has lost its {key[1:].decode()}; {BACKFILL}")


class LiveQuestions:
    """Asks a live store for features, whoever reads the keys; safe for threads.

    Each method is a generator: it yields keys and is sent their Reading.
    """

    def __init__(self, address: str) -> None:
        """Questions to the store at `address`, as messages name it."""
        self._address = address
        self._planner: tuple[int, Planner] | None = None
        self._progress: tuple[bytes | None, Progress] = (None, Progress(0))

    def fetching(
        self, features: tuple[str, ...], rows: Sequence[Request], as_of_us: int | None
    ) -> _Asking[OnlineFeatures]:
        """The `features` of every row.

        Args:
            features: qualified names, `view:feature`.
            rows: columns of facts/transactions; what is unknown is left out. The event's
                attributes are taken from the catalogue, `known_ts` (the clock that row features
                read) from the as-of time.
            as_of_us: where windows end; the watermark when None, so that all of them are complete.
                At most LATENESS_US before it; after it, the newest facts may be missing.

        Raises:
            UnknownFeatureError: no view defines a feature.
            ContractError: a row or the time is not allowed, nothing is published yet, or the store
                was filled with another definition of a view.
            StoreUnavailableError: the store does not answer.
        """
        reading, prepared, found = yield from self._looking_up(features, rows)
        positions = _copied(reading.values[0])
        watermark_us = self._watermark_us(positions)
        as_of = watermark_us if as_of_us is None else as_of_us
        _require_remembered(as_of, watermark_us)
        name = f"live-{reading.generation}-{reading.version}"
        values = answer(prepared, found, as_of)
        return OnlineFeatures(values, found.unknown, as_of, name, positions=positions or b"")

    def fetching_as_of(
        self, features: tuple[str, ...], rows: Sequence[Request], as_of: Ints
    ) -> _Asking[Floats]:
        """The `features` of every row, (rows, features), each as of its own time."""
        reading, prepared, found = yield from self._looking_up(features, rows)
        watermark_us = self._watermark_us(_copied(reading.values[0]))
        _require_remembered(int(as_of.min(initial=watermark_us)), watermark_us)
        return answer(prepared, found, as_of)

    def _watermark_us(self, stored: bytes | None) -> int:
        # Progress changes with a commit; between two of them thousands of requests ask.
        known, progress = self._progress
        if stored is None or stored != known:
            progress = progress_of(stored)
            self._progress = stored, progress
        return progress.watermark_us

    def _looking_up(
        self, features: tuple[str, ...], rows: Sequence[Request]
    ) -> _Asking[tuple[Reading, Prepared, Found]]:
        for _ in range(_ATTEMPTS):
            generation, planner = self._planner or (yield from self._planning())
            self._planner = generation, planner
            try:
                prepared = planner.prepare(features)
            except ContractError:
                # The next generation may have the right definitions.
                self._planner = None
                raise
            steps = planner.looking_up(prepared, rows)
            keys = next(steps)
            while True:
                reading = yield [PROGRESS_KEY, *keys]
                if reading.generation != generation:
                    self._planner = None
                    break
                try:
                    keys = steps.send(reading.values[1:])
                except StopIteration as done:
                    return reading, prepared, done.value
        msg = f"the live store {self._address} is published anew all the time; stop one backfill"
        raise StoreUnavailableError(msg)

    def _planning(self) -> _Asking[tuple[int, Planner]]:
        reading = yield [META_KEY]
        meta = meta_of(reading.values[0])
        definition = Definition(
            f"the live store {self._address}",
            f"{BACKFILL} with this code",
            meta.spec_hashes,
            meta.layouts,
            tuple(() for _ in meta.layouts),
        )
        return reading.generation, Planner(definition)


def _copied(value: bytes | None) -> bytes | None:
    # Where values are views of a store's memory, what is remembered must outlive them.
    return None if value is None else bytes(value)


def _require_remembered(as_of_us: int, watermark_us: int) -> None:
    if as_of_us < watermark_us - LATENESS_US:
        msg = (
            f"as-of {as_of_us} is long before the live store's {watermark_us}, which has "
            "forgotten older windows; read history from the feature tables of the lake"
        )
        raise ContractError(msg)


class LiveStore(ABC):
    """Records of all entities, written by workers while they are read; safe for threads.

    Data live in generations. One is published: `read` and `commit` mean it. The next is filled
    aside and published at once, so that a backfill never mixes with what is served.
    """

    address: str
    """Where it is, without credentials."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._questions = LiveQuestions(address)

    @abstractmethod
    def read(self, keys: Sequence[bytes]) -> Reading:
        """Values of `keys`, all of one moment, in one round trip.

        Raises:
            ContractError: nothing is published yet.
            StoreUnavailableError: the store does not answer.
        """

    @abstractmethod
    def commit(self, version: int, writes: Mapping[bytes, Write]) -> bool:
        """Make all `writes` at once, if nobody committed or published since `version` was read.

        False means: read again. That holds too when a value that a tail belongs to has expired,
        or when an answer got lost and the commit itself may have been made.
        """

    @abstractmethod
    def begin_generation(
        self, layouts: Sequence[Layout], spec_hashes: Mapping[str, str], base_us: int
    ) -> int:
        """Number of a new, empty generation that nobody reads yet, with its meta and progress."""

    @abstractmethod
    def load(self, generation: int, entries: Iterable[Entry]) -> int:
        """Write `entries` into a generation that is not published; returns how many."""

    @abstractmethod
    def publish_generation(self, generation: int) -> None:
        """Let everybody read `generation`, and delete those before it.

        Raises:
            ConflictError: a later one has been published meanwhile.
        """

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """Everything in the published generation but its meta.

        Raises:
            ConflictError: somebody committed meanwhile, and the store cannot hold a moment still.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections."""

    def progress(self) -> Progress:
        """How far the log is applied."""
        return progress_of(self.read([PROGRESS_KEY]).values[0])

    def meta(self) -> LiveMeta:
        """What the records of the published generation mean."""
        return meta_of(self.read([META_KEY]).values[0])

    def require(self, views: Sequence[FeatureView] = FEATURE_VIEWS) -> LiveMeta:
        """The meta, if records are packed as `views` define them; ContractError otherwise."""
        meta = self.meta()
        ours = {view.name: view.spec_hash for view in views}
        different = sorted(
            name
            for name in ours.keys() | meta.spec_hashes.keys()
            if ours.get(name) != meta.spec_hashes.get(name)
        )
        if different or meta.layouts != layouts_of(views):
            msg = (
                f"the live store {self.address} was filled with other definitions of "
                f"{different or 'the record layouts'} than this code's; {BACKFILL} with this code"
            )
            raise ContractError(msg)
        return meta

    def fetch(
        self, features: Sequence[str], rows: Sequence[Request], as_of_us: int | None = None
    ) -> OnlineFeatures:
        """The `features` of every row; see LiveQuestions.fetching."""
        return driven(self._questions.fetching(tuple(features), rows, as_of_us), self.read)

    def fetch_as_of(self, features: Sequence[str], rows: Sequence[Request], as_of: Ints) -> Floats:
        """The `features` of every row, (rows, features), each as of its own time.

        Args:
            features: see `fetch`, which also says what is raised.
            rows: see `fetch`.
            as_of: (rows,) microseconds, none later than the watermark for complete windows.
        """
        return driven(self._questions.fetching_as_of(tuple(features), rows, as_of), self.read)


def first_entries(
    layouts: Sequence[Layout], spec_hashes: Mapping[str, str], base_us: int
) -> list[Entry]:
    """What every generation starts with."""
    meta = LiveMeta(LIVE_FORMAT, base_us, dict(spec_hashes), tuple(layouts))
    progress = Progress(base_us)
    return [(META_KEY, meta.encoded(), None), (PROGRESS_KEY, progress.encoded(), None)]
