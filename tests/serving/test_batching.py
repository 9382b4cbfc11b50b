"""Coalescing: order, version purity, bounds, and failures that reach every caller."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibook_serving.http.problems import ProblemError
from ibook_serving.scoring.batching import BATCH_ROWS, Batcher

Call = tuple[str, list[int]]


def recording(calls: list[Call]) -> Batcher[str, int, tuple[str, int]]:
    async def answer(key: str, items: Sequence[int]) -> list[tuple[str, int]]:
        calls.append((key, list(items)))
        return [(key, item * 10) for item in items]

    return Batcher(answer, limit=10_000)


def test_requests_of_one_tick_share_one_call() -> None:
    calls: list[Call] = []

    async def run() -> list[list[tuple[str, int]]]:
        batcher = recording(calls)
        return await asyncio.gather(*(batcher.submit("v1", [i]) for i in range(5)))

    assert asyncio.run(run()) == [[("v1", i * 10)] for i in range(5)]
    assert calls == [("v1", [0, 1, 2, 3, 4])]


@given(st.lists(st.tuples(st.sampled_from(["v1", "v2"]), st.integers(1, 3 * BATCH_ROWS))))
def test_every_request_gets_its_own_answers_from_one_version(
    requests: list[tuple[str, int]],
) -> None:
    calls: list[Call] = []

    async def run() -> list[list[tuple[str, int]]]:
        batcher = recording(calls)
        answers = await asyncio.gather(*(batcher.submit(k, range(n)) for k, n in requests))
        assert batcher.pending == 0
        return answers

    answers = asyncio.run(run())
    assert answers == [[(key, i * 10) for i in range(n)] for key, n in requests]
    assert all(len(items) <= BATCH_ROWS for _, items in calls)


def test_more_than_the_limit_is_refused_with_retry_after() -> None:
    async def echo(_: str, items: Sequence[int]) -> list[int]:
        return list(items)

    async def run() -> list[object]:
        batcher: Batcher[str, int, int] = Batcher(echo, limit=3)
        return await asyncio.gather(
            *(batcher.submit("v1", [i, i]) for i in range(3)), return_exceptions=True
        )

    first, *rest = asyncio.run(run())
    assert first == [0, 0]
    for refused in rest:
        assert isinstance(refused, ProblemError)
        assert (refused.status, refused.headers) == (503, {"Retry-After": "1"})


def test_a_failure_reaches_every_caller_of_the_batch_and_no_other() -> None:
    async def answer(key: str, items: Sequence[int]) -> Sequence[int]:
        if key == "bad":
            raise ZeroDivisionError
        return items

    async def run() -> tuple[object, object, object]:
        batcher = Batcher(answer, limit=100)
        return await asyncio.gather(
            batcher.submit("bad", [1]),
            batcher.submit("bad", [2]),
            batcher.submit("good", [3]),
            return_exceptions=True,
        )

    first, second, third = asyncio.run(run())
    assert isinstance(first, ZeroDivisionError)
    assert isinstance(second, ZeroDivisionError)
    assert third == [3]


def test_a_caller_that_hangs_up_does_not_take_the_others_with_it() -> None:
    async def run() -> list[tuple[str, int]]:
        batcher = recording([])
        gone = asyncio.ensure_future(batcher.submit("v1", [1]))
        stays = asyncio.ensure_future(batcher.submit("v1", [2]))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        return await stays

    assert asyncio.run(run()) == [("v1", 20)]
