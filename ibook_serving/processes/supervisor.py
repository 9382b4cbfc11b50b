"""Keeps the API processes alive: restarts the dead, drains the living on SIGTERM."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from types import FrameType
from typing import Final

from ibook_serving.processes.heartbeat import Heartbeats

MAX_RESTARTS: Final = 5
RESTART_WINDOW_SECONDS: Final = 60.0
"""More restarts than MAX_RESTARTS within this time end the server: something is wrong with it."""

FROZEN_SECONDS: Final = 5.0
"""A child that gave no sign of life for so long answers nobody: it is killed and replaced."""
CHECK_SECONDS: Final = 1.0
"""How often the children's signs of life are looked at."""

ATTENDANT_PAUSE_SECONDS: Final = 1.0
"""Time before a dead attendant is replaced: it may die for a reason that lasts."""
ATTENDANT_STOP_SECONDS: Final = 10.0
"""Time an attendant gets to finish after the last child has ended."""

ATTENDANT_STOP: Final = signal.SIGUSR1
"""What ends an attendant. SIGTERM and Ctrl-C often reach all processes at once, and it is needed
until the last of the others has ended."""

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

_log = logging.getLogger(__name__)


def on_attendant_stop(handler: Callable[[int, FrameType | None], None]) -> None:
    """Let `handler` answer ATTENDANT_STOP, in an attendant; at once if it was sent already."""
    signal.signal(ATTENDANT_STOP, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {ATTENDANT_STOP})


class Supervisor:
    """Forks `serve(index, ready)` in `processes` processes and looks after them.

    It runs in the main thread of a process without other threads, so every fork, restarts
    included, is of a single-threaded process. A child sends one report over `ready`. An attendant
    runs beside the children and outlives them; it is replaced however often it dies.
    """

    def __init__(
        self,
        serve: Callable[[int, Connection], None],
        *,
        processes: int,
        drain_seconds: float,
        listeners: Sequence[socket.socket] = (),
        heartbeats: Heartbeats | None = None,
        on_death: Callable[[int], None] = lambda _: None,
        attendant: Callable[[], None] | None = None,
    ) -> None:
        """Make a supervisor; nothing is forked yet.

        Args:
            serve: what a child runs.
            processes: how many children.
            drain_seconds: time they get to finish.
            listeners: sockets to close when stopping.
            heartbeats: where children give signs of life; None: they need not.
            on_death: told the process id of a child that died.
            attendant: what the attendant runs, until `on_attendant_stop`; None: there is none.
        """
        self._serve = serve
        self._drain_seconds = drain_seconds
        self._listeners = listeners
        self._heartbeats = heartbeats
        self._checked_at = 0.0
        self._on_death = on_death
        self._attend = attendant
        self._attendant: ForkProcess | None = None
        self._attend_at = 0.0
        self._children: dict[int, ForkProcess] = {}
        self._pipes: dict[Connection, int] = {}
        self._restarts: deque[float] = deque(maxlen=MAX_RESTARTS)
        self._stopping = False
        self._waker, self._wakes = os.pipe()
        self._indexes = range(processes)

    def start(self) -> None:
        """Fork every child. Call once, before `watch`."""
        for stop in _STOP_SIGNALS:
            signal.signal(stop, self._on_stop)
        for index in self._indexes:
            self._fork(index)
        self._look_after_attendant()

    def watch(self, on_ready: Callable[[bytes], None]) -> bool:
        """Block until asked to stop (True) or until children die too often (False).

        Args:
            on_ready: called with the bytes each child reports once it answers requests.
        """
        while not self._stopping:
            sentinels = {child.sentinel: i for i, child in self._children.items()}
            attending = [] if self._attendant is None else [self._attendant.sentinel]
            pause = ATTENDANT_PAUSE_SECONDS if self._attend and not attending else CHECK_SECONDS
            for event in wait([*sentinels, *self._pipes, *attending, self._waker], pause):
                if isinstance(event, Connection):
                    self._read(event, on_ready)
                elif event in sentinels and not self._replace(sentinels[event]):
                    return False
            self._kill_frozen()
            self._look_after_attendant()
        return True

    def stop(self) -> None:
        """Let the children finish what they are doing, then end them; kill who does not."""
        # A closed listener refuses new connections at once instead of leaving them unanswered.
        for listener in self._listeners:
            listener.close()
        for child in self._children.values():
            child.terminate()
        deadline = time.monotonic() + self._drain_seconds
        for child in self._children.values():
            _end(child, deadline, "API process did not drain in time")
        if self._attend is not None:
            self._let_attendant_finish()

    def _let_attendant_finish(self) -> None:
        """End the attendant, for what the children have left to it; a dead one's work too."""
        attendant = self._attendant
        if attendant is None or attendant.exitcode is not None:
            attendant = self._fork_attendant()
        assert attendant.pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(attendant.pid, ATTENDANT_STOP)
        _end(attendant, time.monotonic() + ATTENDANT_STOP_SECONDS, "attendant did not finish")

    def _on_stop(self, number: int, _frame: FrameType | None) -> None:
        self._stopping = True
        _log.info("stopping", extra={"signal": signal.Signals(number).name})
        os.write(self._wakes, b"x")

    def _kill_frozen(self) -> None:
        since_last, self._checked_at = time.monotonic() - self._checked_at, time.monotonic()
        # Who was held up itself cannot tell whether the children stood still for longer.
        if self._heartbeats is None or since_last > FROZEN_SECONDS / 2:
            return
        for index, child in self._children.items():
            silence = self._heartbeats.silence(index)
            if silence > FROZEN_SECONDS and child.is_alive():
                told = {"pid": child.pid, "silent_seconds": round(silence, 1)}
                _log.error("API process is frozen; killing it", extra=told)
                # Its death shows in the next round, which replaces it.
                self._heartbeats.forget(index)
                child.kill()

    def _fork(self, index: int) -> None:
        if self._heartbeats is not None:
            self._heartbeats.forget(index)
        receiver, sender = get_context("fork").Pipe(duplex=False)
        child = get_context("fork").Process(
            target=self._child, args=(index, sender), name=f"ibook-api-{index}"
        )
        child.start()
        sender.close()
        self._children[index] = child
        self._pipes[receiver] = index

    def _child(self, index: int, ready: Connection) -> None:
        for stop in _STOP_SIGNALS:
            signal.signal(stop, signal.SIG_DFL)
        os.close(self._waker)
        os.close(self._wakes)
        # The server re-raises the signal it drained for; the parent knows why we end.
        with contextlib.suppress(KeyboardInterrupt):
            self._serve(index, ready)

    def _look_after_attendant(self) -> None:
        """Start it, or another one once the dead one has been gone for a while."""
        if self._attend is None or self._stopping:
            return
        now = time.monotonic()
        if self._attendant is not None and self._attendant.exitcode is not None:
            report = {"pid": self._attendant.pid, "exit_code": self._attendant.exitcode}
            _log.error("attendant died; starting another", extra=report)
            self._attendant, self._attend_at = None, now + ATTENDANT_PAUSE_SECONDS
        if self._attendant is None and now >= self._attend_at:
            self._attendant = self._fork_attendant()

    def _fork_attendant(self) -> ForkProcess:
        attendant = get_context("fork").Process(target=self._as_attendant)
        # It may be told to stop before it listens: that has to wait, not to kill it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {ATTENDANT_STOP})
        attendant.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {ATTENDANT_STOP})
        return attendant

    def _as_attendant(self) -> None:
        for stop in _STOP_SIGNALS:
            signal.signal(stop, signal.SIG_IGN)
        for listener in self._listeners:
            listener.close()
        os.close(self._waker)
        os.close(self._wakes)
        assert self._attend is not None
        self._attend()

    def _read(self, pipe: Connection, on_ready: Callable[[bytes], None]) -> None:
        with contextlib.suppress(EOFError):
            on_ready(pipe.recv_bytes())
        del self._pipes[pipe]
        pipe.close()

    def _replace(self, index: int) -> bool:
        if self._stopping:
            return True
        dead = self._children[index]
        dead.join()
        assert dead.pid is not None
        self._on_death(dead.pid)
        now = time.monotonic()
        report = {"pid": dead.pid, "exit_code": dead.exitcode, "index": index}
        if len(self._restarts) == MAX_RESTARTS and now - self._restarts[0] < RESTART_WINDOW_SECONDS:
            _log.critical("API processes keep dying; giving up", extra=report)
            return False
        self._restarts.append(now)
        _log.error("API process died; starting another", extra=report)
        self._fork(index)
        return True


def _end(child: ForkProcess, deadline: float, complaint: str) -> None:
    """Wait for `child` until `deadline`, then kill it."""
    child.join(max(0.0, deadline - time.monotonic()))
    if child.exitcode is None:
        _log.error(complaint, extra={"pid": child.pid})
        child.kill()
        child.join()
