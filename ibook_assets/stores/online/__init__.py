"""The online store: recent facts packed by entity, in published snapshots and live.

`open_live` opens what workers write, `OnlineStore` follows what batch publishes, `Fallback` reads
the one and, while that is away, the other. `fetch_online_features` asks any of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from ibook_assets.core.features.requests import Request
from ibook_assets.core.settings import Settings
from ibook_assets.stores.online.fallback import (
    ONLINE_STORE_UNAVAILABLE,
    PUBLISHED_SNAPSHOT,
    Fallback,
    RowsOnly,
    fallback,
)
from ibook_assets.stores.online.live import LiveStore, Position, Progress, Reading, Write
from ibook_assets.stores.online.opening import open_live
from ibook_assets.stores.online.reading import FeatureReader, OnlineFeatures
from ibook_assets.stores.online.snapshot import OnlineSnapshot, OnlineStore, current_snapshot_id
from ibook_assets.stores.online.writer import OnlineWriter, Published

__all__ = [
    "ONLINE_STORE_UNAVAILABLE",
    "PUBLISHED_SNAPSHOT",
    "Fallback",
    "FeatureReader",
    "LiveStore",
    "OnlineFeatures",
    "OnlineSnapshot",
    "OnlineStore",
    "OnlineWriter",
    "Position",
    "Progress",
    "Published",
    "Reading",
    "RowsOnly",
    "Write",
    "current_snapshot_id",
    "fetch_online_features",
    "open_live",
]


def fetch_online_features(
    features: Sequence[str],
    entity_rows: Sequence[Request],
    store: FeatureReader | None = None,
    as_of_us: int | None = None,
) -> OnlineFeatures:
    """The `features` (`view:feature`) of every row, windows ending at `as_of_us`.

    Args:
        features: qualified names.
        entity_rows: columns of facts/transactions; what is unknown is left out.
        store: what to ask. None: the settings' live store, or what is published while that is
            away, and then `degraded` says so.
        as_of_us: microseconds UTC; the store's own time when None.

    Raises:
        UnknownFeatureError: no view defines a feature.
        ContractError: a row or the time is not allowed, or the store has other definitions.
        StoreUnavailableError: the given `store` does not answer.
    """
    if store is None:
        settings = Settings()
        store = fallback(settings.live_store, settings.online_path)
    return store.fetch(features, entity_rows, as_of_us)
