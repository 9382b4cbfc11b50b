"""Live stores under faults: killed writers, stopped servers, full files, long silence."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from ibook_assets.core.errors import ContractError, NotFoundError, StoreUnavailableError
from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.features.plan import layouts_of
from ibook_assets.core.features.spec import SOURCES
from ibook_assets.stores import boots
from ibook_assets.stores.online import (
    ONLINE_STORE_UNAVAILABLE,
    PUBLISHED_SNAPSHOT,
    Fallback,
    OnlineWriter,
    fetch_online_features,
    lmdb_live,
    open_live,
)
from ibook_assets.stores.online.live import LiveStore, Write
from ibook_assets.stores.online.lmdb_live import LmdbLiveStore
from ibook_assets.stores.online.redis_live import EXPIRY_GRACE_US, RedisLiveStore
from tests.core.features.worlds import BASE_US
from tests.services.redis_server import RedisService
from tests.stores.online.live_worlds import publish, put

COUNT = "user_realtime_fraud_features:order_count_1h"
AMOUNT = "order_context:amount"
ROW = {"user_id": 1, "amount_cents": 700}

KEYS = [b"%d" % k for k in range(40)]

WRITER = """
import sys
from ibook_assets.stores.online.opening import open_live
from ibook_assets.stores.online.live import Write
store = open_live(sys.argv[1])
keys = [b"%d" % k for k in range(40)]
while True:
    reading = store.read(keys)
    number = int(reading.values[0][-8:]) + 1
    # Half of them get a new tail only, half of them everything; some need pages of their own.
    writes = {
        key: Write(b"%08d" % number, 3_000) if k % 2 else Write(bytes(3_000) + b"%08d" % number)
        for k, key in enumerate(keys)
    }
    if store.commit(reading.version, writes):
        print(number, flush=True)
"""


@contextmanager
def writer(address: str) -> Iterator[subprocess.Popen[str]]:
    """A process that commits all the time, until it is killed here."""
    command = [sys.executable, "-c", WRITER, address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_writer_killed_at_any_moment_leaves_old_or_new(
    live: LiveStore, live_address: str
) -> None:
    publish(live, [(key, bytes(3_000) + b"%08d" % 0, None) for key in KEYS])
    moments = random.Random(7)
    committed = 0
    for _ in range(5):
        with writer(live_address) as process:
            assert process.stdout is not None
            committed = int(process.stdout.readline())
            time.sleep(moments.random() / 20)
            process.kill()
            committed = max([committed, *map(int, process.stdout)])
        found = {value[-8:] for value in live.read(KEYS).values if value is not None}
        assert len(found) == 1
        # What was acknowledged is there; one more may be whose acknowledgement was lost.
        assert int(found.pop()) in {committed, committed + 1}
        assert all(value and len(value) == 3_008 for value in live.read(KEYS).values)


@pytest.fixture
def impatient(redis_service: RedisService) -> Iterator[RedisLiveStore]:
    """A Redis store that waits only briefly."""
    store = RedisLiveStore(redis_service.url, timeout_seconds=0.3)
    yield store
    store.close()


def test_a_stopped_redis_is_an_error_and_then_works_again(
    redis_service: RedisService, impatient: RedisLiveStore
) -> None:
    publish(impatient, [(b"a", b"1", None)])
    version = impatient.read([]).version
    redis_service.pause()
    with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1.*does not answer as it should"):
        impatient.read([b"a"])
    with pytest.raises(StoreUnavailableError):
        impatient.commit(version, {b"a": Write(b"2")})
    redis_service.resume()
    # The commit that nobody heard of was made or not; a second one on its version cannot be.
    after = impatient.read([b"a"])
    assert (after.version == version) == (after.values == [b"1"])
    assert impatient.commit(after.version, {b"a": Write(b"3")})
    assert not impatient.commit(after.version, {b"a": Write(b"4")})


def test_a_restarted_redis_keeps_what_it_acknowledged(durable_redis: RedisService) -> None:
    store = RedisLiveStore(durable_redis.url, timeout_seconds=0.3)
    publish(store, [(b"a", b"1", None)])
    assert put(store, {b"a": b"2"})
    version = store.read([]).version
    durable_redis.kill()
    with pytest.raises(StoreUnavailableError):
        store.read([b"a"])
    durable_redis.start()
    assert store.read([b"a"]).values == [b"2"]
    assert store.commit(version, {b"a": Write(b"3")})
    store.close()


def test_a_connection_that_redis_closed_is_opened_again(
    redis_service: RedisService, impatient: RedisLiveStore
) -> None:
    publish(impatient, [(b"a", b"1", None)])
    with redis.Redis.from_url(redis_service.url) as client:
        client.client_kill_filter(_type="normal", skipme=True)
    assert impatient.read([b"a"]).values == [b"1"]


def test_the_unix_socket_serves_too(redis_service: RedisService) -> None:
    store = open_live(redis_service.socket_url)
    publish(store, [(b"a", b"1", None)])
    assert store.read([b"a"]).values == [b"1"]
    assert store.address == f"unix://{redis_service.socket}"
    store.close()


def test_credentials_stay_out_of_messages() -> None:
    credentials = "user:secret"
    store = RedisLiveStore(f"redis://{credentials}@127.0.0.1:1/0", timeout_seconds=0.3)
    with pytest.raises(StoreUnavailableError) as caught:
        store.read([])
    assert "secret" not in str(caught.value)
    assert "redis://127.0.0.1:1" in str(caught.value)


def test_after_too_long_a_silence_a_commit_is_refused(
    redis_service: RedisService, impatient: RedisLiveStore
) -> None:
    publish(impatient)
    with redis.Redis.from_url(redis_service.url) as client:
        client.decrby("ib:written", EXPIRY_GRACE_US // 1_000_000 + 60)
    with pytest.raises(ContractError, match=r"may have expired; run `ibook stream backfill`"):
        put(impatient, {b"a": b"1"})
    publish(impatient)
    assert put(impatient, {b"a": b"1"})


def test_keys_expire_in_redis_by_the_time_their_data_have_left(
    redis_service: RedisService, impatient: RedisLiveStore
) -> None:
    publish(impatient, [(b"a", b"1", 5_000_000), (b"b", b"1", None)], base_us=2_000_000)
    assert put(impatient, {b"c": Write(b"1", 0, 1_000_000), b"a": Write(b"2", 1, 7_000_000)})
    with redis.Redis.from_url(redis_service.url) as client:
        left = [client.pttl(b"ib1:" + key) for key in (b"a", b"b", b"c")]
    grace_ms = EXPIRY_GRACE_US // 1_000
    assert grace_ms < left[0] <= grace_ms + 5_000  # 7 s - 2 s
    assert left[1] == -1
    assert 0 < left[2] <= grace_ms  # already over: only the grace is left


def test_a_redis_that_would_evict_is_refused(
    redis_service: RedisService, impatient: RedisLiveStore
) -> None:
    with redis.Redis.from_url(redis_service.url) as client:
        try:
            client.config_set("maxmemory", 1 << 30)
            client.config_set("maxmemory-policy", "allkeys-lru")
            with pytest.raises(ContractError, match="maxmemory-policy allkeys-lru"):
                publish(impatient)
        finally:
            client.config_set("maxmemory", 0)
            client.config_set("maxmemory-policy", "noeviction")


def test_a_full_redis_is_an_error_and_keeps_what_it_has(
    redis_service: RedisService, impatient: RedisLiveStore
) -> None:
    publish(impatient, [(b"a", b"1", None)])
    with redis.Redis.from_url(redis_service.url) as client:
        try:
            client.config_set("maxmemory", 1)
            with pytest.raises(StoreUnavailableError, match="maxmemory"):
                put(impatient, {b"a": b"2"})
        finally:
            client.config_set("maxmemory", 0)
    assert impatient.read([b"a"]).values == [b"1"]


def test_a_full_lmdb_is_an_error_and_keeps_what_it_has(tmp_path: Path) -> None:
    store = LmdbLiveStore(tmp_path, 1 << 18)
    publish(store, [(b"a", b"1", None)])
    with pytest.raises(StoreUnavailableError, match="has reached 262144 bytes"):
        put(store, {b"a": b"2", b"b": bytes(1 << 19)})
    assert store.read([b"a", b"b"]).values == [b"1", None]
    assert put(store, {b"a": b"3"})


def test_a_writer_that_hangs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LmdbLiveStore(tmp_path)
    publish(store, [(b"a", b"1", None)])
    code = (
        "import fcntl, sys; file = open(sys.argv[1]); fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "writing")]
    monkeypatch.setattr(lmdb_live, "_LOCK_SECONDS", 0.2)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(StoreUnavailableError, match="another process has been writing"):
            put(store, {b"a": b"2"})
        assert store.read([b"a"]).values == [b"1"]
        os.kill(holder.pid, signal.SIGKILL)
    assert put(store, {b"a": b"3"})


def test_a_power_cut_under_a_writer_empties_the_store_and_a_clean_end_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def restart(number: int) -> LmdbLiveStore:
        (tmp_path / "boot_id").write_text(f"boot {number}")
        return LmdbLiveStore(tmp_path / "live")

    monkeypatch.setattr(boots, "_BOOT_ID", tmp_path / "boot_id")
    store = restart(1)
    publish(store, [(b"a", b"1", None)])
    store.close()
    store = restart(2)
    assert store.read([b"a"]).values == [b"1"]
    assert put(store, {b"a": b"2"})
    # Not closed: the machine goes down here.
    del store
    store = restart(3)
    with pytest.raises(NotFoundError, match="is empty; run `ibook stream backfill`"):
        store.read([b"a"])
    publish(store, [(b"a", b"3", None)])
    # Only the process ends, the machine does not.
    del store
    assert restart(3).read([b"a"]).values == [b"3"]


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailableError, match="cannot use the live store"):
        open_live(str(tmp_path / "file"))


def degraded_by(reader: Fallback) -> tuple[Any, ...]:
    found = fetch_online_features([COUNT, AMOUNT], [ROW], reader)
    return (*found.degraded, *found.values[0].tolist())


def test_without_an_answer_the_snapshot_serves_then_the_row_alone(
    redis_service: RedisService, tmp_path: Path
) -> None:
    now = [0.0]
    reader = Fallback(redis_service.url, tmp_path, clock=lambda: now[0])
    nothing = degraded_by(reader)
    assert nothing[0] == ONLINE_STORE_UNAVAILABLE
    assert np.isnan(nothing[1])
    assert nothing[2] == 700
    OnlineWriter(tmp_path).publish(dict.fromkeys(SOURCES), None, as_of_us=BASE_US)
    assert degraded_by(reader)[0] == PUBLISHED_SNAPSHOT
    store = open_live(redis_service.url)
    publish(store, base_us=BASE_US)
    # Not asked again before a second has passed, then as good as new.
    assert degraded_by(reader)[0] == PUBLISHED_SNAPSHOT
    now[0] += 1.5
    assert degraded_by(reader) == (0, 700)
    redis_service.kill()
    assert degraded_by(reader)[0] == PUBLISHED_SNAPSHOT
    with pytest.raises(StoreUnavailableError):
        fetch_online_features([COUNT], [ROW], store)
    redis_service.start()
    publish(store, base_us=BASE_US)
    now[0] += 1.5
    assert degraded_by(reader) == (0, 700)
    store.close()


def test_the_settings_name_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IBOOK_HOME", str(tmp_path))
    monkeypatch.setenv("IBOOK_ONLINE_URL", str(tmp_path / "live"))
    features = ["event_realtime_metrics:current_inventory"]
    found = fetch_online_features(features=features, entity_rows=[{"event_id": 1}])
    assert found.degraded == (ONLINE_STORE_UNAVAILABLE,)
    hashes = {view.name: view.spec_hash for view in FEATURE_VIEWS}
    store = open_live(str(tmp_path / "live"))
    generation = store.begin_generation(layouts_of(FEATURE_VIEWS), hashes, 5)
    store.publish_generation(generation)
    assert fetch_online_features(features, [{"event_id": 1}], store).as_of_us == 5
