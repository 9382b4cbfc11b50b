"""Members of a consumer group and what the group answers them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ibook_assets.streaming.broker.codes import Code


@dataclass(frozen=True, slots=True)
class Joining:
    """What a member says when it joins."""

    member_id: str
    """Empty for a member that is new."""
    protocol_type: str
    protocols: Mapping[str, bytes]
    """Metadata of each assignment strategy the member knows, preferred ones first."""
    session_timeout_ms: int
    rebalance_timeout_ms: int
    must_return: bool
    """Whether a new member is told its id first and has to join again with it (KIP-394)."""


@dataclass(frozen=True, slots=True)
class Joined:
    """The answer to a join; `members` is told to the leader only."""

    code: Code
    member_id: str
    generation: int = -1
    protocol: str = ""
    leader: str = ""
    members: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Synced:
    """The answer to a sync: what the leader assigned to this member."""

    code: Code
    assignment: bytes = b""


@dataclass(slots=True)
class Member:
    """A member, the answers it waits for, and the timer that ends its session."""

    member_id: str
    wish: Joining
    assignment: bytes = b""
    joining: asyncio.Future[Joined] | None = None
    syncing: asyncio.Future[Synced] | None = None
    session: asyncio.TimerHandle | None = None

    def answer_join(self, answer: Joined) -> None:
        """End the member's wait for a generation."""
        if self.joining is not None and not self.joining.done():
            self.joining.set_result(answer)
        self.joining = None

    def answer_sync(self, answer: Synced) -> None:
        """End the member's wait for its assignment."""
        if self.syncing is not None and not self.syncing.done():
            self.syncing.set_result(answer)
        self.syncing = None

    def expect_life(self, expired: Callable[[str], None]) -> None:
        """Start the session anew; `expired` is called if nothing is heard until it ends."""
        self.stop_session()
        self.session = asyncio.get_running_loop().call_later(
            self.wish.session_timeout_ms / 1000, expired, self.member_id
        )

    def stop_session(self) -> None:
        """Let the member be silent, as it is while it waits for the others to join."""
        if self.session is not None:
            self.session.cancel()
            self.session = None
