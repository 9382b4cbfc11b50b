"""A real Redis under test."""

from __future__ import annotations

import shutil
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.services.processes import HOST, Service, missing


class RedisService(Service):
    """`redis-server` without snapshots; with `append_only` it keeps what it acknowledged."""

    name = "Redis"

    def __init__(self, folder: Path, *, append_only: bool = False) -> None:
        super().__init__(folder)
        self.append_only = append_only
        self.socket = folder / "redis.sock"

    @property
    def url(self) -> str:
        """Over TCP."""
        return f"redis://{self.address}/0"

    @property
    def socket_url(self) -> str:
        """Over the unix socket."""
        return f"unix://{self.socket}?db=0"

    def clear(self) -> None:
        """Delete everything."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    @classmethod
    def require(cls) -> None:
        """Skip or fail the test when it cannot run here."""
        if shutil.which("redis-server") is None:
            missing("Redis", "run `apt-get install redis-server`")

    def _command(self) -> list[str]:
        durability = ["--appendonly", "yes", "--appendfsync", "always"]
        return [
            "redis-server",
            *("--bind", HOST, "--port", str(self.port)),
            *("--unixsocket", str(self.socket)),
            *("--dir", str(self.folder), "--save", ""),
            *(durability if self.append_only else ["--appendonly", "no"]),
        ]

    def _answers(self) -> bool:
        try:
            with redis.Redis(
                host=HOST, port=self.port, socket_timeout=1, retry=Retry(NoBackoff(), 0)
            ) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False
