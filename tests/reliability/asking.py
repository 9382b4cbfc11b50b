"""Clients that ask for predictions at a steady pace and keep every answer, for judging later."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from typing import Final, NamedTuple

import msgspec
import numpy as np

HANG_SECONDS: Final = 120.0
"""A request without an answer for so long hangs, which counts as failed."""
IDLE_SECONDS: Final = 0.5
"""A connection that was silent for longer is not asked again: as any kept one it may end just then.
Servers that stop let theirs be silent for a second."""


class Predicted(NamedTuple):
    """What an answer says of one order."""

    version: str
    variant: str
    score: float
    request_id: str


@dataclass(frozen=True, slots=True)
class Answered:
    """One request that got an answer."""

    orders: tuple[int, ...]
    status: int
    predictions: tuple[Predicted, ...]
    """What was said of each order."""


@dataclass(frozen=True, slots=True)
class Failed:
    """One request that got none, between two moments of the monotonic clock."""

    sent: float
    ended: float
    error: str


@dataclass
class Client(threading.Thread):
    """Asks at its own pace over one connection, as a pool's client does."""

    port: int
    bodies: Sequence[tuple[tuple[int, ...], bytes]]
    every: float
    stop: threading.Event
    seed: int
    answered: list[Answered] = field(default_factory=list)
    failures: list[Failed] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        """Ask until told to stop."""
        rng = np.random.default_rng(self.seed)
        connection = HTTPConnection("127.0.0.1", self.port, timeout=HANG_SECONDS)
        due = spoke = time.monotonic()
        while not self.stop.wait(max(0.0, due - time.monotonic())):
            due = max(due, time.monotonic() - 1.0) + self.every
            orders, body = self.bodies[int(rng.integers(len(self.bodies)))]
            if _left(connection) or time.monotonic() - spoke > IDLE_SECONDS:
                connection.close()
            sent = time.monotonic()
            try:
                connection.request("POST", "/predict?explain=false", body)
                answer = connection.getresponse()
                content = answer.read()
                spoke = time.monotonic()
            except (OSError, HTTPException) as error:
                self.failures.append(Failed(sent, time.monotonic(), repr(error)))
                connection.close()
                continue
            found = _predictions(content) if answer.status == 200 else ()
            self.answered.append(Answered(orders, answer.status, found))
        connection.close()


def _left(connection: HTTPConnection) -> bool:
    # What is readable between two requests is the server's goodbye.
    return connection.sock is not None and bool(select.select([connection.sock], [], [], 0)[0])


def _predictions(content: bytes) -> tuple[Predicted, ...]:
    found = msgspec.json.decode(content)["predictions"]
    return tuple(
        Predicted(p["model_version"], p["variant"], p["score"], p["request_id"]) for p in found
    )
