"""One contract for every blob store, on a folder and on a real S3 server."""

from __future__ import annotations

import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibook_assets.core.errors import (
    ConflictError,
    ContractError,
    NotFoundError,
    StoreUnavailableError,
)
from ibook_assets.stores import s3_blobs
from ibook_assets.stores.blob_terms import check_key
from ibook_assets.stores.blobs import Blobs, open_blobs
from ibook_assets.stores.local_blobs import LocalBlobs
from ibook_assets.stores.s3_blobs import S3Blobs
from tests.s3_server import KEYS_PER_PAGE, new_bucket


def test_what_is_put_is_got(blobs: Blobs) -> None:
    blobs.put("facts/views/a.bin", b"one")
    assert blobs.get("facts/views/a.bin") == b"one"
    assert blobs.exists("facts/views/a.bin")
    assert blobs.stat("facts/views/a.bin").size == 3


def test_put_replaces(blobs: Blobs) -> None:
    blobs.put("a", b"one")
    blobs.put("a", b"three")
    assert blobs.get("a") == b"three"


def test_a_buffer_is_stored_without_conversion(blobs: Blobs) -> None:
    blobs.put("a", memoryview(pa.py_buffer(b"arrow")))
    assert blobs.get("a") == b"arrow"


def test_an_empty_object_is_an_object(blobs: Blobs) -> None:
    blobs.put("a", b"")
    assert blobs.get("a") == b""
    assert blobs.exists("a")


def test_create_refuses_a_taken_key_and_keeps_the_first(blobs: Blobs) -> None:
    blobs.create("log/1.json", b"first")
    with pytest.raises(ConflictError, match=r"log/1\.json exists already"):
        blobs.create("log/1.json", b"second")
    assert blobs.get("log/1.json") == b"first"


def test_one_of_many_creators_wins(blobs: Blobs) -> None:
    together = threading.Barrier(8)

    def create(writer: int) -> int | None:
        together.wait()
        try:
            blobs.create("log/1.json", str(writer).encode())
        except ConflictError:
            return None
        return writer

    with ThreadPoolExecutor(8) as pool:
        winners = [writer for writer in pool.map(create, range(8)) if writer is not None]
    assert [str(writer).encode() for writer in winners] == [blobs.get("log/1.json")]


@pytest.mark.parametrize("method", ["get", "stat"])
def test_a_missing_object_is_named(blobs: Blobs, method: str) -> None:
    blobs.put("folder/file", b"x")
    for key in ("nowhere/file", "folder"):
        with pytest.raises(NotFoundError, match=f"{key} does not exist"):
            getattr(blobs, method)(key)
        assert not blobs.exists(key)


def test_list_is_sorted_and_stays_in_its_folder(blobs: Blobs) -> None:
    for key in ("t/b/2", "t/a", "t/b/1", "tea/x", "u"):
        blobs.put(key, b"")
    assert blobs.list("t/") == ["t/a", "t/b/1", "t/b/2"]
    assert blobs.list() == ["t/a", "t/b/1", "t/b/2", "tea/x", "u"]
    assert blobs.list("none/") == []
    assert blobs.list("u/") == []


def test_list_reads_beyond_one_page(blobs: Blobs) -> None:
    keys = [f"many/{i:02d}" for i in range(2 * KEYS_PER_PAGE + 1)]
    for key in keys:
        blobs.put(key, b"")
    assert blobs.list("many/") == keys


def test_delete_is_idempotent(blobs: Blobs) -> None:
    blobs.put("a", b"x")
    blobs.delete("a")
    blobs.delete("a")
    assert not blobs.exists("a")


BAD_KEYS = [
    "",
    "/a",
    "a/",
    "a//b",
    "../a",
    "a/../b",
    "a/./b",
    ".a",
    "a\\b",
    "a b",
    "a\0",
    "a" * 201,
]


@pytest.mark.parametrize("key", BAD_KEYS, ids=repr)
def test_unsafe_keys_are_refused(blobs: Blobs, key: str) -> None:
    for call in (blobs.get, blobs.exists, blobs.delete, blobs.stat, blobs.arrow_source):
        with pytest.raises(ContractError, match="is not allowed"):
            call(key)
    for store in (blobs.put, blobs.create):
        with pytest.raises(ContractError, match="is not allowed"):
            store(key, b"")


@given(st.text(max_size=40))
def test_an_accepted_key_never_leaves_the_root(key: str) -> None:
    try:
        check_key(key)
    except ContractError:
        return
    assert Path(os.path.normpath(f"/root/{key}")) == Path(f"/root/{key}")
    assert Path(f"/root/{key}").is_relative_to("/root")


def test_a_prefix_is_a_folder(blobs: Blobs) -> None:
    with pytest.raises(ContractError, match="must be empty or end with '/'"):
        blobs.list("t")


def test_pyarrow_reads_an_object_in_place(blobs: Blobs) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"x": [1, 2]}), sink)
    blobs.put("t/a.parquet", memoryview(sink.getvalue()))
    filesystem, path = blobs.arrow_source("t/a.parquet")
    assert pq.read_table(path, filesystem=filesystem)["x"].to_pylist() == [1, 2]
    assert blobs.location("t/a.parquet") == f"{blobs.uri}/t/a.parquet"


def test_a_reader_never_sees_a_mix_of_two_objects(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    blobs.put("a", b"0" * 100_000)
    done = threading.Event()

    def read() -> set[bytes]:
        seen = set()
        while not done.is_set():
            data = blobs.get("a")
            seen.add(data[:1] if data == data[:1] * 100_000 else b"mix")
        return seen

    with ThreadPoolExecutor(1) as pool:
        seen = pool.submit(read)
        for i in range(100):
            blobs.put("a", str(i % 2).encode() * 100_000)
        done.set()
        assert seen.result() <= {b"0", b"1"}


def test_leftovers_of_killed_writers_are_removed_and_live_files_kept(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    staging = tmp_path / ".staging"
    staging.mkdir()
    (staging / "dead.tmp").write_bytes(b"half")
    with blobs._staged(b"live") as live:
        LocalBlobs(tmp_path).put("a", b"x")
        assert list(staging.iterdir()) == [live]
    assert list(staging.iterdir()) == []


def test_staged_files_are_never_listed(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    with blobs._staged(b"live"):
        assert blobs.list() == []


def test_a_file_in_the_way_of_a_folder_is_refused(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    blobs.put("a", b"")
    with pytest.raises(ContractError, match="Check the folder's owner"):
        blobs.put("a/b", b"")


def test_open_blobs_chooses_by_address(tmp_path: Path, s3_endpoint: str) -> None:
    bucket = new_bucket(s3_endpoint)
    assert isinstance(open_blobs(str(tmp_path)), LocalBlobs)
    opened = open_blobs(f"s3://{bucket}/a/b", endpoint_url=s3_endpoint)
    assert isinstance(opened, S3Blobs)
    assert opened.uri == f"s3://{bucket}/a/b"
    with pytest.raises(ContractError, match="'gs://bucket' is not supported"):
        open_blobs("gs://bucket")
    with pytest.raises(ContractError, match="needs a bucket"):
        open_blobs("s3://")


def test_two_prefixes_of_a_bucket_are_two_stores(s3_endpoint: str) -> None:
    bucket = new_bucket(s3_endpoint)
    one, other = (S3Blobs(bucket, prefix, endpoint_url=s3_endpoint) for prefix in ("one", "other"))
    one.put("a", b"")
    assert other.list() == []
    assert S3Blobs(bucket, endpoint_url=s3_endpoint).list() == ["one/a"]


def test_a_missing_bucket_is_refused_with_the_next_step(s3_endpoint: str) -> None:
    with pytest.raises(ContractError, match="NoSuchBucket; check bucket"):
        S3Blobs("no-such-bucket", endpoint_url=s3_endpoint).put("a", b"")


def test_missing_credentials_are_not_retried(
    s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(ContractError, match="no credentials; set AWS_ACCESS_KEY_ID"):
        S3Blobs("bucket", endpoint_url=s3_endpoint).get("a")


def test_a_store_that_refuses_connections_is_unavailable(s3_endpoint: str) -> None:
    assert s3_endpoint
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(StoreUnavailableError, match="did not answer"):
            S3Blobs("bucket", endpoint_url=address).get("a")


def test_a_store_that_never_answers_is_unavailable(
    s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert s3_endpoint
    monkeypatch.setattr(s3_blobs, "READ_TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(StoreUnavailableError, match="did not answer"):
            S3Blobs("bucket", endpoint_url=address).get("a")
