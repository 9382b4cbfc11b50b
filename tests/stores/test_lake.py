"""The lake: versions of partitions, what readers see, what damage and misuse answer."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibook_assets.core.errors import ContractError, IntegrityError, NotFoundError, RunNotLiveError
from ibook_assets.core.tables import VIEWS, Column, TableSpec
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.local_blobs import LocalBlobs
from ibook_assets.stores.parquet import encode

DAY = "2026-01-05"
SPEC = TableSpec(
    name="things",
    description="Things.",
    key=("id",),
    columns=(
        Column("id", pa.int64(), "Thing"),
        Column("tier", pa.string(), "Tier", nullable=True),
    ),
)


@pytest.fixture
def lake(blobs: Blobs) -> Lake:
    return Lake(blobs)


@pytest.fixture
def local(tmp_path: Path) -> Lake:
    return Lake(LocalBlobs(tmp_path / "lake"))


def numbers(*values: int) -> pa.Table:
    return pa.table({"x": values, "y": [float(value) for value in values]})


def test_what_is_written_is_read(lake: Lake) -> None:
    receipt = lake.write("facts/views", DAY, numbers(1, 2))
    assert lake.read("facts/views").equals(numbers(1, 2))
    assert receipt.path == f"facts/views/dt={DAY}/{receipt.sha256[:16]}.parquet"
    assert (receipt.rows, receipt.superseded) == (2, None)
    assert lake.receipts("facts/views") == [receipt]
    assert lake.receipt("facts/views", DAY) == receipt


def test_a_table_without_partitions(lake: Lake) -> None:
    receipt = lake.write("events", None, numbers(1))
    assert receipt.path == f"events/{receipt.sha256[:16]}.parquet"
    assert lake.read("events").equals(numbers(1))
    assert lake.receipt("events") == receipt
    assert lake.partitions("events") == []


def test_partitions_come_in_the_order_asked_for(lake: Lake) -> None:
    for day in (3, 1, 2):
        lake.write("t", f"2026-01-0{day}", numbers(day))
    assert lake.partitions("t") == ["2026-01-01", "2026-01-02", "2026-01-03"]
    assert lake.read("t")["x"].to_pylist() == [1, 2, 3]
    assert lake.read("t", ["2026-01-03", "2026-01-01"])["x"].to_pylist() == [3, 1]


def test_tables_below_a_table_are_others(lake: Lake) -> None:
    lake.write("features/user", "a", numbers(1))
    lake.write("features/user/v=1f0c", "b", numbers(2))
    assert lake.partitions("features/user") == ["a"]
    assert lake.partitions("features/user/v=1f0c") == ["b"]


def test_columns_and_filters(lake: Lake) -> None:
    lake.write("t", DAY, numbers(1, 2, 3))
    assert lake.read("t", columns=["y"], filters=pc.field("x") > 1).to_pydict() == {"y": [2.0, 3.0]}


def test_a_rewrite_replaces_and_keeps_the_file_before(lake: Lake) -> None:
    first = lake.write("t", DAY, numbers(1))
    second = lake.write("t", DAY, numbers(2))
    assert second.superseded == first.path
    assert lake.read("t").equals(numbers(2))
    assert lake.read_files([first]).equals(numbers(1))


def test_the_same_rows_again_change_nothing(lake: Lake) -> None:
    lake.write("t", DAY, numbers(0))
    first = lake.write("t", DAY, numbers(1))
    assert lake.write("t", DAY, numbers(1)) == first
    assert lake.receipt("t", DAY) == first


def test_files_older_than_the_one_before_are_deleted(blobs: Blobs) -> None:
    lake = Lake(blobs, grace_us=-1_000_000_000)
    receipts = [lake.write("t", DAY, numbers(i)) for i in range(5)]
    other = lake.write("t", "2026-01-06", numbers(1))
    kept = [r.path for r in (*receipts[-2:], other)]
    assert [key for key in blobs.list("t/") if key.endswith(".parquet")] == sorted(kept)


def test_young_files_are_kept_for_their_readers(lake: Lake) -> None:
    receipts = [lake.write("t", DAY, numbers(i)) for i in range(5)]
    assert [lake.read_files([r])["x"].to_pylist() for r in receipts] == [[i] for i in range(5)]


def test_collecting_a_whole_table_leaves_tables_below_it(blobs: Blobs) -> None:
    lake = Lake(blobs, grace_us=-1_000_000_000)
    below = lake.write("t/v=1", None, numbers(1))
    for i in range(4):
        lake.write("t", None, numbers(i))
    assert lake.read_files([below]).equals(numbers(1))


def test_precommit_can_stop_a_write(lake: Lake) -> None:
    lake.write("t", DAY, numbers(1))

    def cancelled() -> None:
        assert lake.read("t").equals(numbers(1))
        raise RunNotLiveError(run_id="r", status="CANCELED")

    with pytest.raises(RunNotLiveError):
        lake.write("t", DAY, numbers(2), precommit=cancelled)
    assert lake.read("t").equals(numbers(1))


columns = st.lists(st.integers(-(2**63), 2**63 - 1) | st.none(), max_size=30)


@given(columns, st.integers(0, 30), st.integers(0, 30))
def test_bytes_depend_on_the_rows_alone(values: list[int | None], cut: int, skip: int) -> None:
    names = [None if value is None else f"n{value % 7}" for value in values]
    table = pa.table(
        {"x": pa.array(values, pa.int64()), "s": pa.array(names, pa.string())},
        metadata={"pandas": "{}"},
    )
    padded = pa.concat_tables([table.slice(0, skip), table]).slice(min(skip, len(values)))
    chunked = pa.concat_tables([padded.slice(0, cut), padded.slice(cut)])
    assert encode(chunked, table="t") == encode(table, table="t")


def test_a_table_read_and_written_again_is_the_same_file(local: Lake) -> None:
    first = local.write("t", "a", numbers(1, 2))
    assert local.write("t", "b", local.read("t", ["a"])).sha256 == first.sha256


def test_a_missing_partition_is_named_with_the_next_step(lake: Lake) -> None:
    with pytest.raises(NotFoundError, match="table t has no data; materialise it first"):
        lake.read("t")
    lake.write("t", DAY, numbers(1))
    expected = (
        rf"table t has no partition 2026-01-09; there are {DAY} to {DAY} \(1\)\. Materialise what"
    )
    for call in (
        lambda: lake.read("t", [DAY, "2026-01-09"]),
        lambda: lake.receipt("t", "2026-01-09"),
    ):
        with pytest.raises(NotFoundError, match=expected):
            call()
    with pytest.raises(NotFoundError, match="table t has no data"):
        lake.receipt("t")


def test_a_lost_file_is_named(lake: Lake) -> None:
    receipt = lake.write("t", DAY, numbers(1))
    lake.blobs.delete(receipt.path)
    with pytest.raises(NotFoundError, match=receipt.path):
        lake.read("t")


def test_no_partitions_of_a_declared_table_are_no_rows(lake: Lake) -> None:
    assert lake.read("things", [], spec=SPEC).schema.equals(SPEC.schema)
    assert lake.read("things", spec=SPEC, columns=["tier"]).to_pydict() == {"tier": []}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"id": [1]}), r"missing \['tier'\]"),
        (pa.table({"id": [1], "tier": ["vip"], "z": [1]}), r"not declared \['z'\]"),
        (pa.table({"tier": ["vip"], "id": [1]}), "wrong order"),
        (pa.table({"id": [1.0], "tier": ["vip"]}), "column id is double, things declares int64"),
        (pa.table({"id": pa.array([1, None]), "tier": ["vip", "vip"]}), "column id has 1 nulls"),
    ],
    ids=["missing", "extra", "order", "type", "null"],
)
def test_a_table_that_breaks_its_contract_is_refused(
    local: Lake, table: pa.Table, message: str
) -> None:
    with pytest.raises(ContractError, match=message):
        local.write("things", DAY, table, spec=SPEC)
    assert local.partitions("things") == []
    local.write("things", DAY, table)
    with pytest.raises(ContractError, match=message):
        local.read("things", spec=SPEC)


def test_a_declared_table_gets_its_exact_schema(local: Lake) -> None:
    table = pa.table({"id": [1], "tier": pa.array([None], pa.string())})
    local.write("things", DAY, table, spec=SPEC)
    assert local.read("things", spec=SPEC).schema.equals(SPEC.schema)


def test_an_empty_partition_keeps_its_types(local: Lake) -> None:
    local.write("views", DAY, VIEWS.schema.empty_table(), spec=VIEWS)
    assert local.read("views", spec=VIEWS).schema.equals(VIEWS.schema)


def test_partitions_of_different_shape_are_not_mixed(local: Lake) -> None:
    local.write("t", "a", numbers(1))
    local.write("t", "b", pa.table({"x": [1]}))
    with pytest.raises(ContractError, match="rematerialise the older partition"):
        local.read("t")
    assert local.read("t", columns=["x"]).num_rows == 2


def test_an_unknown_column_is_named(local: Lake) -> None:
    local.write("t", DAY, numbers(1))
    with pytest.raises(ContractError, match=r"has no columns \['z'\]; it has \['x', 'y'\]"):
        local.read("t", columns=["x", "z"])


def test_a_filter_that_does_not_fit_is_refused(local: Lake) -> None:
    local.write("t", DAY, numbers(1))
    with pytest.raises(ContractError, match="cannot be read as asked"):
        local.read("t", filters=pc.field("x") == "text")


@pytest.mark.parametrize("partition", ["", "../a", "a/b", ".hidden", "x" * 122, "a b"])
def test_unsafe_partitions_are_refused(local: Lake, partition: str) -> None:
    with pytest.raises(ContractError, match="is not allowed"):
        local.write("t", partition, numbers(1))


def test_every_flipped_bit_is_refused_or_harmless(local: Lake) -> None:
    rng = np.random.default_rng(4)
    table = pa.table(
        {
            "x": pa.array(np.arange(300)),
            "y": pa.array(rng.random(300)),
            "s": ["a", "b", None] * 100,
        }
    )
    receipt = local.write("t", DAY, table)
    intact = local.blobs.get(receipt.path)
    refused = 0
    for _ in range(60):
        damaged = bytearray(intact)
        damaged[rng.integers(len(intact))] ^= 1 << rng.integers(8)
        local.blobs.put(receipt.path, bytes(damaged))
        with pytest.raises(IntegrityError):
            local.read("t", verify=True)
        try:
            assert local.read("t").equals(table)
        except IntegrityError:
            refused += 1
    assert refused >= 50


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_truncated_file_is_refused(lake: Lake, length: int) -> None:
    receipt = lake.write("t", DAY, numbers(1))
    lake.blobs.put(receipt.path, lake.blobs.get(receipt.path)[:length])
    with pytest.raises(IntegrityError, match=receipt.sha256):
        lake.read("t")


def test_writing_the_same_rows_heals_a_damaged_file(lake: Lake) -> None:
    receipt = lake.write("t", DAY, numbers(1))
    lake.blobs.put(receipt.path, b"damaged")
    lake.write("t", DAY, numbers(1))
    assert lake.read("t", verify=True).equals(numbers(1))


def test_a_damaged_pointer_is_named(lake: Lake) -> None:
    lake.write("t", DAY, numbers(1))
    lake.blobs.put(f"t/dt={DAY}/_current.json", b"{")
    with pytest.raises(ContractError, match=r"_current\.json is not a receipt .* rematerialise t"):
        lake.read("t")


def test_files_named_by_a_manifest_are_read_verified(lake: Lake) -> None:
    entry = lake.write("t", DAY, numbers(1)).entry
    lake.write("t", DAY, numbers(2))
    assert lake.read_files([entry]).equals(numbers(1))
    lake.blobs.put(entry.path, lake.blobs.get(lake.receipt("t", DAY).path))
    with pytest.raises(IntegrityError):
        lake.read_files([entry])


def test_duckdb_reads_the_current_files(local: Lake) -> None:
    for day in ("2026-01-05", "2026-01-06"):
        local.write("t", day, numbers(9))
        local.write("t", day, numbers(1, 2))
    with duckdb.connect(":memory:") as connection:
        relation = connection.read_parquet(local.paths("t"), hive_partitioning=False)
        assert relation.columns == ["x", "y"]
        assert relation.aggregate("sum(x)").fetchall() == [(6,)]


def test_objects_on_s3_have_uris(lake: Lake) -> None:
    receipt = lake.write("t", DAY, numbers(1))
    assert lake.paths("t") == [f"{lake.blobs.uri}/{receipt.path}"]
