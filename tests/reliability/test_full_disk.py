"""Row 11: a full disk leaves no partial file, the old version readable, and a clear error."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def figures_of(way: str, folder: Path, *prefix: str) -> dict[str, int]:
    command = [*prefix, sys.executable, "-m", "tests.reliability.full_disk", str(folder), way]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    figures: dict[str, int] = json.loads(output)
    return figures


def mount_namespace() -> tuple[str, ...] | None:
    """Command that gives a process mounts of its own; None where that is forbidden."""
    if shutil.which("unshare") is None:
        return None
    for prefix in (("unshare", "--mount"), ("unshare", "--map-root-user", "--mount")):
        probe = [*prefix, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
        if subprocess.run(probe, check=False, capture_output=True).returncode == 0:
            return prefix
    return None


@pytest.mark.parametrize("way", ["disk", "limit"])
def test_a_full_disk_leaves_nothing_partial(way: str, tmp_path: Path) -> None:
    prefix: tuple[str, ...] = ()
    if way == "disk":
        allowed = mount_namespace()
        if allowed is None:
            # The other way needs no privilege and reaches the same code.
            pytest.skip("a mount namespace of our own is not allowed here")
        prefix = allowed
    figures = figures_of(way, tmp_path, *prefix)
    assert figures["refused"] >= 4
    assert figures["written"] >= 1
    zero = ("partial", "leftovers", "bad_reads", "vague")
    assert {name: figures[name] for name in zero} == dict.fromkeys(zero, 0)
