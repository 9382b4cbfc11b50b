"""What a gateway does to an event: it says when it became known, and judges it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ibook_assets.core.arrow import array
from ibook_assets.core.messages import DERIVED_TOPICS, spec_of
from ibook_assets.stores.intake import verdict


def refusal(topic: str, value: bytes, known_us: int) -> str | None:
    """Why the log's readers would refuse the message; None when they take it."""
    found = verdict(topic, value, timestamp_ms=known_us // 1_000)
    return found if isinstance(found, str) else None


def _is_assigned(topic: str) -> bool:
    return "known_ts" in spec_of(topic).column_names and topic not in DERIVED_TOPICS


def stamped(row: Mapping[str, Any], topic: str, known_us: int) -> Mapping[str, Any]:
    """`row` as it became known at `known_us`; a logged vector keeps its own as-of."""
    return {**row, "known_ts": known_us} if _is_assigned(topic) else row


def stamped_rows(table: pa.Table, topic: str, known_us: npt.NDArray[np.int64]) -> pa.Table:
    """`table` with when each row became known; logged vectors keep their own as-of."""
    if not _is_assigned(topic):
        return table
    if "known_ts" in table.column_names:
        table = table.drop_columns(["known_ts"])
    return table.append_column("known_ts", array(known_us))
