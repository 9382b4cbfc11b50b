"""Files of transactions: the same rows from CSV and Parquet, and nothing lost without a trace."""

import csv
import gzip
import io
import os
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ibook_assets.core.errors import ContractError
from ibook_assets.core.ids import entity_id
from ibook_assets.core.mapping import ColumnMapping
from ibook_assets.core.quarantine import RULES
from ibook_assets.core.tables import OUTCOMES, TRANSACTIONS
from ibook_assets.core.times import DAY_US, day_start_us
from ibook_assets.stores.contracts import validate
from ibook_assets.stores.files import FileTables, read_file

MAPPING = ColumnMapping.parse("user=who,event=show,amount=paid,time=at,label=fraud,id=order")
HEADER = ("order", "who", "show", "paid", "at", "fraud")
ROWS = (
    ("a-2", "7", "3", "57.16", "2026-01-02 00:00:01", "0"),
    ("a-1", "8", "3", "10", "2026-01-01 23:59:59", "1"),
    ("a-3", "7", "4", "0.125", "2026-01-02T08:00:00+09:00", ""),
)
DAY_1, DAY_2 = date(2026, 1, 1), date(2026, 1, 2)


def _write(path: Path, rows: tuple[tuple[str, ...], ...], header: tuple[str, ...] = HEADER) -> Path:
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def _read(path: Path, mapping: ColumnMapping = MAPPING) -> FileTables:
    return read_file(path, mapping, timezone="UTC", label_delay_days=7)


def _bad_rows(count: int, **changed: str) -> tuple[tuple[str, ...], ...]:
    good = dict(zip(HEADER, ("0", "7", "3", "5", "2026-01-01 00:00:00", "0"), strict=True))
    return tuple(tuple({**good, **changed, "order": str(i)}.values()) for i in range(count))


def test_rows_arrive_typed_in_known_order(tmp_path: Path) -> None:
    found = _read(_write(tmp_path / "tx.csv", ROWS))
    # 08:00 in Japan is 23:00 UTC of the day before.
    assert found.original_ids.to_pylist() == ["a-3", "a-1", "a-2"]
    assert found.transactions["transaction_id"].to_pylist() == [
        entity_id(name) for name in ("a-3", "a-1", "a-2")
    ]
    assert found.transactions["amount_cents"].to_pylist() == [12, 1_000, 5_716]
    assert found.transactions.column_names == list(TRANSACTIONS.column_names)
    assert found.transactions["known_ts"].equals(found.transactions["occurred_ts"])


def test_labels_become_outcomes_when_their_delay_has_passed(tmp_path: Path) -> None:
    found = _read(_write(tmp_path / "tx.csv", ROWS))
    assert found.outcomes["is_fraud"].to_pylist() == [1, 0]
    known = dict(zip(found.original_ids.to_pylist(), found.transactions["known_ts"].to_pylist(),
                     strict=True))  # fmt: skip
    assert found.outcomes["known_ts"].to_pylist() == [
        known[name] + 7 * DAY_US for name in ("a-1", "a-2")
    ]
    assert found.outcome_days() == [date(2026, 1, 8), date(2026, 1, 9)]


def test_days_cover_the_file_exactly(tmp_path: Path) -> None:
    found = _read(_write(tmp_path / "tx.csv", ROWS))
    assert found.days() == [DAY_1, DAY_2]
    assert sum(found.day(day).transactions.num_rows for day in found.days()) == found.rows
    assert found.day(date(2025, 1, 1)).transactions.num_rows == 0


@pytest.mark.parametrize("name", ["tx.csv.gz", "tx.parquet", "typed.parquet"])
def test_the_format_does_not_matter(tmp_path: Path, name: str) -> None:
    rows = ROWS[:2]  # the third time carries a zone of its own, which only text can
    columns = dict(zip(HEADER, map(list, zip(*rows, strict=True)), strict=True))
    table = pa.table(columns)
    if name == "typed.parquet":
        types = {"who": pa.int32(), "paid": pa.float64(), "at": pa.timestamp("ns")}
        for column, kind in types.items():
            at = table.schema.get_field_index(column)
            table = table.set_column(at, column, table[column].cast(kind))
    if name.endswith(".parquet"):
        pq.write_table(table, tmp_path / name)
    else:
        _write(tmp_path / name, rows)
    expected = _read(_write(tmp_path / "plain.csv", rows))
    assert _read(tmp_path / name).transactions.equals(expected.transactions)


def test_what_a_file_gives_holds_the_contract(tmp_path: Path) -> None:
    found = _read(_write(tmp_path / "tx.csv", ROWS)).day(DAY_1)
    accepted = validate(found.transactions, TRANSACTIONS, source="tx.csv", day=DAY_1).accepted
    assert accepted.schema == TRANSACTIONS.schema
    assert accepted.num_rows == 2
    assert validate(found.outcomes, OUTCOMES, source="tx.csv").rows == 0


def test_without_an_id_column_the_row_number_is_the_id(tmp_path: Path) -> None:
    mapping = ColumnMapping.parse("user=who,event=show,amount=paid,time=at")
    found = _read(_write(tmp_path / "tx.csv", ROWS), mapping)
    assert found.transactions["transaction_id"].to_pylist() == [2, 1, 0]
    assert found.outcomes.num_rows == 0


def test_optional_columns_fill_their_roles(tmp_path: Path) -> None:
    mapping = ColumnMapping.parse(
        "user=who,event=show,amount=paid,time=at,known=seen,tier=tier,avs_match=avs,declines=no"
    )
    path = _write(
        tmp_path / "tx.csv",
        (("7", "3", "5", "2026-01-01 10:00:00", "2026-01-02 09:00:00", "vip", "y", "2"),),
        ("who", "show", "paid", "at", "seen", "tier", "avs", "no"),
    )
    found = _read(path, mapping)
    row = found.transactions.to_pylist()[0]
    assert (row["tier"], row["avs_match"], row["declines"]) == ("vip", True, 2)
    # Late: it happened on the first day and belongs to the second, when it became known.
    assert row["occurred_ts"] == day_start_us(DAY_1) + 10 * 3600 * 10**6
    assert found.days() == [DAY_2]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("who", "12.0", "user_id:decimal_id"),
        ("paid", "1.234,50", "amount_cents:not_an_amount"),
        ("at", "yesterday", "occurred_ts:unreadable_time"),
        ("at", "", "known_ts:null"),
        ("fraud", "perhaps", "is_fraud:not_a_flag"),
    ],
)
def test_an_unreadable_value_is_quarantined_with_its_text(
    tmp_path: Path, column: str, value: str, reason: str
) -> None:
    row = dict(zip(HEADER, ROWS[0], strict=True)) | {"order": "bad", column: value}
    found = _read(_write(tmp_path / "tx.csv", (*ROWS, tuple(row.values()))))
    rejected = found.rejected.to_pylist()
    assert [r["reason"] for r in rejected] == [reason]
    assert reason.partition(":")[2] in RULES
    assert (rejected[0]["source"], rejected[0]["source_row"]) == ("tx.csv", 3)
    assert not value or value in rejected[0].values()
    assert found.transactions.num_rows + found.rejected.num_rows == found.rows == 4
    # A row whose time is unreadable lies in the file's first partition.
    assert found.day(DAY_1 if column == "at" else DAY_2).rejected.num_rows == 1


def test_a_line_with_too_many_fields_is_quarantined_as_it_arrived(tmp_path: Path) -> None:
    path = _write(tmp_path / "tx.csv", (*ROWS, ("x", "7", "3", "1", "234", "2026-01-01", "0")))
    found = _read(path)
    assert found.rows == 4
    assert found.rejected["reason"].to_pylist() == ["record:wrong_number_of_columns"]
    assert found.rejected["record"].to_pylist() == ["x,7,3,1,234,2026-01-01,0"]


def test_a_file_that_is_mostly_unreadable_is_refused(tmp_path: Path) -> None:
    rows = _bad_rows(300) + _bad_rows(100, paid="five euros")
    with pytest.raises(ContractError) as refused:
        _read(_write(tmp_path / "tx.csv", rows))
    message = str(refused.value)
    for part in ("tx.csv", "transactions", "100 of 400", "amount_cents", "five euros", "mapping"):
        assert part in message


def test_a_file_without_one_readable_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="column 'at' is a readable time"):
        _read(_write(tmp_path / "tx.csv", _bad_rows(3, at="yesterday")))


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("tx.csv", b"order,who,show,paid\n", "no column 'at'"),
        ("tx.csv", b"order,who,show,paid,at,fraud\n", "no rows"),
        ("tx.csv", b"order,who,show,paid,at,fraud\n1,\xff,3,4,2026-01-01,0\n", "not a readable"),
        ("tx.parquet", b"not parquet at all", "not a readable"),
        ("tx.xlsx", b"", "unknown kind of file"),
    ],
    ids=["missing column", "empty", "not UTF-8", "not Parquet", "unknown suffix"],
)
def test_a_file_that_cannot_be_read_says_why(
    tmp_path: Path, name: str, content: bytes, named: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ContractError, match=named):
        _read(tmp_path / name)


def test_a_missing_file_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="IBOOK_FILES_TRANSACTIONS"):
        _read(tmp_path / "nothing.csv")


def test_a_column_of_the_wrong_type_names_its_role(tmp_path: Path) -> None:
    columns = dict(zip(HEADER, map(list, zip(*ROWS, strict=True)), strict=True))
    pq.write_table(pa.table({**columns, "at": [1, 2, 3]}), tmp_path / "tx.parquet")
    with pytest.raises(ContractError, match=r"column 'at' cannot be the role 'time'.*int64"):
        _read(tmp_path / "tx.parquet")


def test_a_file_is_parsed_once_until_it_changes(tmp_path: Path) -> None:
    path = _write(tmp_path / "tx.csv", ROWS)
    first = _read(path)
    assert _read(path) is first
    _write(path, ROWS[:2])
    os.utime(path, ns=(1, 1))
    assert _read(path).rows == 2
