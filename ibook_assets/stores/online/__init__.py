"""The online store: recent facts packed by entity, in published snapshots and live."""

from __future__ import annotations

from collections.abc import Sequence

from ibook_assets.core.features.requests import Request
from ibook_assets.stores.online.reading import FeatureReader, OnlineFeatures
from ibook_assets.stores.online.snapshot import OnlineSnapshot, OnlineStore, current_snapshot_id
from ibook_assets.stores.online.writer import OnlineWriter, Published

__all__ = [
    "FeatureReader",
    "OnlineFeatures",
    "OnlineSnapshot",
    "OnlineStore",
    "OnlineWriter",
    "Published",
    "current_snapshot_id",
    "fetch_online_features",
]


def fetch_online_features(
    features: Sequence[str],
    entity_rows: Sequence[Request],
    store: FeatureReader,
    as_of_us: int | None = None,
) -> OnlineFeatures:
    """The `features` (`view:feature`) of every row of `entity_rows`; see FeatureReader.fetch."""
    return store.fetch(features, entity_rows, as_of_us)
