"""Signs of life of forked processes: a process whose event loop stands still gives none."""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Callable
from typing import Final

_TIME: Final = struct.Struct("<d")


class Heartbeats:
    """Times in memory that parent and children share; make it before forking."""

    def __init__(self, processes: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Nobody has beaten yet.

        Args:
            processes: how many may beat.
            clock: monotonic seconds, the same in all processes.
        """
        self._clock = clock
        self._times = mmap.mmap(-1, _TIME.size * processes)

    def beat(self, index: int) -> None:
        """Process `index` is alive now."""
        _TIME.pack_into(self._times, index * _TIME.size, self._clock())

    def forget(self, index: int) -> None:
        """Process `index` is a new one."""
        _TIME.pack_into(self._times, index * _TIME.size, 0.0)

    def silence(self, index: int) -> float:
        """Seconds since process `index` beat; 0 before its first time."""
        (last,) = _TIME.unpack_from(self._times, index * _TIME.size)
        return self._clock() - last if last else 0.0
