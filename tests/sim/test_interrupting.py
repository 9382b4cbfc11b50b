"""Ctrl-C as it reaches a real process: it ends with a report of what was played."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

PLENTY = "5000000"


@pytest.mark.parametrize(
    ("command", "going"),
    [
        # The progress bar is drawn once the run listens for the signal, ...
        (["run", "fraud-attack", "--drift-transactions", PLENTY], b"orders"),
        (["mix", "--scenarios", "flash-sale:50,null:50", "--duration", "40h"], b"orders"),
        # ... in real time once the first requests were sent.
        (["realtime", "--rps", "50", "--duration", "1h"], b" sent"),
    ],
    ids=["run", "mix", "realtime"],
)
def test_ctrl_c_ends_with_a_report_of_what_was_played(
    command: list[str], going: bytes, tmp_path: Path
) -> None:
    out = tmp_path / "report.html"
    screen, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ibook_sim", *command, "-o", str(out)],
        stdout=subprocess.PIPE,
        stderr=terminal,
        env=os.environ | {"API_BASE_URL": "", "COLUMNS": "200"},
    )
    try:
        drawn = b""
        while going not in drawn:
            drawn += os.read(screen, 1_024)
        # A terminal that nobody reads fills up, and the run would wait for room to draw in.
        threading.Thread(target=_read_on, args=(screen,), daemon=True).start()
        process.send_signal(signal.SIGINT)
        shown, _ = process.communicate(timeout=100)
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
        os.close(screen)
    assert process.returncode == 130
    assert b"interrupted" in shown
    found = json.loads(out.with_suffix(".json").read_text())
    assert found["interrupted"]
    assert not found["passed"]
    assert 0 < found["orders"] < int(PLENTY)
    assert {"latency", "errors"} <= {check["name"] for check in found["checks"]}
    assert "INTERRUPTED" in out.read_text()


def _read_on(screen: int) -> None:
    """Read what is drawn until the terminal is closed."""
    with contextlib.suppress(OSError):
        while os.read(screen, 1_024):
            pass
