"""Features of an order: from the published snapshot of history, or from the order alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ibook_assets.stores.online import (
    ONLINE_STORE_UNAVAILABLE,
    OnlineSnapshot,
    RowsOnly,
    current_snapshot_id,
    fetch_online_features,
)
from ibook_serving.decode import Row
from ibook_serving.following import Publication
from ibook_serving.ports import Features, Fetched


class NoHistory:
    """Stands in while there is no snapshot: what needs history is NaN, and the answer says so."""

    snapshot_id: str | None = None
    as_of_us: int | None = None
    degraded: tuple[str, ...] = (ONLINE_STORE_UNAVAILABLE,)

    def __init__(self) -> None:
        self._rows_only = RowsOnly()

    def fetch(self, features: Sequence[str], rows: Sequence[Row]) -> Fetched:
        """The `features` of `rows`, by the online store's own kernel with no entity known."""
        return Fetched(self._rows_only.fetch(features, rows).values, [()] * len(rows))


class PublishedHistory:
    """The snapshots of history that batch publishes."""

    def __init__(self, root: Path, features: Sequence[str]) -> None:
        self._root = root
        self._features = tuple(features)

    def newest(self) -> Publication[str] | None:
        """The newest snapshot's id, None before the first. Cheap enough to poll."""
        newest = current_snapshot_id(self._root)
        return None if newest is None else Publication(newest, newest, newest)

    def load(self, snapshot_id: str) -> Features:
        """The snapshot, verified, after answering a request with it.

        Raises:
            IntegrityError: a file is not what was published.
            ContractError: it was published with other definitions of the features.
        """
        history = SnapshotHistory(OnlineSnapshot(self._root / snapshot_id))
        history.fetch(self._features, [{"user_id": 0, "event_id": 0, "amount_cents": 0}])
        return history


class SnapshotHistory:
    """Features from one published snapshot; windows end at its time."""

    degraded: tuple[str, ...] = ()

    def __init__(self, snapshot: OnlineSnapshot) -> None:
        self._snapshot = snapshot

    @property
    def snapshot_id(self) -> str:
        """Name of the snapshot."""
        return self._snapshot.snapshot_id

    @property
    def as_of_us(self) -> int:
        """Time up to which history is known."""
        return self._snapshot.as_of_us

    def fetch(self, features: Sequence[str], rows: Sequence[Row]) -> Fetched:
        """The `features` of `rows`, and which of their entities the snapshot never saw."""
        fetched = fetch_online_features(features, rows, self._snapshot)
        return Fetched(fetched.values, fetched.unknown)
