"""Snapshot manifests: the id stands for the files and nothing else."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ibook_assets.core.manifest import ManifestEntry, SnapshotManifest

entries = st.lists(
    st.builds(
        ManifestEntry,
        table=st.sampled_from(["facts/views", "facts/refunds"]),
        partition=st.none() | st.dates().map(str),
        path=st.text(max_size=9),
        sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
        rows=st.integers(0, 2**40),
    ),
    unique_by=lambda entry: (entry.table, entry.partition),
)


def entry(partition: str, *, sha256: str = "a" * 64) -> ManifestEntry:
    path = f"t/dt={partition}/{sha256[:16]}.parquet"
    return ManifestEntry(table="t", partition=partition, path=path, sha256=sha256, rows=2)


@given(entries, st.randoms(use_true_random=False))
def test_the_id_does_not_depend_on_the_order(
    found: list[ManifestEntry], random: random.Random
) -> None:
    shuffled = found.copy()
    random.shuffle(shuffled)
    one, other = (SnapshotManifest(entries=tuple(order)) for order in (found, shuffled))
    assert one == other
    assert one.snapshot_id == other.snapshot_id


@given(entries)
def test_a_manifest_survives_storage(found: list[ManifestEntry]) -> None:
    manifest = SnapshotManifest(entries=tuple(found), parameters={"as_of_us": 1})
    again = SnapshotManifest.model_validate_json(manifest.model_dump_json())
    assert again.snapshot_id == manifest.snapshot_id
    assert again.rows == sum(e.rows for e in found)


def test_worked_example() -> None:
    manifest = SnapshotManifest(entries=(entry("2026-01-05"),))
    text = (
        '{"entries":[{"partition":"2026-01-05","path":"t/dt=2026-01-05/aaaaaaaaaaaaaaaa.parquet",'
        f'"rows":2,"sha256":"{"a" * 64}","table":"t"}}],"parameters":{{}}}}'
    )
    assert manifest.snapshot_id == hashlib.sha256(text.encode()).hexdigest()


def test_whatever_decides_the_rows_changes_the_id() -> None:
    ids = {
        SnapshotManifest(entries=(entry("a"),)).snapshot_id,
        SnapshotManifest(entries=(entry("b"),)).snapshot_id,
        SnapshotManifest(entries=(entry("a", sha256="b" * 64),)).snapshot_id,
        SnapshotManifest(entries=(entry("a"), entry("b"))).snapshot_id,
        SnapshotManifest(entries=(entry("a"),), parameters={"maturity_us": 1}).snapshot_id,
    }
    assert len(ids) == 5


def test_two_versions_of_a_partition_are_refused() -> None:
    with pytest.raises(ValidationError, match="table t, partition a is listed twice"):
        SnapshotManifest(entries=(entry("a"), entry("b"), entry("a", sha256="b" * 64)))


@pytest.mark.parametrize("sha256", ["", "A" * 64, "a" * 63])
def test_a_hash_looks_like_one(sha256: str) -> None:
    with pytest.raises(ValidationError, match="sha256"):
        entry("a", sha256=sha256)
