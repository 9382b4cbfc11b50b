"""What the killed processes do."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ibook_assets.core.errors import ConflictError
from ibook_assets.core.promotion import Artefact
from ibook_assets.stores.blobs import open_blobs
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.parquet import encode
from ibook_assets.stores.promotions import PromotionLog
from tests.promotion_drafts import a_draft
from tests.reliability.crash_points import CrashPoint, When, watch_io

TABLE = "facts/transactions"
DAY = "2026-01-05"
ROWS = 2_000


def version_of(number: int, rows: int = ROWS) -> pa.Table:
    """The content of version `number`: a reader can tell it from any mix."""
    noise = np.random.default_rng(number).random(rows)
    return pa.table({"version": pa.array(np.full(rows, number)), "noise": pa.array(noise)})


def warm_up() -> None:
    """Import what is imported on first use, so that no child has to."""
    encode(version_of(0), table=TABLE)
    open_blobs("s3://bucket", endpoint_url="http://127.0.0.1:9")
    open_blobs(".")


def materialise(
    uri: str,
    endpoint_url: str | None,
    number: int,
    crash: tuple[int, When] | None = None,
    report: str | None = None,
) -> None:
    """Write version `number` of the day, dying at `crash`; I/O calls are listed in `report`."""
    data = version_of(number)
    lake = Lake(open_blobs(uri, endpoint_url=endpoint_url))
    seen = watch_io(CrashPoint(*crash) if crash else None)
    lake.write(TABLE, DAY, data)
    if report is not None:
        calls = list(seen)
        Path(report).write_text(json.dumps(calls), encoding="utf-8")


def promote_until(
    uri: str,
    endpoint_url: str | None,
    artefact: dict[str, Any],
    target: int,
    notes: str,
) -> None:
    """Promote again and again until the log has `target` entries.

    `won <sequence> <sha256>` is noted after a promotion returned, `lost` after a conflict.
    """
    worker = Path(notes).name
    log = PromotionLog(open_blobs(uri, endpoint_url=endpoint_url))
    descriptor = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    attempt = 0
    while True:
        head = log.current("fraud")
        if head is not None and head.sequence >= target:
            return
        attempt += 1
        draft = a_draft(
            f"{worker}-{attempt}", artefact=Artefact.model_validate(artefact), actor=worker
        )
        try:
            record = log.promote(draft, expected_parent=head.sha256 if head else None)
        except ConflictError:
            os.write(descriptor, b"lost\n")
        else:
            os.write(descriptor, f"won {record.sequence} {record.sha256}\n".encode())
