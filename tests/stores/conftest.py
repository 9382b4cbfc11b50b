"""Stores under test: the same contract on a folder and on S3."""

from __future__ import annotations

from pathlib import Path

import pytest

from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.local_blobs import LocalBlobs
from tests.s3_server import new_s3_blobs, s3_endpoint

__all__ = ["s3_endpoint"]


@pytest.fixture(params=["folder", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    """An empty store of each kind."""
    if request.param == "folder":
        return LocalBlobs(tmp_path / "lake")
    return new_s3_blobs(request.getfixturevalue("s3_endpoint"))
