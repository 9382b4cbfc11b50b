"""Which run of the machine wrote a database: its pages may not have outlived the one before."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Names this run of the machine; empty where the system does not tell."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def forget_lost(boot: Path) -> bool:
    """Delete the LMDB beside the file `boot` if that names another run; whether it did."""
    if not boot.exists() or boot.read_text() == boot_id():
        return False
    for path in boot.parent.glob("*.mdb"):
        path.unlink()
    return True
