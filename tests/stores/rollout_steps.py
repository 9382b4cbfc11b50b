"""A step of a rollout in a lake, and what reading all of its log from scratch says of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import numpy as np

from ibook_assets.core.messages import PREDICTION_LOG
from ibook_assets.core.predictions import Trace, sealed
from ibook_assets.core.times import SECOND_US, to_us
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.intake import LogRecord, intake
from ibook_assets.stores.log_files import LogFile, LogFiles
from ibook_assets.stores.rollout_checkpoints import Watched
from ibook_assets.stores.rollout_data import first_orders, paired_orders
from tests.traces import a_trace

SINCE: Final = datetime(2026, 3, 1, 23, 55, tzinfo=UTC)
SINCE_US: Final = to_us(SINCE)
SEQUENCE: Final = 5

KINDS: Final[dict[str, dict[str, Any]]] = {
    "answered": {},
    "challenged": {"variant": "canary", "model_version": "fraud-v2"},
    "unseen": {"variant": "shadow", "model_version": "fraud-v2", "served": False},
    "other model": {"variant": "treatment", "model_version": "fraud-v0"},
    "other shadow": {"variant": "shadow-b", "model_version": "fraud-v0", "served": False},
    "other use case": {"use_case": "pricing"},
    "before": {"record_sequence": SEQUENCE - 1},
}
"""What predictions there are, as changes to one that the champion answered with."""


class Row(NamedTuple):
    """One prediction."""

    order: int
    user: int
    second: int
    """When it was made, after the step began."""
    kind: str

    @property
    def known_us(self) -> int:
        return SINCE_US + self.second * SECOND_US

    @property
    def score(self) -> float:
        """One that no other order or kind has."""
        return (self.order * len(KINDS) + list(KINDS).index(self.kind)) / 1_000 + 1e-9

    @property
    def held(self) -> bool:
        return (self.order + list(KINDS).index(self.kind)) % 3 == 0

    @property
    def trace(self) -> Trace:
        changes = {
            "known_ts": self.known_us,
            "user_id": self.user,
            "transaction_id": self.order,
            "model_version": "fraud-v1",
            "record_sequence": SEQUENCE,
            "score": self.score,
            "decision": "review" if self.held else "approve",
        }
        return a_trace(f"r-{self.order}", **(changes | KINDS[self.kind]))


def watched(**changes: Any) -> Watched:
    """A canary step of fraud-v2 beside fraud-v1."""
    fields: dict[str, Any] = {
        "use_case": "fraud",
        "decided": 3,
        "shadow": False,
        "champion": "fraud-v1",
        "version": "fraud-v2",
        "sequence": SEQUENCE,
        "since": SINCE,
    }
    return Watched(**(fields | changes))


def ship(blobs: Blobs, rows: Sequence[Row], *, partition: int = 90_000) -> LogFile:
    """One file of the log, as a recorder writes it."""
    files = LogFiles(blobs)
    start = files.next_offset(PREDICTION_LOG, partition) or 0
    records = [
        LogRecord(partition, start + n, row.known_us // 1_000, b"", sealed(row.trace))
        for n, row in enumerate(rows)
    ]
    return files.create(PREDICTION_LOG, partition, records, intake(PREDICTION_LOG, records))


class Shipped(NamedTuple):
    """A row and where the log has it."""

    partition: int
    offset: int
    row: Row


Seen = list[tuple[int, bool, float, bool, float, bool]]
"""Time, arm, score, held; the shadow's score (-1 without one) and held."""


def from_scratch(log: Sequence[Shipped], until_us: int, *, shadow: bool) -> Seen:
    """What a look finds, by its definition."""
    placed = sorted((one.row.known_us, one.partition, one.offset, one.row) for one in log)
    first: dict[int, Row] = {}
    for known_us, _, _, row in placed:
        if row.kind in ("answered", "challenged") and known_us < until_us:
            first.setdefault(row.user, row)
    unseen = {
        (row.order, row.user, known_us): row
        for known_us, _, _, row in placed
        if row.kind == "unseen" and shadow
    }
    found: Seen = []
    for row in first.values():
        by = unseen.get((row.order, row.user, row.known_us))
        said = (-1.0, False) if by is None else (by.score, by.held)
        challenged = row.kind == "challenged" and not shadow
        found.append((row.known_us, challenged, row.score, row.held, *said))
    return found


def looked(blobs: Blobs, step: Watched, until_us: int) -> Seen:
    """What a look finds."""
    if step.shadow:
        pairs = paired_orders(blobs, step, until_us=until_us)
        unseen = np.where(np.isnan(pairs.shadow_scores), -1.0, pairs.shadow_scores)
        arms = np.zeros(len(unseen), bool)
        columns = (
            *(pairs.known_us, arms, pairs.champion_scores, pairs.champion_held),
            *(unseen, pairs.shadow_held),
        )
    else:
        users = first_orders(
            blobs, step, until_us=until_us, maturity_days=60, now_us=SINCE_US + math.ceil(1e9)
        )
        none = np.full(len(users.known_us), -1.0)
        columns = (users.known_us, users.challenged, users.scores, users.held, none, none >= 0)
    return list(zip(*(column.tolist() for column in columns), strict=True))
