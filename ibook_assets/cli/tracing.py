"""`ibook trace`, `replay`, `lineage`: where a prediction comes from, made again, and back."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from ibook_assets.cli.console import (
    EXIT_FAILED,
    console,
    errors,
    explains_errors,
    fail,
    print_json,
    settings,
)
from ibook_assets.core.ids import check_name
from ibook_assets.core.predictions import Trace
from ibook_assets.core.times import from_us
from ibook_assets.stores.blobs import Blobs, open_blobs

if TYPE_CHECKING:
    # XGBoost and the feature kernels take seconds, which other commands need not pay.
    from ibook_assets.stores.lineage import Origin, Reached
    from ibook_assets.stores.replay import Replayed, Replayer, Snapshot
    from ibook_assets.stores.trace_archive import TraceArchive

BATCH: Final = 2_000
"""Predictions made again at once."""
FAULTS_SHOWN: Final = 20
"""Faults that are printed; the JSON has all."""

RequestIds = Annotated[list[str] | None, typer.Argument(help="Request ids.")]
RequestId = Annotated[str, typer.Argument(help="The `request_id` of an answer.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document.")]


@explains_errors
def trace(request_id: RequestId, as_json: AsJson = False) -> None:
    """Show what a prediction was made from: model, record, features, training data."""
    from ibook_assets.stores.lineage import origin_of

    blobs = _blobs()
    found = _found(_archive(blobs), request_id)
    origins = [origin_of(blobs, one) for one in found]
    if as_json:
        print_json([_document(t, o) for t, o in zip(found, origins, strict=True)])
        return
    for one, origin in zip(found, origins, strict=True):
        console.print(_described(one, origin))


@explains_errors
def replay(
    request_ids: RequestIds = None,
    day: Annotated[str | None, typer.Option(help="All of a day in the lake.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All there are, newest first.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make logged predictions again and compare every bit; name whatever was changed.

    The exit code is 1 when a score is not reproduced, or training data was changed.
    """
    from ibook_assets.stores.replay import Replayer

    if sum((bool(request_ids), day is not None, everything)) != 1:
        fail("name request ids, or give --day 2026-03-01, or --all")
    blobs = _blobs()
    archive = _archive(blobs)
    asked = _asked(archive, request_ids or [], day)
    report = _replay(Replayer(blobs), itertools.islice(asked, limit), quiet=as_json)
    if as_json:
        print_json(report.document())
    else:
        _print_report(report)
    if report.failed:
        raise typer.Exit(EXIT_FAILED)


@explains_errors
def lineage(
    partition: Annotated[
        str | None, typer.Option(help="Such as raw/transactions/2026-03-01.")
    ] = None,
    request: Annotated[str | None, typer.Option(help="A request id, for the way back.")] = None,
    as_json: AsJson = False,
) -> None:
    """From a partition to the predictions that rest on it, or from a request to its partitions."""
    from ibook_assets.stores.lineage import reach_of

    if (partition is None) == (request is None):
        fail("give --partition raw/transactions/2026-03-01 or --request ID")
    blobs = _blobs()
    if request is not None:
        trace(request, as_json=as_json)
        return
    table, _, name = str(partition).rpartition("/")
    if not table:
        fail(f"{partition!r} names no table; write for example raw/transactions/2026-03-01")
    reached = reach_of(blobs, table, name)
    if as_json:
        print_json([_reached_document(one) for one in reached])
        return
    _print_reached(str(partition), reached)


@dataclass(slots=True)
class _Report:
    """What a replay found."""

    replayed: list[Replayed]
    snapshots: list[Snapshot]

    @property
    def faults(self) -> list[Replayed]:
        return [one for one in self.replayed if one.fault is not None]

    @property
    def failed(self) -> bool:
        return bool(self.faults) or any(s.faults for s in self.snapshots)

    @property
    def vectors(self) -> dict[str, int]:
        """Sound traces by what batch computes for them."""
        sound = [one for one in self.replayed if one.fault is None]
        return dict(Counter(_vector_verdict(one) for one in sound))

    def document(self) -> dict[str, Any]:
        variants = Counter(one.trace.variant for one in self.replayed)
        return {
            "predictions": len(self.replayed),
            "reproduced": len(self.replayed) - len(self.faults),
            "variants": dict(variants),
            "faults": [
                {
                    "request_id": one.trace.request_id,
                    "variant": one.trace.variant,
                    "culprit": one.fault.culprit,
                    "what": one.fault.what,
                }
                for one in self.faults
                if one.fault is not None
            ],
            "batch_vectors": self.vectors,
            "differing_features": dict(_differing(self.replayed)),
            "snapshots": [asdict(snapshot) for snapshot in self.snapshots],
        }


def _replay(replayer: Replayer, traces: Iterator[Trace], *, quiet: bool) -> _Report:
    report = _Report([], [])
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=errors, transient=True, disable=quiet) as progress:
        scoring = progress.add_task("predictions", total=None)
        while batch := list(itertools.islice(traces, BATCH)):
            report.replayed += replayer.replay(batch)
            progress.advance(scoring, len(batch))
        progress.update(scoring, total=len(report.replayed))
        files = progress.add_task("training partitions", total=None)
        report.snapshots = replayer.snapshots(
            [one.trace for one in report.replayed],
            progress=lambda count: progress.advance(files, count),
        )
    return report


def _asked(archive: TraceArchive, request_ids: Sequence[str], day: str | None) -> Iterator[Trace]:
    for request_id in request_ids:
        yield from _found(archive, request_id)
    if request_ids:
        return
    if day is None:
        yield from archive.recent()
        return
    if day not in archive.days():
        known = archive.days()
        there = f"{known[0]} to {known[-1]}" if known else "none"
        fail(f"the lake has no predictions of {day}; days with some: {there}")
    yield from archive.day(day)


def _found(archive: TraceArchive, request_id: str) -> list[Trace]:
    found = archive.find(check_name(request_id, what="request id"))
    if not found:
        fail(
            f"no trace of request {request_id} on this machine or in the lake's last days. Was it "
            "answered by a server of this lake, with IBOOK_PREDICTION_LOG=lake or kafka?"
        )
    return found


def _blobs() -> Blobs:
    config = settings()
    return open_blobs(config.lake, endpoint_url=config.s3_endpoint_url)


def _archive(blobs: Blobs) -> TraceArchive:
    from ibook_assets.stores.trace_archive import TraceArchive
    from ibook_assets.stores.traces import open_traces

    config = settings()
    # A machine that has served nothing has no store, and looking must not make one.
    store = open_traces(config) if config.trace_path.exists() else None
    return TraceArchive(blobs, store)


def _document(one: Trace, origin: Origin) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(one)
    return document | {"request": one.request, "origin": _origin_document(origin)}


def _origin_document(origin: Origin) -> dict[str, Any]:
    partitions = origin.partitions
    return {
        "record": origin.record.model_dump(mode="json", include=_RECORD_FIELDS),
        "record_sha256": origin.record.sha256,
        "mlflow_run_id": origin.model.mlflow_run_id,
        "model_git_sha": origin.model.git_sha,
        "partitions": None if partitions is None else [asdict(p) for p in partitions],
    }


_RECORD_FIELDS: Final = {
    "sequence",
    "use_case",
    "action",
    "actor",
    "reason",
    "promoted_at",
    "previous_version",
}


def _described(one: Trace, origin: Origin) -> Table:
    title = f"{one.request_id}, {one.variant}"
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in _lines(one, origin).items():
        table.add_row(name, "" if value is None else str(value))
    return table


def _lines(one: Trace, origin: Origin) -> dict[str, object]:
    record, model = origin.record, origin.model
    as_of = None if one.features_as_of is None else from_us(one.features_as_of).isoformat()
    lines: dict[str, object] = {
        "made at": from_us(one.known_ts).isoformat(),
        "answered": "yes" if one.served else "no, a shadow's",
        "score": f"{one.score!r} (threshold {one.threshold}): {one.decision}",
        "order": f"user {one.user_id}, event {one.event_id}, {one.row}",
        "model": f"{one.model_version}, artefact {one.artefact}",
        "promoted by": f"entry {record.sequence}: {record.action} by {record.actor}, "
        f"{record.reason} ({record.promoted_at:%Y-%m-%d %H:%M} UTC)",
        "MLflow run": model.mlflow_run_id,
        "trained at commit": model.git_sha,
        "served at commit": one.git_sha,
        "image": one.container_digest,
        "features as of": as_of,
        "features read from": one.store,
        "missing": one.degraded,
        "unknown": one.unknown,
        "vector": f"{len(one.features)} features of definition {one.definition}",
        "training snapshot": one.training_snapshot,
    }
    if origin.partitions is None:
        lines["learnt from"] = "this lake has no manifest of that snapshot"
        return lines
    spans: dict[str, list[str]] = {}
    for part in origin.partitions:
        span = f"{part.first} to {part.last}, {part.files} files, {part.rows:,} rows"
        spans.setdefault(span, []).append(part.table.partition("/v=")[0])
    learnt = [f"{span}: {', '.join(tables)}" for span, tables in spans.items()]
    lines["learnt from"] = "\n".join(learnt)
    return lines


def _vector_verdict(one: Replayed) -> str:
    if one.differing is None:
        return f"not available: {one.unavailable}"
    return "different" if one.differing else "equal"


def _differing(replayed: Sequence[Replayed]) -> list[tuple[str, int]]:
    return Counter(name for one in replayed for name in one.differing or ()).most_common()


def _print_report(report: _Report) -> None:
    total, faults = len(report.replayed), report.faults
    console.print(f"{total - len(faults):,} of {total:,} scores reproduced bit for bit")
    for variant, count in Counter(one.trace.variant for one in report.replayed).items():
        console.print(f"  {variant}: {count:,}")
    for verdict, count in report.vectors.items():
        console.print(f"vectors against batch, {verdict}: {count:,}")
    for name, count in _differing(report.replayed):
        console.print(f"  {name} differs in {count:,}")
    for snapshot in report.snapshots:
        gone = f", {snapshot.gone} replaced since" if snapshot.gone else ""
        note = f"{snapshot.files} partitions verified{gone}" if not snapshot.note else snapshot.note
        console.print(f"training snapshot {snapshot.snapshot[:16]}: {note}")
    named = [f"{one.fault.culprit}: {one.fault.what}" for one in faults if one.fault]
    named += [f"{f.culprit}: {f.what}" for snapshot in report.snapshots for f in snapshot.faults]
    # One damaged artefact is at fault in every prediction of its model.
    for what, count in list(Counter(named).items())[:FAULTS_SHOWN]:
        more = f" (and {count - 1:,} more)" if count > 1 else ""
        errors.print(f"{what}{more}", style="red", soft_wrap=True, markup=False)


def _reached_document(one: Reached) -> dict[str, Any]:
    return {
        "snapshot": one.snapshot,
        "read": list(one.read),
        "models": [
            {
                "use_case": served.use_case,
                "sequence": served.sequence,
                "variant": served.variant,
                "model_version": served.model.model_version,
                "mlflow_run_id": served.model.mlflow_run_id,
                "predictions": served.predictions,
                "sample": list(served.sample),
            }
            for served in one.served
        ],
    }


def _print_reached(partition: str, reached: Sequence[Reached]) -> None:
    if not reached:
        console.print(f"No training snapshot rests on {partition}.")
        return
    for one in reached:
        console.print(f"snapshot {one.snapshot} rests on it through {len(one.read)} partitions:")
        shown = ", ".join(one.read[:3]) + (" …" if len(one.read) > 3 else "")
        console.print(f"  {shown}", soft_wrap=True)
        if not one.served:
            console.print("  no model that learnt from it was ever promoted")
        for served in one.served:
            console.print(
                f"  {served.model.model_version}, {served.variant} since entry {served.sequence} of"
                f" {served.use_case}: {served.predictions:,} predictions"
                + (f", such as {', '.join(served.sample)}" if served.sample else ""),
                soft_wrap=True,
            )
