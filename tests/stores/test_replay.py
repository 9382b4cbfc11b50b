"""Replay: what was logged is made again to the bit; what was changed since is named."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import msgspec
import numpy as np
import pytest

from ibook_assets.core.canonical import canonical_json
from ibook_assets.core.errors import ContractError, IntegrityError
from ibook_assets.core.manifest import SnapshotManifest
from ibook_assets.core.messages import PREDICTION_LOG
from ibook_assets.core.predictions import Trace, sealed, unsealed, vector_digest
from ibook_assets.core.settings import Settings
from ibook_assets.core.skew import definition_of
from ibook_assets.core.tables import PREDICTIONS, TRANSACTIONS
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.models.bundle import ModelBundle
from ibook_assets.stores.intake import LogRecord, intake
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.lineage import origin_of, reach_of
from ibook_assets.stores.local_blobs import LocalBlobs
from ibook_assets.stores.log_files import LogFiles
from ibook_assets.stores.replay import Replayer
from ibook_assets.stores.trace_archive import TraceArchive
from ibook_assets.stores.traces import TraceStore
from tests.serving.harness import promote, small_bundle
from tests.traces import KNOWN_US, a_trace

DAY = "2026-05-28"


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    return small_bundle("fraud-v1", seed=1)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(LocalBlobs(str(tmp_path / "lake")))


def learnt_from(lake: Lake, *days: str) -> SnapshotManifest:
    """A stored manifest of some days of facts."""
    empty = TRANSACTIONS.schema.empty_table()
    entries = [lake.write("facts/transactions", day, empty).entry for day in days]
    manifest = SnapshotManifest(entries=tuple(entries))
    lake.blobs.put(f"manifests/{manifest.snapshot_id}.json", canonical_json(manifest))
    return manifest


def promoted(tmp_path: Path, bundle: ModelBundle, snapshot: str) -> tuple[ModelBundle, str]:
    """`bundle` as if learnt from `snapshot`, promoted; and its artefact."""
    info = bundle.info.model_copy(update={"training_snapshot": snapshot})
    traced = ModelBundle(info, bundle.files()["model.ubj"])
    record = promote(Settings(home=tmp_path), traced)
    return traced, record.model.artefact.uri.rpartition("/")[2]


def logged(bundle: ModelBundle, artefact: str, count: int, *, seed: int = 7) -> list[Trace]:
    """Predictions of the bundle on random vectors, sealed."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1e4, size=(count, len(bundle.feature_names))).astype(np.float32)
    x[rng.random(x.shape) < 0.3] = np.nan
    return [
        unsealed(
            sealed(
                a_trace(
                    f"r-{number}",
                    vector=vector.tobytes(),
                    score=score,
                    threshold=bundle.threshold,
                    artefact=artefact,
                    definition=definition_of(bundle.feature_names),
                    training_snapshot=bundle.info.training_snapshot,
                    model_version=bundle.version,
                    variant=("champion", "shadow")[number % 2],
                )
            ),
            where="made",
        )
        for number, (vector, score) in enumerate(zip(x, bundle.score(x).tolist(), strict=True))
    ]


def culprits(replayer: Replayer, traces: list[Trace]) -> list[str | None]:
    return [one.fault.culprit if one.fault else None for one in replayer.replay(traces)]


def test_scores_are_made_again_bit_for_bit_and_the_training_data_is_verified(
    tmp_path: Path, lake: Lake, bundle: ModelBundle
) -> None:
    manifest = learnt_from(lake, "2026-01-01", "2026-01-02")
    model, artefact = promoted(tmp_path, bundle, manifest.snapshot_id)
    traces = logged(model, artefact, 60)
    replayer = Replayer(lake.blobs)
    assert culprits(replayer, traces) == [None] * 60
    assert len({trace.score for trace in traces}) > 20
    (snapshot,) = replayer.snapshots(traces)
    assert (snapshot.files, snapshot.faults, snapshot.gone) == (2, (), 0)


def test_each_thing_that_was_changed_is_named(
    tmp_path: Path, lake: Lake, bundle: ModelBundle
) -> None:
    manifest = learnt_from(lake, "2026-01-01", "2026-01-02")
    model, artefact = promoted(tmp_path, bundle, manifest.snapshot_id)
    sound, *rest = logged(model, artefact, 7)

    def resealed(trace: Trace, **changes: object) -> Trace:
        return unsealed(
            sealed(msgspec.structs.replace(trace, checksum="", **changes)), where="made"
        )

    other = np.zeros(len(model.feature_names), "<f4").tobytes()
    changed = [
        msgspec.structs.replace(rest[0], vector=other),
        msgspec.structs.replace(rest[1], score=0.123),
        resealed(rest[2], score=float(np.nextafter(rest[2].score, 1))),
        resealed(rest[3], vector=other[:-4], vector_sha256=vector_digest(other[:-4])),
        resealed(rest[4], definition="0" * 16),
        resealed(rest[5], artefact="0" * 64),
    ]
    replayed = Replayer(lake.blobs).replay([sound, *changed])
    assert [one.fault.culprit if one.fault else None for one in replayed] == [
        None,
        "vector",
        "trace",
        "score",
        "definition",
        "definition",
        "record",
    ]
    for one, trace in zip(replayed[1:6], changed, strict=False):
        assert one.fault is not None
        assert trace.request_id in one.fault.what


def test_a_tampered_artefact_and_partition_are_named(
    tmp_path: Path, lake: Lake, bundle: ModelBundle
) -> None:
    manifest = learnt_from(lake, "2026-01-01", "2026-01-02", "2026-01-03")
    model, artefact = promoted(tmp_path, bundle, manifest.snapshot_id)
    traces = logged(model, artefact, 3)
    places = [Path(lake.blobs.location(entry.path)) for entry in manifest.entries]
    damaged = bytearray(places[1].read_bytes())
    damaged[40] ^= 1
    places[1].write_bytes(damaged)
    places[2].unlink()
    (snapshot,) = Replayer(lake.blobs).snapshots(traces)
    (fault,) = snapshot.faults
    assert fault.culprit == "partition"
    assert "facts/transactions/2026-01-02" in fault.what
    assert snapshot.gone == 1

    stored = Path(lake.blobs.location(f"promoted/fraud/{artefact}/model.ubj"))
    content = bytearray(stored.read_bytes())
    content[100] ^= 1
    stored.write_bytes(content)
    replayed = Replayer(lake.blobs).replay(traces)
    assert {one.fault.culprit for one in replayed if one.fault} == {"artefact"}
    assert all("model.ubj" in one.fault.what for one in replayed if one.fault)
    assert len(replayed) == 3


def test_a_changed_manifest_and_one_that_is_not_there(
    tmp_path: Path, lake: Lake, bundle: ModelBundle
) -> None:
    manifest = learnt_from(lake, "2026-01-01")
    model, artefact = promoted(tmp_path, bundle, manifest.snapshot_id)
    traces = logged(model, artefact, 1)
    key = f"manifests/{manifest.snapshot_id}.json"
    lake.blobs.put(key, canonical_json(SnapshotManifest(entries=())))
    (snapshot,) = Replayer(lake.blobs).snapshots(traces)
    assert key in snapshot.faults[0].what
    lake.blobs.delete(key)
    (snapshot,) = Replayer(lake.blobs).snapshots(traces)
    assert (snapshot.faults, snapshot.note) == ((), "this lake has no manifest of it")


def land(lake: Lake, *traces: Trace, start: int = 0) -> None:
    records = [
        LogRecord(90_000, start + i, t.known_ts // 1_000, b"", sealed(_open(t)))
        for i, t in enumerate(traces)
    ]
    LogFiles(lake.blobs).create(PREDICTION_LOG, 90_000, records, intake(PREDICTION_LOG, records))


def _open(trace: Trace) -> Trace:
    return msgspec.structs.replace(trace, checksum="")


def test_traces_are_found_on_the_machine_in_log_files_and_in_landed_days(
    tmp_path: Path, lake: Lake
) -> None:
    store = TraceStore(tmp_path / "traces", max_bytes=2**24)
    archive = TraceArchive(lake.blobs, store)
    assert archive.find("r-1") == []
    store.append([a_trace("r-1"), a_trace("r-1", variant="shadow", served=False)])
    assert [t.variant for t in archive.find("r-1")] == ["champion", "shadow"]

    land(lake, a_trace("r-2"), a_trace("r-2"), a_trace("r-3", known_ts=KNOWN_US + 1))
    assert archive.days() == [DAY]
    assert [t.request_id for t in archive.find("r-2")] == ["r-2"], "a repeated row is one trace"
    landed = (
        LogFiles(lake.blobs).day(PREDICTION_LOG, PREDICTIONS, date.fromisoformat(DAY))[0].slice(1)
    )
    lake.write("raw/predictions", DAY, landed, spec=PREDICTIONS)
    land(lake, a_trace("r-4", known_ts=KNOWN_US + 2), start=3)
    assert [t.request_id for t in archive.day(DAY)] == ["r-2", "r-3", "r-4"]
    assert archive.find("r-4", days=0) == []
    assert len(archive.find("r-4")) == 1
    assert [t.request_id for t in archive.recent()] == ["r-2", "r-3", "r-4", "r-1", "r-1"]
    counts = {row["variant"]: row["rows"] for row in archive.counts().to_pylist()}
    assert counts == {"champion": 3}


def test_a_damaged_trace_in_the_lake_is_an_error_that_names_it(lake: Lake) -> None:
    message = sealed(a_trace("r-1")).replace(b'"score":0.25', b'"score":0.26')
    records = [LogRecord(90_000, 0, KNOWN_US // 1_000, b"", message)]
    LogFiles(lake.blobs).create(PREDICTION_LOG, 90_000, records, intake(PREDICTION_LOG, records))
    with pytest.raises(IntegrityError, match=r"trace r-1 \(champion\)"):
        TraceArchive(lake.blobs).find("r-1")


def test_lineage_goes_both_ways(tmp_path: Path, lake: Lake, bundle: ModelBundle) -> None:
    manifest = learnt_from(lake, "2026-01-01", "2026-01-02")
    learnt_from(lake, "2026-01-09")
    model, artefact = promoted(tmp_path, bundle, manifest.snapshot_id)
    traces = logged(model, artefact, 4)
    land(lake, *traces)
    origin = origin_of(lake.blobs, traces[0])
    assert (origin.record.sequence, origin.record.actor) == (1, "test")
    assert origin.partitions is not None
    (part,) = origin.partitions
    assert (part.table, part.first, part.last, part.files) == (
        "facts/transactions",
        "2026-01-01",
        "2026-01-02",
        2,
    )
    for table in ("raw/transactions", "facts/transactions"):
        (reached,) = reach_of(lake.blobs, table, "2026-01-02")
        assert reached.snapshot == manifest.snapshot_id
        assert reached.read == ("facts/transactions/2026-01-02",)
        (served,) = reached.served
        assert (served.model.model_version, served.predictions) == ("fraud-v1", 4)
        assert set(served.sample) <= {trace.request_id for trace in traces}
    assert reach_of(lake.blobs, "raw/transactions", "2026-03-01") == []
    assert reach_of(lake.blobs, "raw/views", "2026-01-02") == []
    stranger = msgspec.structs.replace(traces[0], record_sequence=9)
    with pytest.raises(ContractError, match="entry 9"):
        origin_of(lake.blobs, stranger)
    with pytest.raises(ContractError, match="the trace or the log was changed"):
        origin_of(lake.blobs, msgspec.structs.replace(traces[0], artefact="0" * 64))


def test_a_feature_day_holds_the_facts_that_its_windows_reach(lake: Lake) -> None:
    view = next(v for v in FRAUD.views if v.startswith("card_velocity"))
    entries = [
        lake.write(f"features/{view}/v=0", day, TRANSACTIONS.schema.empty_table()).entry
        for day in ("2026-01-01", "2026-01-09", "2027-01-01")
    ]
    manifest = SnapshotManifest(entries=tuple(entries))
    lake.blobs.put(f"manifests/{manifest.snapshot_id}.json", canonical_json(manifest))
    (reached,) = reach_of(lake.blobs, "raw/transactions", "2026-01-08")
    assert reached.read == (f"features/{view}/v=0/2026-01-09",)
