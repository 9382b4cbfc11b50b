"""Circuit breaker: what does not answer is not asked again for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

State = Literal["closed", "open", "half_open"]

STATES: Final[tuple[State, ...]] = ("closed", "half_open", "open")
"""From well to ill: what metrics number 0, 1, 2."""


class Breaker:
    """Closed while answers come; open after a failure; half-open for one trial after a while.

    Whoever asks first sees `allows()`, then reports `succeeded()` or `failed()`. A trial that is
    never reported gives way to the next one after the same while.

    Source: Nygard (2018), "Release It!", 2nd edition, section 5.2.
    """

    def __init__(self, *, retry_seconds: float, clock: Callable[[], float]) -> None:
        """A closed breaker.

        Args:
            retry_seconds: from a failure until the next trial.
            clock: monotonic seconds.
        """
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._retry_at = 0.0
        self.state: State = "closed"
        self.opened = 0
        """How often it opened since the start."""

    @property
    def closed(self) -> bool:
        """Whether everybody may ask."""
        return self.state == "closed"

    def allows(self) -> bool:
        """Whether the caller may ask: always when closed, else as the one trial that is due."""
        if self.closed:
            return True
        if self._clock() < self._retry_at:
            return False
        self.state = "half_open"
        self._retry_at = self._clock() + self._retry_seconds
        return True

    def succeeded(self) -> None:
        """An answer came."""
        self.state = "closed"

    def failed(self) -> None:
        """None came."""
        if self.closed:
            self.opened += 1
        self.state = "open"
        self._retry_at = self._clock() + self._retry_seconds
