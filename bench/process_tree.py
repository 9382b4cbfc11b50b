"""What a server and all its children take: CPU time and memory, out of /proc."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """`pid` and everything below it."""
    found = [pid]
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += tree(int(child))
    return found


def cpu_seconds(pids: list[int]) -> float:
    """CPU time these processes have taken so far, in user and kernel mode."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def memory_mib(pids: list[int]) -> float:
    """Proportional memory of these processes: shared pages count once."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


@dataclass(frozen=True)
class Instant:
    """The machine's busy time at one instant."""

    at: float
    busy_seconds: float

    @classmethod
    def now(cls) -> Instant:
        """This one."""
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        user, nice, system, _idle, _wait, irq, soft, steal = (int(f) for f in fields[:8])
        return cls(time.monotonic(), (user + nice + system + irq + soft + steal) / _TICKS)

    def cores_of_others(self, since: Instant, known_seconds: float) -> float:
        """Cores that were busy with anything but the `known_seconds` of CPU time."""
        wall = self.at - since.at
        return max(0.0, self.busy_seconds - since.busy_seconds - known_seconds) / wall
