"""Pin every dependency: one lock file with hashes for each environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

ENVIRONMENTS: Final = {
    "runtime": ("--extra", "deploy"),
    "dev": ("--all-extras", "--group", "dev"),
    "bench": ("--all-extras", "--group", "dev", "--group", "bench"),
}
"""Lock file → what it adds to the project's dependencies. `bench` is pinned within `dev`."""


def main() -> None:
    """Write `requirements/<environment>.txt` for every environment."""
    uv = Path(sys.executable).with_name("uv")
    previous: Path | None = None
    # The widest environment is resolved first and constrains the others: one version everywhere.
    for name, options in reversed(ENVIRONMENTS.items()):
        target = Path("requirements") / f"{name}.txt"
        command = [str(uv), "pip", "compile", "pyproject.toml", *options]
        command += ["--output-file", str(target)]
        command += ["--python-version", "3.11", "--universal", "--generate-hashes", "--quiet"]
        command += ["--no-annotate", "--custom-compile-command", "make lock"]
        if previous:
            command += ["--constraint", str(previous)]
        subprocess.run(command, check=True)
        previous = target


if __name__ == "__main__":
    main()
