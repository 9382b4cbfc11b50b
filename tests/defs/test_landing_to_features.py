"""Raw rows to features through Dagster: a day alone equals a day in a range, bad rows are kept."""

from pathlib import Path

import dagster as dg

from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.settings import Settings
from ibook_assets.stores.feature_days import feature_table
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.local_blobs import LocalBlobs
from tests.defs.conftest import run

DAILY = [
    *(["raw", name] for name in ("transactions", "views", "refunds", "outcomes")),
    *(["facts", name] for name in ("transactions", "views", "refunds", "outcomes")),
    *(["features", view.name] for view in FEATURE_VIEWS),
]
CATALOGUE = [["raw", "events"]]


def lake_of(settings: Settings) -> Lake:
    return Lake(LocalBlobs(settings.lake))


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {
        f"{e.asset_key.to_user_string()} {e.check_name}": e.passed
        for e in result.get_asset_check_evaluations()
    }


def test_a_range_lands_and_every_check_passes(small: Settings) -> None:
    result = run(small, [*CATALOGUE, *DAILY], days=("2026-01-01", "2026-01-06"))
    found = checks(result)
    assert len(found) == len(FEATURE_VIEWS) + 4
    assert all(found.values()), found
    lake = lake_of(small)
    orders = lake.read("facts/transactions")
    assert orders.num_rows == lake.read("raw/transactions").num_rows > 0
    for view in FEATURE_VIEWS:
        assert lake.read(feature_table(view))["transaction_id"].equals(orders["transaction_id"])


def test_a_day_alone_has_the_bytes_of_the_same_day_in_a_range(
    small: Settings, tmp_path: Path
) -> None:
    run(small, [*CATALOGUE, *DAILY], days=("2026-01-01", "2026-01-05"))
    alone = small.model_copy(update={"home": tmp_path / "alone"})
    run(alone, [*CATALOGUE, *DAILY], days=("2026-01-01", "2026-01-04"))
    run(alone, DAILY, days=("2026-01-05", "2026-01-05"))
    tables = ["facts/transactions", "facts/outcomes", *map(feature_table, FEATURE_VIEWS)]
    for table in tables:
        assert (
            lake_of(alone).receipt(table, "2026-01-05").sha256
            == lake_of(small).receipt(table, "2026-01-05").sha256
        ), table


def test_materialising_again_changes_no_byte(small: Settings) -> None:
    days = ("2026-01-01", "2026-01-02")
    run(small, [*CATALOGUE, *DAILY], days=days)
    before = lake_of(small).receipts("facts/transactions")
    run(small, DAILY, days=days)
    assert lake_of(small).receipts("facts/transactions") == before


def files(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "orders.csv"
    path.write_text(text)
    return Settings(
        home=tmp_path,
        source="files",
        files_transactions=path,
        files_map="id=id,user=u,event=e,amount=a,time=t,label=l",
        label_maturity_days=1,
        task_retries=2,
    )


def test_bad_rows_of_a_file_are_quarantined_with_their_reason(tmp_path: Path) -> None:
    settings = files(
        tmp_path,
        "id,u,e,a,t,l\n"
        "1,10,5,12.50,2026-01-01T10:00:00Z,0\n"
        "1,10,5,12.50,2026-01-01T10:00:00Z,0\n"
        "2,11,5,-3.00,2026-01-01T11:00:00Z,0\n"
        "3,12,5,8.00,2026-01-01T12:00:00Z,1\n",
    )
    result = run(settings, [["raw", "transactions"]], days=("2026-01-01", "2026-01-01"))
    assert checks(result) == {"raw/transactions nothing_quarantined": False}
    lake = lake_of(settings)
    assert lake.read("raw/transactions")["transaction_id"].to_pylist() == [1, 3]
    refused = lake.read("quarantine/transactions")
    assert refused["transaction_id"].to_pylist() == ["2"]
    assert refused["reason"].to_pylist() == ["amount_cents:below_minimum"]


def test_a_file_without_a_mapped_column_ends_the_run_without_retry(tmp_path: Path) -> None:
    settings = files(tmp_path, "id,u,e,t,l\n1,10,5,2026-01-01T10:00:00Z,0\n")
    result = run(
        settings,
        [["raw", "transactions"]],
        days=("2026-01-01", "2026-01-01"),
        raise_on_error=False,
    )
    assert not result.success
    kinds = [event.event_type for event in result.all_events]
    assert dg.DagsterEventType.STEP_UP_FOR_RETRY not in kinds
    assert lake_of(settings).partitions("raw/transactions") == []
