"""Running a part of the stream as a service: until it is told to end, through outages."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol, TypeVar

from ibook_assets.core.errors import StoreUnavailableError

FIRST_RETRY_SECONDS: Final = 0.5
LAST_RETRY_SECONDS: Final = 5.0

_log = logging.getLogger(__name__)


class Service(Protocol):
    """A part of the stream that runs until it is stopped."""

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


S = TypeVar("S", bound=Service)


def run(name: str, connect: Callable[[], Service], stop: threading.Event) -> None:
    """Connect, waiting for whatever does not answer yet, and work until `stop` is set.

    Raises:
        ContractError: what it was given cannot work, however long one waits.
    """
    service = _connected(name, connect, stop)
    if service is None:
        return
    _log.info("%s runs", name)
    try:
        service.run(stop)
    finally:
        service.close()
        _log.info("%s has ended", name)


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set while the block runs; of the main thread only."""
    stop = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _connected(name: str, connect: Callable[[], S], stop: threading.Event) -> S | None:
    delay = FIRST_RETRY_SECONDS
    while not stop.is_set():
        try:
            return connect()
        except StoreUnavailableError as error:
            _log.warning("%s waits %.1f s: %s", name, delay, error)
            stop.wait(delay)
            delay = min(2 * delay, LAST_RETRY_SECONDS)
    return None
