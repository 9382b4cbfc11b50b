"""Features of an order: from the published snapshot of history, or from the order alone."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

from ibook_assets.stores.online import (
    OnlineSnapshot,
    RowsOnly,
    current_snapshot_id,
    fetch_online_features,
)
from ibook_serving.api import Refusal
from ibook_serving.decode import Row
from ibook_serving.following import Follower, Publication
from ibook_serving.ports import Fetched


class PublishedHistory:
    """The newest snapshot of history that batch publishes; without one, the order alone."""

    def __init__(self, root: Path, features: Sequence[str]) -> None:
        """A source of `features` out of the snapshots below `root`; nothing is read yet."""
        self._root = root
        self._features = tuple(features)
        self._follower = Follower("online_store", self._newest, self._load, hide=str(root))
        self._rows_only = RowsOnly()

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """The snapshot that would not load, if any."""
        refusal = self._follower.refusal
        return () if refusal is None else (refusal,)

    @property
    def as_of_us(self) -> int | None:
        """Time of the snapshot."""
        snapshot = self._follower.loaded
        return None if snapshot is None else snapshot.as_of_us

    @property
    def store(self) -> str | None:
        """Name of the snapshot."""
        snapshot = self._follower.loaded
        return None if snapshot is None else snapshot.snapshot_id

    async def refresh(self, executor: Executor, *, force: bool) -> None:
        """Load the newest snapshot, verified; whatever is wrong with it is a refusal."""
        await self._follower.refresh(executor, force=force)

    async def fetch(self, features: Sequence[str], rows: Sequence[Row]) -> Fetched:
        """The `features` of `rows`; windows end at the snapshot's time."""
        snapshot = self._follower.loaded
        if snapshot is None:
            alone = self._rows_only.fetch(features, rows)
            return Fetched(alone.values, alone.unknown, None, None, degraded=alone.degraded)
        found = fetch_online_features(features, rows, snapshot)
        return Fetched(found.values, found.unknown, found.as_of_us, found.snapshot_id)

    async def close(self) -> None:
        """Snapshots are mapped files: nothing to do."""

    def _newest(self) -> Publication[str] | None:
        newest = current_snapshot_id(self._root)
        return None if newest is None else Publication(newest, newest, newest)

    def _load(self, snapshot_id: str) -> OnlineSnapshot:
        snapshot = OnlineSnapshot(self._root / snapshot_id)
        # Its definitions are looked at when features are first asked for.
        nobody = {"user_id": 0, "event_id": 0, "amount_cents": 0}
        fetch_online_features(self._features, [nobody], snapshot)
        return snapshot
