"""`make bench`: every benchmark, one after the other, each beside its named peers."""

from __future__ import annotations

import subprocess
import sys


def main() -> None:
    """Run the benchmarks; what was given on the command line goes to the features'."""
    features = ["--rows", "1000000", "10000000", *sys.argv[1:]]
    parts = (
        "bench.simulator",
        "bench.realtime",
        "bench.online_store",
        "bench.streaming_sink",
        "bench.streaming",
    )
    for command in (*([part] for part in parts), ["bench.features", *features]):
        code = subprocess.run([sys.executable, "-m", *command], check=False).returncode
        if code:
            sys.exit(code)


if __name__ == "__main__":
    main()
