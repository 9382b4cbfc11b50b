"""Pin every dependency: one lock file with hashes for each environment."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ENVIRONMENTS: Final = {
    "runtime": ("--extra", "deploy"),
    "dev": ("--all-extras", "--group", "dev"),
    "notebooks": ("--all-extras", "--group", "dev", "--group", "notebooks"),
    "bench": ("--all-extras", "--group", "dev", "--group", "bench"),
}
"""Lock file → what it adds to the project's dependencies. Each is pinned within the next."""

APART: Final = ("bench-peers",)
"""Groups with an environment of their own: what they need shall not hold the project's back."""


def main() -> None:
    """Write `requirements/<environment>.txt` for every environment."""
    previous: Path | None = None
    for name in APART:
        _compile(name, ["--group", name])
    # The widest environment is resolved first and constrains the others: one version everywhere.
    for name, options in reversed(ENVIRONMENTS.items()):
        constraints = ["--constraint", str(previous)] if previous else []
        previous = _compile(name, ["pyproject.toml", *options, *constraints])


def _compile(name: str, options: Sequence[str]) -> Path:
    """Write `requirements/<name>.txt` from what `options` of `uv pip compile` name."""
    target = Path("requirements") / f"{name}.txt"
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "pip", "compile", *options, "--output-file", str(target)]
    command += ["--python-version", "3.11", "--universal", "--generate-hashes", "--quiet"]
    command += ["--no-annotate", "--custom-compile-command", "make lock"]
    subprocess.run(command, check=True)
    return target


if __name__ == "__main__":
    main()
