"""Real servers under test: each is a process that can be stopped, killed, paused and started again.

A server keeps its port and its data over restarts, as an operator's would. Ports are taken below
the range from which the kernel gives ports to clients: a client that retries a dead server from
inside that range may be connected to itself, and then the server cannot have its port back.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Final, Self

import pytest

from ibook_assets.core.errors import StoreUnavailableError

HOST: Final = "127.0.0.1"
START_SECONDS: Final = 90.0
"""How long a server may take to start on a busy machine before it counts as broken."""

_PORTS: Final = range(20_000, 32_000)


class Service(ABC):
    """One server process on loopback with its data in `folder`."""

    name: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._log = folder / "output.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """Id of the running process."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether there is a process, be it paused."""
        return self._alive()

    def start(self) -> Self:
        """Run on the same port and data; returns when it answers. Nothing happens if it runs."""
        if self._alive():
            return self
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command(), stdout=output, stderr=subprocess.STDOUT, cwd=self.folder
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if not self._alive() or time.monotonic() > deadline:
                self.kill()
                msg = f"{self.name} did not start on {self.address}; it said:\n{self.output()}"
                raise StoreUnavailableError(msg)
            time.sleep(0.05)
        return self

    def stop(self) -> None:
        """End it as an operator would (SIGTERM) and wait."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once (SIGKILL) and wait."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open and nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run on (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)

    def restore(self) -> Self:
        """Make it run and answer, whatever a test did to it."""
        if self.running:
            self.resume()
        return self.start()

    def output(self) -> str:
        """The last lines the process wrote."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-30:])

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    def _answers(self) -> bool: ...

    def _alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        if self.running:
            self._process.send_signal(number)
            # A paused process only sees the signal when it runs again.
            self._process.send_signal(signal.SIGCONT)
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def free_port() -> int:
    """A port of loopback that nobody has and that no client is given."""
    for _ in range(1_000):
        port = secrets.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    msg = f"no port of {_PORTS} is free on {HOST}"
    raise StoreUnavailableError(msg)


def missing(what: str, remedy: str) -> None:
    """Skip the test because `what` is not installed; with IBOOK_REQUIRE_SERVICES=1 fail it."""
    reason = f"{what} is not installed; {remedy}"
    if os.environ.get("IBOOK_REQUIRE_SERVICES") == "1":
        pytest.fail(f"{reason} (IBOOK_REQUIRE_SERVICES=1)")
    pytest.skip(reason)
