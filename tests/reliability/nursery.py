"""A process that has imported everything once and forks the children that tests kill.

It has a single thread and holds no locks, so its forks are clean, and each starts in
milliseconds. Commands come as JSON lines and end with the input.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.s3_server import CREDENTIALS


class Nursery:
    """The tests' side: start children by name, wait for them, kill them."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(self, target: str, *args: Any) -> int:
        """Process id of a child that runs `children.<target>(*args)`; args as JSON."""
        return self._ask("start", target, *args)

    def wait(self, pid: int) -> int:
        """Exit code of the child, -9 when it was killed."""
        return self._ask("wait", pid)

    def run(self, target: str, *args: Any) -> int:
        """Exit code of a child that ran `children.<target>(*args)`."""
        return self.wait(self.start(target, *args))

    def kill(self, pid: int) -> None:
        """Kill a child that has not been waited for, and wait for it."""
        os.kill(pid, signal.SIGKILL)
        self.wait(pid)

    def _ask(self, *command: Any) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextmanager
def open_nursery() -> Iterator[Nursery]:
    """A nursery that ends with the block, like the children it still has."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.reliability.nursery"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | CREDENTIALS,
    ) as process:
        yield Nursery(process)
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    with open_nursery() as opened:
        yield opened


def _serve() -> None:
    from tests.reliability import children

    children.warm_up()
    living: set[int] = set()
    for line in sys.stdin:
        command, *args = json.loads(line)
        if command == "start":
            answer = _fork(getattr(children, args[0]), args[1:])
            living.add(answer)
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(args[0], 0)[1])
            living.discard(args[0])
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()
    for pid in living:
        os.kill(pid, signal.SIGKILL)


def _fork(target: Any, args: list[Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        target(*args)
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        raise
    finally:
        # Not sys.exit: the nursery's buffers and handlers are not this child's to run.
        os._exit(code)


if __name__ == "__main__":
    _serve()
