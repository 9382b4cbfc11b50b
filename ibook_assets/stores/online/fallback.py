"""Features while the live store is away: the newest snapshot, else the order alone, labelled."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from ibook_assets.core.errors import NotFoundError, StoreUnavailableError
from ibook_assets.core.features.catalog import resolve
from ibook_assets.core.features.kernel import MISSING
from ibook_assets.core.features.plan import plan_features
from ibook_assets.core.features.point import NO_ENTITY, PointPlan
from ibook_assets.core.features.requests import Request, check_columns, request_integers
from ibook_assets.core.features.transforms import TRANSFORMS
from ibook_assets.stores.online.live import LiveStore
from ibook_assets.stores.online.opening import open_live
from ibook_assets.stores.online.reading import OnlineFeatures
from ibook_assets.stores.online.snapshot import OnlineStore

PUBLISHED_SNAPSHOT: Final = "published_snapshot"
"""The live store was away, or empty: history ends with the newest published snapshot."""

ONLINE_STORE_UNAVAILABLE: Final = "online_store_unavailable"
"""No history at all: what needs it is NaN."""

RETRY_SECONDS: Final = 1.0
"""How long a live store that did not answer is not asked again."""


ANSWER_SECONDS: Final = 0.5
"""How long a live store may take before the answer comes from elsewhere."""


class RowsOnly:
    """Features of the requests themselves; what needs history is NaN."""

    def __init__(self) -> None:
        self._points: dict[tuple[str, ...], PointPlan] = {}

    def fetch(
        self, features: Sequence[str], rows: Sequence[Request], as_of_us: int | None = None
    ) -> OnlineFeatures:
        """The `features` of `rows`, by the point query with no entity known.

        Without `as_of_us`, clock features of a row without `known_ts` are NaN.
        """
        names = tuple(features)
        if names not in self._points:
            self._points[names] = PointPlan.of(plan_features([resolve(name) for name in names]))
        point = self._points[names]
        operands = point.plan.row_operands
        check_columns(rows)
        if as_of_us is not None:
            rows = [{"known_ts": as_of_us, **row} for row in rows]
        values = request_integers(rows, [column for column, _ in operands])
        requests = [
            [
                MISSING if value < 0 else TRANSFORMS[how](value)
                for value, (_, how) in zip(row, operands, strict=True)
            ]
            for row in values
        ]
        places = np.zeros((len(rows), len(point.plan.groups), 2), np.int64)
        places[:, :, 1] = NO_ENTITY
        found = point.answer(
            np.empty(0, np.int64),
            places,
            np.zeros(len(rows), np.int64),
            np.array(requests, np.int64).reshape(len(rows), len(operands)),
        )
        unknown = ((),) * len(rows)
        return OnlineFeatures(found, unknown, as_of_us or 0, "", (ONLINE_STORE_UNAVAILABLE,))


class Fallback:
    """Reads the live store; while it is away or empty, the newest snapshot; else the rows alone.

    An answer that is worse than the live store's says so in `degraded`. Definitions that do not
    match and rows that are not allowed are errors as ever.
    """

    def __init__(
        self,
        address: str,
        snapshots: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        """A reader of the live store at `address` and of what is published below `snapshots`."""
        self._address = address
        self._root = snapshots
        self._clock = clock
        self._retry_seconds = retry_seconds
        self._away_until = -float("inf")
        self._live: LiveStore | None = None
        self._published: OnlineStore | None = None
        self._rows_only = RowsOnly()

    def fetch(
        self, features: Sequence[str], rows: Sequence[Request], as_of_us: int | None = None
    ) -> OnlineFeatures:
        """See LiveStore.fetch; degraded instead of StoreUnavailableError."""
        if self._clock() >= self._away_until:
            try:
                if self._live is None:
                    self._live = open_live(self._address, timeout_seconds=ANSWER_SECONDS)
                return self._live.fetch(features, rows, as_of_us)
            except (StoreUnavailableError, NotFoundError):
                self._away_until = self._clock() + self._retry_seconds
        try:
            if self._published is None:
                self._published = OnlineStore.open(self._root)
            found = self._published.fetch(features, rows, as_of_us)
        except (StoreUnavailableError, NotFoundError):
            return self._rows_only.fetch(features, rows, as_of_us)
        degraded = (PUBLISHED_SNAPSHOT,)
        return OnlineFeatures(
            found.values, found.unknown, found.as_of_us, found.snapshot_id, degraded
        )


@functools.cache
def fallback(address: str, snapshots: Path) -> Fallback:
    """The reader of these places that this process shares, with all it remembers."""
    return Fallback(address, snapshots)
