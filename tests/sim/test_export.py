"""Simulated tables as Parquet files: nothing lost, nothing half written."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ibook_assets.core.tables import RAW_TABLES, TableSpec
from ibook_sim.datasets.export import parquet_bytes, write_table
from ibook_sim.world import DayTables, World
from tests.sim.small_world import DAYS


@pytest.mark.parametrize("spec", RAW_TABLES, ids=lambda spec: spec.name)
def test_a_file_holds_the_table(spec: TableSpec, days: list[DayTables], tmp_path: Path) -> None:
    table = getattr(days[60], spec.name)
    assert write_table(table, tmp_path / "day" / "part.parquet") == table.num_rows
    path = tmp_path / "day" / "part.parquet"
    assert pq.read_table(path, page_checksum_verification=True).equals(table)
    assert list(path.parent.iterdir()) == [path]


def test_the_catalogue_and_the_truth_survive_the_file(world: World, truth: pa.Table) -> None:
    for table in (*(table for _, table in world.catalogue(DAYS[9]).items()), truth):
        assert pq.read_table(pa.BufferReader(parquet_bytes(table))).equals(table)


def test_each_column_has_the_encoding_that_suits_it(days: list[DayTables]) -> None:
    table = days[60].transactions
    group = pq.ParquetFile(pa.BufferReader(parquet_bytes(table))).metadata.row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    used = {column.path_in_schema: set(column.encodings) for column in columns}
    assert {column.compression for column in columns} == {"ZSTD"}
    assert "RLE_DICTIONARY" in used["tier"] & used["event_id"] & used["amount_cents"]
    assert "DELTA_BINARY_PACKED" in used["known_ts"] & used["account_age_s"]
    assert used["card_id"] & {"RLE_DICTIONARY", "DELTA_BINARY_PACKED"} == set()


def test_a_file_that_cannot_be_put_in_place_leaves_nothing(
    days: list[DayTables], tmp_path: Path
) -> None:
    taken = tmp_path / "part.parquet"
    (taken / "in the way").mkdir(parents=True)
    with pytest.raises(OSError, match=r"part\.parquet"):
        write_table(days[0].refunds, taken)
    assert list(tmp_path.iterdir()) == [taken]
