"""Features from the live store: its own values, and what stands in for it when it is away."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import redis

from ibook_assets.core.errors import StoreUnavailableError
from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.features.requests import Request
from ibook_assets.core.settings import OnlineSource, Settings
from ibook_assets.core.times import HOUR_US
from ibook_assets.core.use_cases import FRAUD
from ibook_assets.models.bundle import ModelBundle
from ibook_assets.stores.online import (
    ONLINE_STORE_UNAVAILABLE,
    PUBLISHED_SNAPSHOT,
    LiveStore,
    OnlineFeatures,
    Progress,
    open_live,
)
from ibook_assets.stores.online.format import PROGRESS_KEY
from ibook_assets.stores.online.redis_pipe import RedisPipe
from ibook_serving.http.decode import PREDICT, Row, decode_body, order_row
from ibook_serving.scoring.history import LIVE_STORE, OnlineHistory, PublishedHistory, open_history
from ibook_serving.scoring.ports import Fetched
from tests.services.redis_server import RedisService
from tests.serving.harness import ORDER, eventually, promote, running
from tests.serving.history import AS_OF_US, fill_live, history_facts, later, orders, publish_history
from tests.serving.test_metrics import metric
from tests.stores.online.live_worlds import applied, apply, publish, put


@pytest.fixture(params=["lmdb", "redis", "redis_socket"])
def live_address(request: pytest.FixtureRequest, settings: Settings) -> str:
    """Address of an empty live store of each kind."""
    if request.param == "lmdb":
        return settings.live_store
    service: RedisService = request.getfixturevalue("redis_service")
    return service.url if request.param == "redis" else service.socket_url


@pytest.fixture
def live(live_address: str) -> Iterator[LiveStore]:
    """The writer's end of it."""
    store = open_live(live_address)
    yield store
    store.close()


def rows(count: int = 30) -> list[Row]:
    """Decoded orders of known and unknown users."""
    decoded = decode_body(msgspec.json.encode({"requests": orders(count)}), PREDICT).requests
    return [order_row(order, path="$", now_us=0) for order in decoded]


Ask = Callable[[OnlineHistory, Executor], Coroutine[Any, Any, Any]]


def serving(
    settings: Settings,
    address: str,
    ask: Ask,
    *,
    source: OnlineSource = "auto",
    timeout_ms: int = 2_000,
) -> Any:
    """What `ask` gets from a history that has looked at its stores once."""

    async def run() -> object:
        history = open_history(
            address, settings.online_path, FRAUD.features, source=source, timeout_ms=timeout_ms
        )
        with ThreadPoolExecutor(1) as executor:
            await history.refresh(executor, force=False)
            try:
                return await ask(history, executor)
            finally:
                await history.close()

    return asyncio.run(run())


async def fetch(history: OnlineHistory, _executor: Executor) -> Fetched:
    return await history.fetch(FRAUD.features, rows())


def assert_equal(found: Fetched, expected: OnlineFeatures) -> None:
    assert found.values.tobytes() == expected.values.tobytes()
    assert tuple(found.unknown) == expected.unknown
    assert (found.as_of_us, found.store) == (expected.as_of_us, expected.snapshot_id)


def test_values_are_the_stores_own_bit_for_bit(
    settings: Settings, live_address: str, live: LiveStore
) -> None:
    fill_live(live)
    expected = live.fetch(FRAUD.features, rows())
    assert np.isfinite(expected.values).any(axis=0).mean() > 0.9, "history reaches the features"
    found: Fetched = serving(settings, live_address, fetch)
    assert_equal(found, expected)
    assert found.degraded == ()
    assert Progress.decode(found.positions) == live.progress()


def test_ticks_that_overlap_get_their_own_answers(
    settings: Settings, live_address: str, live: LiveStore
) -> None:
    fill_live(live)
    each = [[row] for row in rows()]

    async def ask(history: OnlineHistory, _executor: Executor) -> list[Fetched]:
        return await asyncio.gather(*(history.fetch(FRAUD.features, one) for one in each))

    for found, one in zip(serving(settings, live_address, ask), each, strict=True):
        assert_equal(found, live.fetch(FRAUD.features, one))


def test_commits_and_new_generations_show_at_once(
    settings: Settings, live_address: str, live: LiveStore
) -> None:
    fill_live(live)

    async def ask(history: OnlineHistory, executor: Executor) -> None:
        await fetch(history, executor)
        sources, _ = history_facts(as_of_us=later(2), seed=4)
        apply(live, sources, later(2))
        assert_equal(await fetch(history, executor), live.fetch(FRAUD.features, rows()))
        fill_live(live, as_of_us=later(3), seed=5)
        found = await fetch(history, executor)
        assert_equal(found, live.fetch(FRAUD.features, rows()))
        assert found.as_of_us == later(3)
        await history.refresh(executor, force=False)
        assert history.as_of_us == later(3)

    serving(settings, live_address, ask)


def test_who_does_not_stream_reads_the_snapshot_and_nothing_is_missing(
    settings: Settings, live_address: str
) -> None:
    published = publish_history(settings)
    found: Fetched = serving(settings, live_address, fetch)
    assert (found.store, found.degraded) == (published.snapshot_id, ())
    assert not Path(settings.live_store).exists(), "looking makes no store"


@pytest.mark.parametrize("ahead_us", [-HOUR_US, HOUR_US], ids=["behind", "ahead"])
def test_the_fresher_of_the_two_is_read(
    settings: Settings, live_address: str, live: LiveStore, ahead_us: int
) -> None:
    publish_history(settings)
    fill_live(live, as_of_us=AS_OF_US + ahead_us)

    async def ask(history: OnlineHistory, executor: Executor) -> None:
        found = await fetch(history, executor)
        assert found.degraded == ()
        assert found.as_of_us == history.as_of_us == max(AS_OF_US, AS_OF_US + ahead_us)
        assert found.store == history.store
        assert str(found.store).startswith("live-") == (ahead_us > 0)
        # A worker that catches up is read from the next look on.
        put(live, {PROGRESS_KEY: applied(live, later(2))})
        await history.refresh(executor, force=False)
        assert (await fetch(history, executor)).as_of_us == later(2)

    serving(settings, live_address, ask)


def test_a_live_store_that_must_be_there_and_is_empty_degrades(
    settings: Settings, live_address: str
) -> None:
    alone: Fetched = serving(settings, live_address, fetch, source="live")
    assert (alone.store, alone.as_of_us) == (None, None)
    assert alone.degraded == (ONLINE_STORE_UNAVAILABLE,)
    published = publish_history(settings)
    found: Fetched = serving(settings, live_address, fetch, source="live")
    assert (found.store, found.degraded) == (published.snapshot_id, (PUBLISHED_SNAPSHOT,))


def test_only_the_snapshot_is_read_when_that_is_set_up(
    settings: Settings, live_address: str, live: LiveStore
) -> None:
    published = publish_history(settings)
    fill_live(live, as_of_us=later(1))
    found: Fetched = serving(settings, live_address, fetch, source="snapshot")
    assert (found.store, found.degraded) == (published.snapshot_id, ())


def test_other_definitions_are_refused_not_read(
    settings: Settings, live_address: str, live: LiveStore
) -> None:
    published = publish_history(settings)

    async def ask(history: OnlineHistory, executor: Executor) -> None:
        publish(live, base_us=later(2), views=FEATURE_VIEWS[1:])
        # The request that meets them first is answered from elsewhere, too.
        for _ in range(2):
            found = await fetch(history, executor)
            assert (found.store, found.degraded) == (published.snapshot_id, (PUBLISHED_SNAPSHOT,))
        await history.refresh(executor, force=False)
        (refusal,) = history.refusals
        assert refusal.what == LIVE_STORE
        assert "ibook stream backfill" in refusal.reason
        assert live_address not in refusal.reason
        fill_live(live, as_of_us=later(3))
        await history.refresh(executor, force=False)
        assert history.refusals == ()
        assert (await fetch(history, executor)).as_of_us == later(3)

    fill_live(live, as_of_us=later(1))
    serving(settings, live_address, ask)


def test_a_folder_that_vanishes_degrades_and_comes_back(settings: Settings) -> None:
    published = publish_history(settings)
    folder = Path(settings.live_store)
    store = open_live(str(folder))
    fill_live(store, as_of_us=later(1))
    store.close()

    async def ask(history: OnlineHistory, executor: Executor) -> None:
        assert (await fetch(history, executor)).as_of_us == later(1)
        shutil.rmtree(folder)
        await history.refresh(executor, force=False)
        found = await fetch(history, executor)
        assert (found.store, found.degraded) == (published.snapshot_id, (PUBLISHED_SNAPSHOT,))
        again = open_live(str(folder))
        fill_live(again, as_of_us=later(2))
        again.close()
        await history.refresh(executor, force=True)
        found = await fetch(history, executor)
        assert (found.as_of_us, found.degraded) == (later(2), ())

    serving(settings, str(folder), ask)


@pytest.mark.parametrize("how", ["refused", "frozen"])
def test_redis_away_costs_one_deadline_and_comes_back_by_itself(
    settings: Settings, durable_redis: RedisService, how: str
) -> None:
    published = publish_history(settings)
    store = open_live(durable_redis.url)
    fill_live(store, as_of_us=later(1))
    store.close()

    async def ask(history: OnlineHistory, executor: Executor) -> None:
        assert (await fetch(history, executor)).degraded == ()
        (durable_redis.kill if how == "refused" else durable_redis.pause)()
        together = [fetch(history, executor) for _ in range(20)]
        for found in [*await asyncio.gather(*together), await fetch(history, executor)]:
            assert (found.store, found.degraded) == (published.snapshot_id, (PUBLISHED_SNAPSHOT,))
        assert (history.breaker.state, history.breaker.opened) == ("open", 1)
        assert history.as_of_us == AS_OF_US
        (durable_redis.start if how == "refused" else durable_redis.resume)()
        await history.refresh(executor, force=True)
        assert history.breaker.closed
        found = await fetch(history, executor)
        assert (found.as_of_us, found.degraded) == (later(1), ())

    serving(settings, durable_redis.url, ask, timeout_ms=300)


def test_a_server_that_is_away_from_the_start_counts_as_away(settings: Settings) -> None:
    published = publish_history(settings)
    found: Fetched = serving(settings, "redis://127.0.0.1:1/0", fetch)
    assert (found.store, found.degraded) == (published.snapshot_id, (PUBLISHED_SNAPSHOT,))


class Silent:
    """A live store that never answers, and counts who asked."""

    address = "nowhere"

    def __init__(self) -> None:
        self.asked = 0

    async def open(self, executor: Executor) -> None:
        """Nothing to do."""

    async def fetch(self, features: Sequence[str], rows: Sequence[Request]) -> OnlineFeatures:
        """Counts and fails."""
        del features, rows
        self.asked += 1
        raise StoreUnavailableError(self.address)

    async def close(self) -> None:
        """Nothing to do."""


def test_an_open_breaker_keeps_requests_away_from_the_store(settings: Settings) -> None:
    silent = Silent()

    async def run() -> None:
        published = PublishedHistory(settings.online_path, FRAUD.features)
        history = OnlineHistory(published, silent, FRAUD.features, source="live", expected=True)
        for _ in range(20):
            found = await history.fetch(FRAUD.features, rows(1))
            assert found.degraded == (ONLINE_STORE_UNAVAILABLE,)
        with ThreadPoolExecutor(1) as executor:
            for _ in range(20):
                await history.refresh(executor, force=False)
        assert silent.asked == 1

    asyncio.run(run())


def test_a_loop_that_was_held_up_does_not_blame_redis(redis_url: str) -> None:
    async def run() -> object:
        pipe = await RedisPipe.connect(redis_url, "redis", timeout_seconds=5)
        answer = asyncio.create_task(pipe.ask(("PING",), timeout_seconds=0.05))
        await asyncio.sleep(0)
        time.sleep(0.2)  # noqa: ASYNC251 - this is what is tested
        try:
            return await answer
        finally:
            pipe.close()

    assert asyncio.run(run()) == b"PONG"


def test_redis_is_signed_into_and_passwords_stay_secret(redis_service: RedisService) -> None:
    with redis.Redis.from_url(redis_service.url) as client:
        client.acl_setuser(
            "ibook", enabled=True, passwords=["+s3cret"], keys=["*"], commands=["+@all"]
        )
        url = f"redis://ibook:{{}}@{redis_service.address}/0"

        async def who(password: str) -> object:
            pipe = await RedisPipe.connect(url.format(password), "redis", timeout_seconds=5)
            try:
                return await pipe.ask(("ACL", "WHOAMI"), timeout_seconds=5)
            finally:
                pipe.close()

        try:
            assert asyncio.run(who("s3cret")) == b"ibook"
            with pytest.raises(StoreUnavailableError, match="WRONGPASS") as refused:
                asyncio.run(who("wr0ng"))
            assert "wr0ng" not in str(refused.value)
        finally:
            client.acl_deluser("ibook")


def test_an_error_of_redis_is_told(redis_url: str) -> None:
    async def run() -> None:
        pipe = await RedisPipe.connect(redis_url, "redis", timeout_seconds=5)
        with pytest.raises(StoreUnavailableError, match="unknown command"):
            await pipe.ask(("NONSENSE",), timeout_seconds=5)
        assert await pipe.ask(("PING",), timeout_seconds=5) == b"PONG"
        pipe.close()
        with pytest.raises(StoreUnavailableError, match="closed"):
            await pipe.ask(("PING",), timeout_seconds=5)

    asyncio.run(run())


def test_an_outage_is_counted_and_the_breaker_shows(
    settings: Settings, bundle: ModelBundle
) -> None:
    promote(settings, bundle)
    publish_history(settings)
    with running(settings, environment={"IBOOK_ONLINE_URL": "redis://127.0.0.1:1/0"}) as server:
        (prediction,) = server.predict(ORDER)
        assert prediction["degraded"] == [PUBLISHED_SNAPSHOT]
        counted = metric(server, "ibook_degraded_predictions_total", reason=PUBLISHED_SNAPSHOT)
        assert counted == 1
        eventually(
            lambda: metric(server, "ibook_breaker_state", dependency=LIVE_STORE) >= 1,
            what="an open or half-open breaker in the metrics",
        )
        assert metric(server, "ibook_breaker_opened", dependency=LIVE_STORE) >= 1
