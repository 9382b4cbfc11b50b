"""What people see of an asset in Dagster."""

from pathlib import Path

import dagster as dg
import pytest

from ibook_assets.defs.metadata import lake_file
from ibook_assets.stores.local_blobs import LocalBlobs

KEY = "monitoring/feature_drift/fraud/dt=2026-03-15/evidently.html"


def test_a_file_of_the_lake_is_shown_by_its_place(tmp_path: Path) -> None:
    blobs = LocalBlobs(str(tmp_path))
    assert lake_file(blobs, KEY, None) == dg.MetadataValue.path(str(tmp_path / KEY))


@pytest.mark.parametrize(
    "address", ["https://files.example.org/lake", "https://files.example.org/lake/"]
)
def test_a_file_of_a_lake_with_an_address_is_a_link(tmp_path: Path, address: str) -> None:
    shown = lake_file(LocalBlobs(str(tmp_path)), KEY, address)
    assert shown == dg.MetadataValue.url(f"https://files.example.org/lake/{KEY}")
