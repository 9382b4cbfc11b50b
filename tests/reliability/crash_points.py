"""Kill this process at a chosen I/O step: before it, after it, or halfway through a write.

The steps are the calls the product makes of the operating system (or, on S3, of the store), so
every instant that could leave something behind is reached, in product code that knows nothing of
it. For child processes only.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from ibook_assets.stores.s3_blobs import S3Blobs

When = Literal["before", "half", "after"]

_OS_CALLS: Final = ("mkdir", "open", "write", "fsync", "replace", "link", "unlink")
_S3_CALLS: Final = ("put", "create", "get", "list", "stat", "delete")


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """The `step`-th I/O call from now on, counted from zero."""

    step: int
    when: When


def crash_points(steps: list[str]) -> list[CrashPoint]:
    """Before and after each step, and halfway through each write."""
    points = []
    for step, name in enumerate(steps):
        points += [CrashPoint(step, "before"), CrashPoint(step, "after")]
        if name == "write":
            points.append(CrashPoint(step, "half"))
    return points


def watch_io(crash: CrashPoint | None) -> list[str]:
    """From now on, count I/O calls and die at `crash`; the list grows with their names."""
    seen: list[str] = []
    for owner, names in ((os, _OS_CALLS), (S3Blobs, _S3_CALLS)):
        for name in names:
            setattr(owner, name, _watched(name, getattr(owner, name), seen, crash))
    return seen


def _watched(
    name: str, call: Callable[..., Any], seen: list[str], crash: CrashPoint | None
) -> Callable[..., Any]:
    def watched(*args: Any, **options: Any) -> Any:
        here = crash is not None and crash.step == len(seen)
        seen.append(name)
        if not here or crash is None:
            return call(*args, **options)
        if crash.when == "half" and name == "write":
            descriptor, data = args
            call(descriptor, data[: len(data) // 2])
        try:
            if crash.when == "after":
                call(*args, **options)
        finally:
            # Also when the call fails, as removing a file that is gone already does.
            os.kill(os.getpid(), signal.SIGKILL)
        return None

    return watched
