"""`make bench`: every benchmark, one after the other, each beside its named peers.

`python -m bench serving --quick` runs one of them, with its own options.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Final

PARTS: Final = (
    "simulator",
    "realtime",
    "online_store",
    "streaming_sink",
    "streaming",
    "serving",
    "experiments",
    "drift",
    "canary",
    "rollout_looks",
    "features",
)
_OPTIONS: Final = {"features": ("--rows", "1000000", "10000000")}


def main() -> None:
    """Run the part that is named first on the command line, or all of them."""
    chosen, *options = sys.argv[1:] or [""]
    if chosen in PARTS:
        sys.exit(_run(chosen, *options))
    for part in PARTS:
        # What names no part is meant for the features'.
        given = sys.argv[1:] if part == "features" else []
        if code := _run(part, *_OPTIONS.get(part, ()), *given):
            sys.exit(code)


def _run(part: str, *options: str) -> int:
    return subprocess.run([sys.executable, "-m", f"bench.{part}", *options], check=False).returncode


if __name__ == "__main__":
    main()
