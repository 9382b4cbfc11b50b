"""Features of an order: from the live store, a published snapshot, or the order alone.

Each stands in for the one before it. What is worse than what is set up says so in `degraded`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ibook_assets.core.errors import ContractError, NotFoundError, StoreUnavailableError
from ibook_assets.core.settings import OnlineSource
from ibook_assets.stores.online import (
    PUBLISHED_SNAPSHOT,
    OnlineSnapshot,
    RowsOnly,
    current_snapshot_id,
    fetch_online_features,
)
from ibook_assets.stores.online.fallback import RETRY_SECONDS
from ibook_assets.stores.online.live_reading import LiveReading, open_reading
from ibook_assets.stores.online.opening import is_server
from ibook_serving.api import Refusal
from ibook_serving.http.decode import Row
from ibook_serving.scoring.breaker import Breaker
from ibook_serving.scoring.following import Follower, Publication
from ibook_serving.scoring.ports import Fetched

LIVE_STORE: Final = "live_store"
"""What `/readyz` calls a live store that was refused."""

_NOBODY: Final[Row] = {"user_id": 0, "event_id": 0, "amount_cents": 0}

_log = logging.getLogger(__name__)


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
        fetch_online_features(self._features, [_NOBODY], snapshot)
        return snapshot


class OnlineHistory:
    """The live store, and the published snapshot when there is none, or while it is away.

    A live store that failed once is left alone until the next look at it, which no request waits
    for: a request meets a deadline only in the moment of the failure.
    """

    def __init__(
        self,
        published: PublishedHistory,
        live: LiveReading,
        features: Sequence[str],
        *,
        source: OnlineSource,
        expected: bool,
    ) -> None:
        """A source that has not looked at anything yet.

        Args:
            published: what stands in for the live store.
            live: the live store.
            features: features of the use case; the live store must define them all as this code.
            source: which of the two is set up.
            expected: with the source `auto`, whether a live store that was never reached counts
                as away rather than as never begun.
        """
        self._published = published
        self._live = live
        self._features = tuple(features)
        self._source = source
        self._wants_live = source == "live" or (source == "auto" and expected)
        self._watermark_us: int | None = None
        self._name: str | None = None
        self._refusal: Refusal | None = None
        self._complained = False
        self.breaker: Final = Breaker(retry_seconds=RETRY_SECONDS, clock=time.monotonic)

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """The snapshot and the live store that were not taken, if any."""
        own = () if self._refusal is None else (self._refusal,)
        return (*own, *self._published.refusals)

    @property
    def as_of_us(self) -> int | None:
        """The watermark, or the time of the snapshot that stands in for it."""
        return self._watermark_us if self._reads_live else self._published.as_of_us

    @property
    def store(self) -> str | None:
        """Generation and version of the live store, or the snapshot's name."""
        return self._name if self._reads_live else self._published.store

    @property
    def breakers(self) -> Mapping[str, Breaker]:
        """The live store's."""
        return {LIVE_STORE: self.breaker}

    @property
    def _reads_live(self) -> bool:
        return self._wants_live and self._refusal is None and self.breaker.closed

    async def refresh(self, executor: Executor, *, force: bool) -> None:
        """Load the newest snapshot, and see how the live store is."""
        await self._published.refresh(executor, force=force)
        if self._source == "snapshot" or not (self.breaker.allows() or force):
            return
        try:
            await self._live.open(executor)
            found = await self._live.fetch(self._features, [_NOBODY])
        except NotFoundError as error:
            self._refusal = None
            self._empty(error)
        except StoreUnavailableError as error:
            self._failed(error)
        except ContractError as error:
            self.breaker.succeeded()
            self._refuse(error)
        else:
            self._recovered(found.as_of_us, found.snapshot_id)

    async def fetch(self, features: Sequence[str], rows: Sequence[Row]) -> Fetched:
        """The `features` of `rows`; windows end at the watermark, or where history does."""
        if self._reads_live:
            try:
                found = await self._live.fetch(features, rows)
            except (StoreUnavailableError, NotFoundError) as error:
                self._failed(error)
            except ContractError as error:
                self._refuse(error)
            else:
                return Fetched(
                    found.values, found.unknown, found.as_of_us, found.snapshot_id, found.positions
                )
        instead = await self._published.fetch(features, rows)
        if self._wants_live and not instead.degraded:
            return replace(instead, degraded=(PUBLISHED_SNAPSHOT,))
        return instead

    async def close(self) -> None:
        """Let go of the live store."""
        await self._live.close()
        await self._published.close()

    def _recovered(self, watermark_us: int, name: str) -> None:
        self.breaker.succeeded()
        self._refusal = None
        self._watermark_us, self._name = watermark_us, name
        if self._source == "auto":
            published_us = self._published.as_of_us
            self._wants_live = published_us is None or watermark_us >= published_us
        if self._complained:
            self._complained = False
            _log.info("the live store answers again", extra={"store": self._live.address})

    def _empty(self, error: NotFoundError) -> None:
        if self._source == "auto" and self._watermark_us is None:
            # Nobody streams, or the stream has not begun: what batch publishes is all there is.
            self._wants_live = False
            self.breaker.succeeded()
        else:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self.breaker.failed()
        if not self._complained:
            self._complained = True
            _log.error(
                "the live store is away; features come from elsewhere",
                extra={"store": self._live.address, "reason": str(error)},
            )

    def _refuse(self, error: ContractError) -> None:
        reason = str(error).replace(self._live.address, "…")
        if self._refusal is not None and self._refusal.reason == reason:
            return
        self._refusal = Refusal(
            what=LIVE_STORE,
            name=self._name or "unknown",
            reason=reason,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        _log.error("refused", extra={"what": LIVE_STORE, "reason": reason})


def open_history(
    live: str, snapshots: Path, features: Sequence[str], *, source: OnlineSource, timeout_ms: int
) -> OnlineHistory:
    """What answers with `features` out of the live store at `live` and the `snapshots`."""
    return OnlineHistory(
        PublishedHistory(snapshots, features),
        open_reading(live, timeout_seconds=timeout_ms / 1_000),
        features,
        source=source,
        # Nobody names a server that is not meant to be there; a folder is there by default.
        expected=is_server(live),
    )
