"""Three ways to drive a server: on a schedule, one after the other, and through a waiting room.

Only the first tells what users meet when the server stalls. A closed loop stops asking while it
waits, so the requests that would have suffered are never sent (coordinated omission).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

import numpy as np

from ibook_sim.realtime.recording import Answer, Recording
from ibook_sim.world.randomness import Floats

Send = Callable[[int], Awaitable[Answer]]
"""Sends the request with a number; an error of the other side is an answer, not an exception."""

DRAIN_SECONDS: Final = 10.0
"""How long answers are awaited after the last request was sent."""

_LOOK_UP_SECONDS: Final = 0.05
"""Longest sleep before it is looked whether the run was stopped."""


class Watcher(Protocol):
    """Is told about the run while it goes on."""

    def __call__(self, recording: Recording, elapsed: float, /) -> None:
        """`elapsed` seconds of the run have passed."""


def _silent(_: Recording, __: float) -> None:
    return


async def open_loop(
    due: Floats,
    seconds: float,
    send: Send,
    *,
    stop: asyncio.Event,
    drain_seconds: float = DRAIN_SECONDS,
    watch: Watcher = _silent,
) -> Recording:
    """Send request i at `due[i]` seconds from now whatever became of those before it.

    Args:
        due: ascending, within [0, seconds).
        seconds: length of the schedule.
        send: what sends a request.
        stop: ends the run early; what was sent is still awaited.
        drain_seconds: longest wait for answers after the last request.
        watch: told ten times a second.
    """
    recording = Recording(due, seconds)
    start = asyncio.get_running_loop().time()
    tasks: set[asyncio.Task[None]] = set()
    watching = asyncio.create_task(_watch(recording, start, watch))
    try:
        for number, moment in enumerate(due.tolist()):
            if not await _reached(start + moment, stop):
                break
            task = asyncio.create_task(_answered(number, send, recording, start))
            tasks.add(task)
            task.add_done_callback(partial(_forget_sound, tasks))
            recording.issued = number + 1
        else:
            await _reached(start + seconds, stop)
        _note_interruption(recording, start, stop)
        await _drain(tasks, drain_seconds)
    finally:
        await _cancelled({watching, *tasks})
    return recording


async def closed_loop(
    clients: int, seconds: float, send: Send, *, stop: asyncio.Event, requests: int
) -> Floats:
    """Seconds from send to answer, of `clients` that each wait for an answer before they go on.

    Args:
        clients: how many at once.
        seconds: how long; what is on its way then is still awaited.
        send: what sends a request.
        stop: ends the run early.
        requests: how many different ones there are; they are sent in turn.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    taken: list[float] = []

    async def client(number: int) -> None:
        while loop.time() < end and not stop.is_set():
            began = loop.time()
            await send(number % requests)
            taken.append(loop.time() - began)
            number += clients

    await asyncio.gather(*(client(number) for number in range(clients)))
    return np.array(taken)


async def waiting_room(
    due: Floats,
    seconds: float,
    send: Send,
    *,
    admitted: int,
    stay_seconds: float,
    stop: asyncio.Event,
    drain_seconds: float = DRAIN_SECONDS,
    watch: Watcher = _silent,
) -> Recording:
    """Visitors come as in `open_loop`, but at most `admitted` are let in at a time.

    The sale is what is closed here: `sent - due` is the time in the room, `done - sent` what the
    server took. A visitor keeps the place for `stay_seconds` after the answer.
    """
    places = asyncio.Semaphore(admitted)
    loop = asyncio.get_running_loop()

    async def visit(number: int) -> Answer:
        await places.acquire()
        came_in = loop.time()
        try:
            answer = await send(number)
        except BaseException:  # cancelled, too: somebody else waits for the place
            places.release()
            raise
        loop.call_later(stay_seconds, places.release)
        return replace(answer, sent_at=came_in)

    return await open_loop(due, seconds, visit, stop=stop, drain_seconds=drain_seconds, watch=watch)


async def _reached(moment: float, stop: asyncio.Event) -> bool:
    """Wait for `moment`; False when the run was stopped before."""
    loop = asyncio.get_running_loop()
    while not stop.is_set():
        wait = moment - loop.time()
        # Behind schedule nothing is waited for, but the requests on their way go on.
        await asyncio.sleep(min(max(wait, 0.0), _LOOK_UP_SECONDS))
        if wait <= _LOOK_UP_SECONDS:
            return not stop.is_set()
    return False


async def _answered(number: int, send: Send, recording: Recording, start: float) -> None:
    answer = await send(number)
    now = asyncio.get_running_loop().time()
    recording.note(number, answer, start=start, now=now)


def _forget_sound(tasks: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is None:
        tasks.discard(task)


def _note_interruption(recording: Recording, start: float, stop: asyncio.Event) -> None:
    elapsed = asyncio.get_running_loop().time() - start
    if stop.is_set() and elapsed < recording.seconds:
        recording.interrupted = True
        recording.seconds = max(elapsed, 1e-9)


async def _drain(tasks: Iterable[asyncio.Task[None]], seconds: float) -> None:
    waiting = set(tasks)
    if waiting:
        await asyncio.wait(waiting, timeout=seconds)


async def _cancelled(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel what is left and pass on what went wrong in it."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
            raise result


async def _watch(recording: Recording, start: float, watch: Watcher) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(0.1)
        watch(recording, loop.time() - start)
