"""Where a prediction comes from, and what became of a partition: both ways through the records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from ibook_assets.core.errors import ContractError, IntegrityError, NotFoundError
from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.features.engine import required_sources
from ibook_assets.core.manifest import ManifestEntry, SnapshotManifest
from ibook_assets.core.predictions import Trace
from ibook_assets.core.promotion import PromotedModel, PromotionRecord
from ibook_assets.core.tables import TRANSACTIONS
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.lookback import lookback_days
from ibook_assets.stores.promotions import PromotionLog
from ibook_assets.stores.trace_archive import TraceArchive

MANIFESTS: Final = "manifests"
SAMPLE: Final = 5
"""Request ids shown of many."""


def manifest_of(blobs: Blobs, snapshot: str) -> SnapshotManifest:
    """The manifest of a training snapshot.

    Raises:
        NotFoundError: there is none of that id.
        IntegrityError: its content does not have the hash it is called by.
    """
    key = f"{MANIFESTS}/{snapshot}.json"
    try:
        found = SnapshotManifest.model_validate_json(blobs.get(key))
    except ValidationError as error:
        unread = f"(unreadable: {error.error_count()} errors)"
        path = blobs.location(key)
        raise IntegrityError(path=path, expected=snapshot, found=unread) from error
    if found.snapshot_id != snapshot:
        path = blobs.location(key)
        raise IntegrityError(path=path, expected=snapshot, found=found.snapshot_id)
    return found


def models_of(record: PromotionRecord) -> list[tuple[str, PromotedModel]]:
    """The models a record names, each with its place in it."""
    challengers = [(challenger.variant, challenger.model) for challenger in record.challengers]
    return [("champion", record.model), *challengers]


def identity(model: PromotedModel) -> str:
    """The hash that traces name the model's files by."""
    return model.artefact.identity


@dataclass(frozen=True, slots=True)
class Partitions:
    """Partitions of one table in a snapshot."""

    table: str
    first: str | None
    last: str | None
    files: int
    rows: int


@dataclass(frozen=True, slots=True)
class Origin:
    """Where one prediction comes from."""

    record: PromotionRecord
    """The promotion record that was served."""
    model: PromotedModel
    """The model in it that scored."""
    partitions: tuple[Partitions, ...] | None
    """What it learnt from; None when its snapshot has no manifest in this lake."""


def origin_of(blobs: Blobs, trace: Trace) -> Origin:
    """The records behind `trace`.

    Raises:
        ContractError: the promotion log does not hold what the trace says.
        IntegrityError: the snapshot's manifest was changed.
    """
    records = PromotionLog(blobs).history(trace.use_case)
    if not 0 < trace.record_sequence <= len(records):
        msg = (
            f"{trace.name} was served by entry {trace.record_sequence} of the {trace.use_case} "
            f"promotions, which have {len(records)}: is this the lake that it was served from?"
        )
        raise ContractError(msg)
    record = records[trace.record_sequence - 1]
    models = [model for _, model in models_of(record) if identity(model) == trace.artefact]
    if not models:
        named = [identity(model)[:12] for _, model in models_of(record)]
        msg = (
            f"{trace.name} names artefact {trace.artefact[:12]}, entry {record.sequence} of the "
            f"{trace.use_case} promotions names {named}: the trace or the log was changed"
        )
        raise ContractError(msg)
    try:
        entries = manifest_of(blobs, trace.training_snapshot).entries
    except NotFoundError:
        return Origin(record, models[0], None)
    return Origin(record, models[0], tuple(_summaries(entries)))


def _summaries(entries: Sequence[ManifestEntry]) -> Iterator[Partitions]:
    tables: dict[str, list[ManifestEntry]] = {}
    for entry in entries:
        tables.setdefault(entry.table, []).append(entry)
    for table, mine in tables.items():
        names = [entry.partition for entry in mine]
        rows = sum(entry.rows for entry in mine)
        yield Partitions(table, names[0], names[-1], len(mine), rows)


@dataclass(frozen=True, slots=True)
class Served:
    """A model in the promotion log, and how often it was asked."""

    use_case: str
    sequence: int
    """Entry that named it first."""
    variant: str
    model: PromotedModel
    predictions: int
    """Scores of it in the lake, shadows' included."""
    sample: tuple[str, ...]
    """Some of their request ids."""


@dataclass(frozen=True, slots=True)
class Reached:
    """A training snapshot that a partition is part of."""

    snapshot: str
    read: tuple[str, ...]
    """Partitions in it that hold the asked one's rows, `table/partition`; features by windows."""
    served: tuple[Served, ...]
    """Models that learnt from it and were promoted or challenged."""


def reach_of(blobs: Blobs, table: str, partition: str) -> list[Reached]:
    """What was made of a partition: snapshots, their models, and their predictions.

    Raises:
        IntegrityError: a snapshot's manifest was changed.
    """
    promoted = list(_promoted(blobs))
    counts = TraceArchive(blobs).counts().to_pylist() if promoted else []
    found = []
    for key in blobs.list(f"{MANIFESTS}/"):
        snapshot = key.removeprefix(f"{MANIFESTS}/").removesuffix(".json")
        entries = manifest_of(blobs, snapshot).entries
        read = [f"{e.table}/{e.partition}" for e in entries if _holds(e, table, partition)]
        if read:
            served = [
                _served(record, variant, model, counts)
                for record, variant, model in promoted
                if model.training_snapshot == snapshot
            ]
            found.append(Reached(snapshot, tuple(read), tuple(served)))
    return found


def _holds(entry: ManifestEntry, table: str, partition: str) -> bool:
    """Whether rows of the partition are in `entry`, or inside the windows it was computed from."""
    if (entry.table, entry.partition) == (table, partition):
        return True
    group, _, source = table.partition("/")
    if group not in ("raw", "facts") or entry.partition is None:
        return False
    if group == "raw" and (entry.table, entry.partition) == (f"facts/{source}", partition):
        return True
    for view in FEATURE_VIEWS:
        if not entry.table.startswith(f"features/{view.name}/"):
            continue
        if source == TRANSACTIONS.name and entry.partition == partition:
            return True
        if source in required_sources(view):
            first, last = lookback_days(view, source, entry.partition)
            return first <= partition <= last
    return False


def _promoted(blobs: Blobs) -> Iterator[tuple[PromotionRecord, str, PromotedModel]]:
    """Every model of every log with the entry that named it first."""
    log = PromotionLog(blobs)
    for use_case in log.use_cases():
        seen: set[str] = set()
        for record in log.history(use_case):
            for variant, model in models_of(record):
                if identity(model) not in seen:
                    seen.add(identity(model))
                    yield record, variant, model


def _served(
    record: PromotionRecord, variant: str, model: PromotedModel, counts: list[dict[str, Any]]
) -> Served:
    mine = [row for row in counts if row["artefact"] == identity(model)]
    return Served(
        record.use_case,
        record.sequence,
        variant,
        model,
        sum(row["rows"] for row in mine),
        tuple(dict.fromkeys(row[end] for row in mine for end in ("first", "last")))[:SAMPLE],
    )
