"""Child processes of a command: started, waited for, and always ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from ibook_assets.core.errors import StoreUnavailableError

_STOP_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Child:
    """A running child and where its output goes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def tail(self, lines: int = 15) -> str:
        """Last lines of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def check_alive(self) -> None:
        """StoreUnavailableError with the child's last words when it has ended."""
        code = self.process.poll()
        if code is not None:
            msg = f"{self.name} ended with code {code}; its log {self.log} ends:\n{self.tail()}"
            raise StoreUnavailableError(msg)


@contextmanager
def child(
    name: str, command: Sequence[str], *, log: Path, env: dict[str, str] | None = None
) -> Iterator[Child]:
    """Run `command` in a process group of its own; the group is ended when the block is left."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    try:
        yield Child(name, process, log)
    finally:
        _end_group(process)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    # The group outlives its leader: grandchildren are ended even when the child is gone already.
    for step in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, step)
        except ProcessLookupError:
            break
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def wait_for(url: str, of: Child, *, seconds: float) -> None:
    """Return once `url` answers 200; StoreUnavailableError when the child ends or time is up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        of.check_alive()
        try:
            if httpx.get(url, timeout=2.0).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(_POLL_SECONDS)
    msg = f"{of.name} did not answer on {url} within {seconds:g} s; see {of.log}:\n{of.tail()}"
    raise StoreUnavailableError(msg)


def free_port(preferred: int) -> int:
    """`preferred` when nobody listens there on loopback, else a port the system picks."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            chosen: int = probe.getsockname()[1]
            return chosen
    msg = f"no free port on 127.0.0.1, asked for {preferred}"
    raise StoreUnavailableError(msg)
