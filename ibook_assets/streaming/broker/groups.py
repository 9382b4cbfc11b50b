"""Consumer groups: members, generations and committed offsets.

The classic protocol: everybody joins, the first member assigns, everybody syncs; a member that
joins, leaves or falls silent starts the next generation. Source: Apache Kafka, `GroupCoordinator`.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final

from ibook_assets.streaming.broker.codes import Code
from ibook_assets.streaming.broker.members import Joined, Joining, Member, Synced

FIRST_JOIN_SECONDS: Final = 0.2
"""How long the first member of an empty group waits for others before it gets everything."""

SESSION_TIMEOUT_MS: Final = (100, 1_800_000)
"""Shortest and longest session a member may ask for."""


class State(Enum):
    """Where a group is between two generations."""

    EMPTY = "empty"
    PREPARING = "preparing"
    """Members are asked to join again."""
    COMPLETING = "completing"
    """The leader is about to assign."""
    STABLE = "stable"


class Group:
    """One consumer group. Offsets outlive its members."""

    def __init__(self) -> None:
        self.state = State.EMPTY
        self.generation = 0
        self.offsets: dict[tuple[str, int], tuple[int, str]] = {}
        """Committed offset and metadata of each topic and partition."""
        self._members: dict[str, Member] = {}
        self._announced: dict[str, asyncio.TimerHandle] = {}
        self._leader = ""
        self._protocol = ""
        self._deadline: asyncio.TimerHandle | None = None
        self._first = False

    async def join(self, wish: Joining) -> Joined:
        """Become or stay a member: answered when the next generation is complete."""
        refused = self._refusal(wish)
        if refused is not None:
            return Joined(refused, wish.member_id)
        if not wish.member_id and wish.must_return:
            return Joined(Code.MEMBER_ID_REQUIRED, self._announce(wish))
        member_id = wish.member_id or _fresh_id()
        announced = self._announced.pop(member_id, None)
        if announced is not None:
            announced.cancel()
        known = self._members.get(member_id)
        if known is not None and self._may_keep(known, wish):
            known.expect_life(self._expired)
            return self._told(known)
        member = known or Member(member_id, wish)
        member.wish = wish
        self._members[member_id] = member
        member.answer_join(Joined(Code.UNKNOWN_MEMBER_ID, member_id))
        member.joining = asyncio.get_running_loop().create_future()
        member.stop_session()
        waiting = member.joining
        self._rebalance()
        return await waiting

    async def sync(
        self, member_id: str, generation: int, assignments: Mapping[str, bytes]
    ) -> Synced:
        """Hand in (leader) or wait for (others) the assignment of this generation."""
        code = self._check(member_id, generation)
        if code is Code.NONE and self.state is State.PREPARING:
            code = Code.REBALANCE_IN_PROGRESS
        if code is not Code.NONE:
            return Synced(code)
        member = self._members[member_id]
        member.expect_life(self._expired)
        if self.state is State.STABLE:
            return Synced(Code.NONE, member.assignment)
        if member_id == self._leader:
            self._assign(assignments)
            return Synced(Code.NONE, member.assignment)
        member.answer_sync(Synced(Code.REBALANCE_IN_PROGRESS))
        member.syncing = asyncio.get_running_loop().create_future()
        return await member.syncing

    def heartbeat(self, member_id: str, generation: int) -> Code:
        """Keep the session; REBALANCE_IN_PROGRESS asks the member to join again."""
        code = self._check(member_id, generation)
        if code is not Code.NONE:
            return code
        if self._members[member_id].joining is None:
            self._members[member_id].expect_life(self._expired)
        return Code.REBALANCE_IN_PROGRESS if self.state is State.PREPARING else Code.NONE

    def leave(self, member_id: str) -> Code:
        """Stop being a member, so that the others need not wait for the session to end."""
        if member_id in self._announced:
            self._announced.pop(member_id).cancel()
            self._complete_if_all_joined()
            return Code.NONE
        if member_id not in self._members:
            return Code.UNKNOWN_MEMBER_ID
        self._remove(member_id)
        return Code.NONE

    def commit(
        self, member_id: str, generation: int, offsets: Mapping[tuple[str, int], tuple[int, str]]
    ) -> Code:
        """Store offsets of a current member, or of anybody while the group is empty."""
        if generation < 0 and not member_id:
            code = Code.UNKNOWN_MEMBER_ID if self._members else Code.NONE
        else:
            code = self._check(member_id, generation)
            if code is Code.NONE and self.state is State.COMPLETING:
                code = Code.REBALANCE_IN_PROGRESS
        if code is Code.NONE:
            self.offsets.update(offsets)
            if member_id:
                self._members[member_id].expect_life(self._expired)
        return code

    def forget_topic(self, name: str) -> None:
        """Drop the committed offsets of a topic that was deleted."""
        self.offsets = {place: told for place, told in self.offsets.items() if place[0] != name}

    def close(self) -> None:
        """End every timer and every wait."""
        for timer in (*self._announced.values(), self._deadline):
            if timer is not None:
                timer.cancel()
        for member in self._members.values():
            member.stop_session()
            member.answer_join(Joined(Code.UNKNOWN_MEMBER_ID, member.member_id))
            member.answer_sync(Synced(Code.UNKNOWN_MEMBER_ID))

    def _refusal(self, wish: Joining) -> Code | None:
        shortest, longest = SESSION_TIMEOUT_MS
        if not shortest <= wish.session_timeout_ms <= longest:
            return Code.INVALID_SESSION_TIMEOUT
        if wish.member_id and wish.member_id not in {*self._members, *self._announced}:
            return Code.UNKNOWN_MEMBER_ID
        others = [m for m in self._members.values() if m.member_id != wish.member_id]
        shared = set(wish.protocols).intersection(*(set(m.wish.protocols) for m in others))
        same_type = all(m.wish.protocol_type == wish.protocol_type for m in others)
        return None if shared and same_type else Code.INCONSISTENT_GROUP_PROTOCOL

    def _announce(self, wish: Joining) -> str:
        member_id = _fresh_id()
        self._announced[member_id] = asyncio.get_running_loop().call_later(
            wish.session_timeout_ms / 1000, self._forget, member_id
        )
        return member_id

    def _forget(self, member_id: str) -> None:
        self._announced.pop(member_id, None)
        self._complete_if_all_joined()

    def _check(self, member_id: str, generation: int) -> Code:
        if member_id not in self._members:
            return Code.UNKNOWN_MEMBER_ID
        return Code.NONE if generation == self.generation else Code.ILLEGAL_GENERATION

    def _may_keep(self, member: Member, wish: Joining) -> bool:
        # A follower whose answer got lost asks again; only the leader's or a changed wish means
        # that partitions must be assigned anew.
        unchanged = member.wish.protocols == wish.protocols
        if self.state is State.COMPLETING:
            return unchanged
        return self.state is State.STABLE and unchanged and member.member_id != self._leader

    def _rebalance(self) -> None:
        if self.state is not State.PREPARING:
            self._first = self.state is State.EMPTY
            self.state = State.PREPARING
            for member in self._members.values():
                member.answer_sync(Synced(Code.REBALANCE_IN_PROGRESS))
            slowest = max(m.wish.rebalance_timeout_ms for m in self._members.values()) / 1000
            seconds = min(FIRST_JOIN_SECONDS, slowest) if self._first else slowest
            self._call_in(seconds, self._complete)
        self._complete_if_all_joined()

    def _call_in(self, seconds: float, action: Callable[[], None]) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = asyncio.get_running_loop().call_later(seconds, action)

    def _complete_if_all_joined(self) -> None:
        joined = all(m.joining is not None for m in self._members.values())
        if self.state is State.PREPARING and joined and not self._announced and not self._first:
            self._complete()

    def _complete(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        for absent in [m for m in self._members.values() if m.joining is None]:
            absent.stop_session()
            del self._members[absent.member_id]
        self.generation += 1
        if not self._members:
            self.state = State.EMPTY
            return
        self.state = State.COMPLETING
        if self._leader not in self._members:
            self._leader = next(iter(self._members))
        wishes = [m.wish.protocols for m in self._members.values()]
        shared = set(wishes[0]).intersection(*wishes[1:])
        self._protocol = next(n for n in self._members[self._leader].wish.protocols if n in shared)
        for member in self._members.values():
            member.assignment = b""
            member.expect_life(self._expired)
            member.answer_join(self._told(member))

    def _told(self, member: Member) -> Joined:
        everybody = {m.member_id: m.wish.protocols[self._protocol] for m in self._members.values()}
        return Joined(
            Code.NONE,
            member.member_id,
            self.generation,
            self._protocol,
            self._leader,
            everybody if member.member_id == self._leader else {},
        )

    def _assign(self, assignments: Mapping[str, bytes]) -> None:
        self.state = State.STABLE
        for member in self._members.values():
            member.assignment = assignments.get(member.member_id, b"")
            member.answer_sync(Synced(Code.NONE, member.assignment))

    def _expired(self, member_id: str) -> None:
        if member_id in self._members:
            self._remove(member_id)

    def _remove(self, member_id: str) -> None:
        member = self._members.pop(member_id)
        member.stop_session()
        member.answer_join(Joined(Code.UNKNOWN_MEMBER_ID, member_id))
        member.answer_sync(Synced(Code.UNKNOWN_MEMBER_ID))
        if self._members:
            self._rebalance()
        elif self.state is not State.PREPARING or not self._announced:
            self._complete()


def _fresh_id() -> str:
    return f"member-{uuid.uuid4()}"
