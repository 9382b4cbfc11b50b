"""The live store in Redis: one MGET reads, one script commits.

```
ib:version ib:current ib:numbers   version, published generation, last number given out
ib:written                         when somebody committed last (seconds)
ib<generation>:<key>               value, with Redis's own expiry
```

Redis expires by its clock, data by theirs: a key lives as long as its data have left at the moment
of the commit, and EXPIRY_GRACE_US more. While nobody commits for up to that long, nothing that
counts can expire; after it a commit is refused, because what is missing would be missing silently.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ibook_assets.core.errors import (
    ConflictError,
    ContractError,
    NotFoundError,
    StoreUnavailableError,
)
from ibook_assets.core.features.plan import Layout
from ibook_assets.core.times import DAY_US
from ibook_assets.stores.online.format import META_KEY, PROGRESS_KEY
from ibook_assets.stores.online.live import (
    BACKFILL,
    Entry,
    LiveStore,
    Reading,
    Write,
    first_entries,
    progress_of,
)

EXPIRY_GRACE_US: Final = DAY_US
"""How much longer than its data need a key lives, and so how long writers may pause."""

VERSION_KEY: Final = b"ib:version"
CURRENT_KEY: Final = b"ib:current"
_NUMBERS: Final = b"ib:numbers"
_WRITTEN: Final = b"ib:written"
_GENERATION: Final = re.compile(rb"^ib(\d+):")

_CHUNK: Final = 1_000

# Everything is looked at before anything is written: a script is not rolled back. No number is
# compared as a number, because Lua's would round it.
_COMMIT: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local now = tonumber(redis.call('TIME')[1])
local written = tonumber(redis.call('GET', KEYS[2]) or now)
if now - written > tonumber(ARGV[3]) then return -1 end
for i = 3, #KEYS do
  local offset = tonumber(ARGV[3 * i - 5])
  if offset > 0 and redis.call('STRLEN', KEYS[i]) < offset then return 0 end
end
for i = 3, #KEYS do
  local key, offset = KEYS[i], tonumber(ARGV[3 * i - 5])
  local ttl, data = ARGV[3 * i - 4], ARGV[3 * i - 3]
  if offset > 0 and redis.call('STRLEN', key) > offset + #data then
    data = redis.call('GETRANGE', key, 0, offset - 1) .. data
    offset = 0
  end
  if offset > 0 then
    redis.call('SETRANGE', key, offset, data)
    if ttl ~= '' then redis.call('PEXPIRE', key, ttl) else redis.call('PERSIST', key) end
  elseif ttl ~= '' then
    redis.call('SET', key, data, 'PX', ttl)
  else
    redis.call('SET', key, data)
  end
end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('SET', KEYS[2], now)
return 1
"""

# Versions start at the clock's microseconds, so that one is never met again, not even after
# everything was deleted.
_PUBLISH: Final = """
local current = tonumber(redis.call('GET', KEYS[2]) or 0)
if current >= tonumber(ARGV[1]) then return current end
local now = redis.call('TIME')
local version = now[1] * 1000000 + now[2]
version = math.max(version, tonumber(redis.call('GET', KEYS[1]) or 0) + 1)
redis.call('SET', KEYS[1], string.format('%.0f', version))
redis.call('SET', KEYS[2], ARGV[1])
redis.call('SET', KEYS[3], now[1])
return 0
"""


class RedisLiveStore(LiveStore):
    """A live store in a Redis of version 6.2 or later, not a cluster."""

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        """A store at `url` (`redis://host:port/db`, `unix:///socket`); connects when needed."""
        super().__init__(shown_address(url))
        self._generation = 0
        self._redis: Any = redis.Redis.from_url(
            url,
            protocol=2,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            # Once more at once, for a connection that Redis closed when it was restarted.
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        )
        self._commit = self._redis.register_script(_COMMIT)
        self._publish = self._redis.register_script(_PUBLISH)

    def read(self, keys: Sequence[bytes]) -> Reading:
        """See LiveStore.read."""
        while True:
            generation = self._generation
            prefix = generation_prefix(generation)
            with self._explained():
                version, current, *values = self._redis.mget(
                    [VERSION_KEY, CURRENT_KEY, *(prefix + key for key in keys)]
                )
            if current is None or version is None:
                msg = f"the live store {self.address} is empty; {BACKFILL}"
                raise NotFoundError(msg)
            if int(current) == generation:
                return Reading(int(version), values, generation)
            self._generation = int(current)

    def commit(self, version: int, writes: Mapping[bytes, Write]) -> bool:
        """See LiveStore.commit.

        Raises:
            ContractError: nobody committed for so long that what counts may have expired.
        """
        progress = writes.get(PROGRESS_KEY)
        # The version tells the generation: where ours is an old one, so is the version.
        now_us = self._clock_us() if progress is None else _now_us(progress.data)
        prefix = generation_prefix(self._generation)
        keys = [VERSION_KEY, _WRITTEN]
        arguments: list[int | str | bytes] = [version, version + 1, EXPIRY_GRACE_US // 1_000_000]
        for key, write in writes.items():
            keys.append(prefix + key)
            arguments += [write.offset, _ttl_ms(write.expires_us, now_us), write.data]
        with self._explained():
            answer = self._commit(keys=keys, args=arguments)
        if answer < 0:
            msg = (
                f"nobody wrote the live store {self.address} for more than "
                f"{EXPIRY_GRACE_US // 1_000_000} s, so what still counts may have expired; "
                f"{BACKFILL}"
            )
            raise ContractError(msg)
        return bool(answer)

    def _clock_us(self) -> int:
        return progress_of(self.read([PROGRESS_KEY]).values[0]).watermark_us

    def begin_generation(
        self, layouts: Sequence[Layout], spec_hashes: Mapping[str, str], base_us: int
    ) -> int:
        """See LiveStore.begin_generation.

        Raises:
            ContractError: Redis is set up to evict keys when memory is short.
        """
        with self._explained():
            memory = self._redis.info("memory")
            policy = memory.get("maxmemory_policy", "noeviction")
            if memory.get("maxmemory") and policy != "noeviction":
                msg = (
                    f"Redis at {self.address} has maxmemory-policy {policy}, which would silently "
                    "forget history; set `maxmemory-policy noeviction`"
                )
                raise ContractError(msg)
            generation = int(self._redis.incr(_NUMBERS))
        self._fill(generation, first_entries(layouts, spec_hashes, base_us), base_us)
        return generation

    def load(self, generation: int, entries: Iterable[Entry]) -> int:
        """See LiveStore.load."""
        with self._explained():
            progress = self._redis.get(generation_prefix(generation) + PROGRESS_KEY)
        return self._fill(generation, entries, _now_us(progress))

    def _fill(self, generation: int, entries: Iterable[Entry], now_us: int) -> int:
        prefix = generation_prefix(generation)
        loaded = 0
        for chunk in _chunks(entries):
            with self._explained(), self._redis.pipeline(transaction=False) as pipeline:
                for key, value, expires_us in chunk:
                    pipeline.set(prefix + key, value, px=_ttl_ms(expires_us, now_us) or None)
                pipeline.execute()
            loaded += len(chunk)
        return loaded

    def publish_generation(self, generation: int) -> None:
        """See LiveStore.publish_generation."""
        with self._explained():
            newer = self._publish(keys=[VERSION_KEY, CURRENT_KEY, _WRITTEN], args=[generation])
            if newer:
                msg = f"{self.address}: generation {newer} was published meanwhile; {BACKFILL}"
                raise ConflictError(msg)
            for keys in _chunks(self._redis.scan_iter(match=b"ib*", count=_CHUNK)):
                old = [key for key in keys if _is_before(key, generation)]
                if old:
                    self._redis.unlink(*old)

    def entries(self) -> Iterator[Entry]:
        """See LiveStore.entries."""
        start = self.read([PROGRESS_KEY])
        now_us = progress_of(start.values[0]).watermark_us
        prefix = generation_prefix(start.generation)
        with self._explained():
            for keys in _chunks(self._redis.scan_iter(match=prefix + b"*", count=_CHUNK)):
                with self._redis.pipeline(transaction=False) as pipeline:
                    pipeline.mget(keys)
                    for key in keys:
                        pipeline.pttl(key)
                    values, *left_ms = pipeline.execute()
                for key, value, left in zip(keys, values, left_ms, strict=True):
                    if value is not None and key != prefix + META_KEY:
                        expires = now_us + left * 1_000 - EXPIRY_GRACE_US if left > 0 else None
                        yield key[len(prefix) :], value, expires
        if self.read([]).version != start.version:
            msg = f"somebody wrote the live store {self.address} meanwhile; stop the worker, retry"
            raise ConflictError(msg)

    def close(self) -> None:
        """See LiveStore.close."""
        self._redis.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            msg = (
                f"the live store {self.address} does not answer as it should: {error}. See whether "
                "Redis runs there (IBOOK_ONLINE_URL) and has memory left, then retry"
            )
            raise StoreUnavailableError(msg) from error


def shown_address(url: str) -> str:
    """`url` without credentials and options, for messages."""
    parts = urlsplit(url)
    place = parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}"
    return f"{parts.scheme}://{place}"


def generation_prefix(generation: int) -> bytes:
    """What the keys of a generation begin with."""
    return b"ib%d:" % generation


def _is_before(key: bytes, generation: int) -> bool:
    found = _GENERATION.match(key)
    return found is not None and int(found[1]) < generation


def _now_us(progress: bytes | None) -> int:
    return progress_of(progress).watermark_us


def _ttl_ms(expires_us: int | None, now_us: int) -> int | str:
    """Milliseconds left to live; empty for ever."""
    if expires_us is None:
        return ""
    return (max(expires_us - now_us, 0) + EXPIRY_GRACE_US) // 1_000


def _chunks(items: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, _CHUNK)):
        yield chunk
