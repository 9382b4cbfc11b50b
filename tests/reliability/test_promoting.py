"""Row 6: concurrent promotions with kills have one winner per parent and leave no gap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.reliability.nursery import Nursery
from tests.reliability.promoting import promote_and_kill
from tests.s3_server import new_s3_blobs


@pytest.mark.parametrize("store", ["folder", "s3"])
def test_one_winner_per_parent(
    store: str, nursery: Nursery, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    endpoint = request.getfixturevalue("s3_endpoint") if store == "s3" else None
    notes = tmp_path / "notes"
    notes.mkdir()
    figures = promote_and_kill(
        nursery,
        new_s3_blobs(endpoint).uri if endpoint else str(tmp_path / "lake"),
        notes,
        np.random.default_rng(6),
        endpoint_url=endpoint,
        target=60 if store == "folder" else 10,
        kills=10 if store == "folder" else 3,
    )
    assert figures.promotions >= 10
    assert figures.conflicts > 0
    assert figures.challenges > 0
    assert (figures.gaps, figures.shared_parents, figures.lost, figures.twice) == (0, 0, 0, 0)
    # What was not acknowledged was committed by a process that was killed before it could say so.
    assert figures.promotions - figures.acknowledged <= figures.kills
