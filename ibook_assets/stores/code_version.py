"""Which commit this process runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ibook_assets.core.settings import UNKNOWN_SHA, Settings


def git_sha(settings: Settings) -> str:
    """Commit this code was built from: the setting's, else the checkout's, else `unknown`."""
    if settings.git_sha != UNKNOWN_SHA:
        return settings.git_sha
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN_SHA
    return found.stdout.strip()
