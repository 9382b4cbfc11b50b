"""Watermarks: up to when everything that gateways have said is known to have been read.

A gateway promises in each heartbeat that all its events known before `T` lie below certain offsets
of the log. A reader that has read up to there has all of them, whatever the order they came in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Partition = tuple[str, int]
"""Topic and partition number."""


@dataclass(frozen=True, slots=True)
class Promise:
    """All events of one gateway known before `known_us` lie below `ends`."""

    known_us: int
    ends: Mapping[str, Sequence[int]]
    """Per topic, the next offset of each partition."""
    closed: bool = False
    """The gateway says nothing after this."""

    def kept(self, read: Mapping[Partition, int]) -> bool:
        """Whether a reader that is at these next offsets has read all that was promised."""
        return all(
            position >= self.ends[topic][number]
            for (topic, number), position in read.items()
            if topic in self.ends and number < len(self.ends[topic])
        )


@dataclass(slots=True)
class _Gateway:
    heard_seconds: float
    reached_us: int = 0
    closed: bool = False
    waiting: deque[Promise] = field(default_factory=deque)


class Watermark:
    """The watermark of one reader, out of the heartbeats of all gateways."""

    def __init__(self, *, start_us: int, silence_seconds: float) -> None:
        """Begin at `start_us`.

        Args:
            start_us: the watermark before any heartbeat (microseconds); it never goes back.
            silence_seconds: a gateway unheard for so long is dead and holds nobody back.
        """
        self.reached_us = start_us
        self._silence_seconds = silence_seconds
        self._gateways: dict[str, _Gateway] = {}

    @property
    def waiting(self) -> int:
        """Promises whose offsets are not read yet."""
        return sum(len(gateway.waiting) for gateway in self._gateways.values())

    def hear(self, gateway: str, promise: Promise, *, now_seconds: float) -> None:
        """Take note of a heartbeat.

        Args:
            gateway: who promises.
            promise: what.
            now_seconds: a monotonic clock's reading.
        """
        known = self._gateways.setdefault(gateway, _Gateway(now_seconds))
        known.heard_seconds = now_seconds
        known.waiting.append(promise)

    def advance(self, read: Mapping[Partition, int], *, now_seconds: float) -> int:
        """The watermark (microseconds) of a reader at these next offsets.

        Events known before it have all been read; it waits for the slowest living gateway.
        """
        self._forget_silent(now_seconds)
        for gateway in self._gateways.values():
            while gateway.waiting and gateway.waiting[0].kept(read):
                promise = gateway.waiting.popleft()
                gateway.reached_us = max(gateway.reached_us, promise.known_us)
                gateway.closed = promise.closed
        living = [g.reached_us for g in self._gateways.values() if not g.closed]
        gone = [name for name, g in self._gateways.items() if g.closed and not g.waiting]
        said_last = [self._gateways.pop(name).reached_us for name in gone]
        if living:
            self.reached_us = max(self.reached_us, min(living))
        elif said_last:
            self.reached_us = max(self.reached_us, *said_last)
        return self.reached_us

    def _forget_silent(self, now_seconds: float) -> None:
        silent = [
            name
            for name, gateway in self._gateways.items()
            if now_seconds - gateway.heard_seconds > self._silence_seconds
            and len(self._gateways) > 1
        ]
        for name in silent:
            del self._gateways[name]
