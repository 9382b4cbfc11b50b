"""One run in real time: the load, where it goes, and the figures that come out."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from dataclasses import dataclass

import numpy as np

from ibook_sim.chaos import request_faults
from ibook_sim.realtime.driving import Send, Watcher, open_loop, waiting_room
from ibook_sim.realtime.events import EventSink, Fed, feed
from ibook_sim.realtime.http import HttpTarget, scoring_url
from ibook_sim.realtime.load import Load
from ibook_sim.realtime.offline import OfflineTarget
from ibook_sim.realtime.payloads import bodies, http_requests
from ibook_sim.realtime.recording import Recording, histogram_of


@dataclass(frozen=True, slots=True)
class Room:
    """A waiting room before the sale."""

    admitted: int
    stay_seconds: float


@dataclass(frozen=True, slots=True)
class Run:
    """What was asked and what was measured."""

    load: Load
    api: str | None
    room: Room | None
    recording: Recording
    fed: Fed | None

    @property
    def valid(self) -> bool:
        """Whether the figures are the server's; a waiting room slows requests down on purpose."""
        return self.room is not None or self.recording.valid

    def as_dict(self) -> dict[str, object]:
        """Everything as JSON."""
        seen, load = self.recording, self.load
        asked = load.due.size / load.seconds
        return {
            "scenario": load.name,
            "seed": load.seed,
            "target": self.api or "offline",
            "loop": "waiting room" if self.room else "open",
            "asked_seconds": round(load.seconds, 3),
            "seconds": round(seen.seconds, 3),
            "interrupted": seen.interrupted,
            "asked_rps": round(asked, 3),
            "rate_share": round(seen.rate_share(), 5),
            "valid": self.valid,
            "requests": seen.issued,
            "outcomes": seen.outcomes(),
            "latency_ms": histogram_of(seen.latency()).summary_ms(),
            "service_ms": histogram_of(seen.service_time()).summary_ms(),
            "generator_lag_ms" if self.room is None else "room_ms": histogram_of(
                seen.lag()
            ).summary_ms(),
            "decisions": self._decisions(),
            "log": None
            if self.fed is None
            else {"sent": self.fed.sent, "refused": self.fed.refused},
        }

    def _decisions(self) -> dict[str, int] | None:
        """Answered orders by truth and decision; None where the truth is not known."""
        if self.load.fraud is None:
            return None
        ok, fraud, held = self.recording.ok, self.load.fraud, self.recording.flagged
        return {
            "fraud_held": int((ok & fraud & held).sum()),
            "fraud_approved": int((ok & fraud & ~held).sum()),
            "legitimate_held": int((ok & ~fraud & held).sum()),
            "legitimate_approved": int((ok & ~fraud & ~held).sum()),
        }


async def run(
    load: Load, *, api: str | None, room: Room | None, sink: EventSink | None, watch: Watcher
) -> Run:
    """Send `load` until it is through or SIGINT or SIGTERM ends it.

    Args:
        load: what to send and when.
        api: address of the scoring API; offline answers when left out.
        room: puts a waiting room before it.
        sink: the log that gets every order too.
        watch: told ten times a second.

    Raises:
        ContractError: `api` is no address.
        StoreUnavailableError: the log takes no events.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    faults = request_faults(np.arange(load.due.size), load.chaos, seed=load.seed)
    async with AsyncExitStack() as stack:
        if api is None:
            send: Send = OfflineTarget(
                load.flagged, load.orders.score, seed=load.seed, faults=faults
            ).send
        else:
            url = scoring_url(api)
            target = HttpTarget(url, http_requests(bodies(load.rows), url), faults=faults)
            send = (await stack.enter_async_context(target)).send
        try:
            async with asyncio.TaskGroup() as group:
                feeding = (
                    group.create_task(feed(load.rows, load.due, sink, stop=stop)) if sink else None
                )
                recording = await _driven(load, send, room, stop=stop, watch=watch)
        except ExceptionGroup as failed:
            # The log's failure ends the requests too; callers branch on its own type.
            raise failed.exceptions[0] from failed
    return Run(load, api, room, recording, feeding.result() if feeding else None)


async def _driven(
    load: Load, send: Send, room: Room | None, *, stop: asyncio.Event, watch: Watcher
) -> Recording:
    if room is None:
        return await open_loop(load.due, load.seconds, send, stop=stop, watch=watch)
    # Whoever waits in the room when the schedule ends still has as long again to come in.
    return await waiting_room(
        load.due, load.seconds, send,
        admitted=room.admitted, stay_seconds=room.stay_seconds,
        stop=stop, watch=watch, drain_seconds=max(10.0, load.seconds),
    )  # fmt: skip
