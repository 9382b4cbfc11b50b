"""Following publications: swap to the newest, refuse what does not load, keep the old."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from ibook_assets.core.errors import ContractError, StoreUnavailableError
from ibook_serving.scoring.following import Follower, Publication


@dataclass
class Shelf:
    """A store with one thing published; loading a text starting with 'bad' fails."""

    published: str | None = None
    down: bool = False
    loads: list[str] = field(default_factory=list)

    def newest(self) -> Publication[str] | None:
        if self.down:
            msg = "the shelf does not answer"
            raise StoreUnavailableError(msg)
        return (
            None
            if self.published is None
            else Publication(self.published, self.published, self.published)
        )

    def load(self, content: str) -> str:
        self.loads.append(content)
        if content == "bad on purpose":
            msg = "bad on purpose is not what its record says"
            raise ContractError(msg)
        if content == "bad by surprise":
            raise ZeroDivisionError(self, "/secret/path")
        return content.upper()


def refusals(follower: Follower[str, str]) -> list[object]:
    return [r for r in (follower.refusal,) if r is not None]


def follow(
    script: Callable[[Shelf, Follower[str, str], ThreadPoolExecutor], Coroutine[Any, Any, None]],
) -> None:
    shelf = Shelf()
    with ThreadPoolExecutor(1) as executor:
        asyncio.run(script(shelf, Follower("model", shelf.newest, shelf.load), executor))


def test_nothing_published_is_not_a_refusal() -> None:
    async def script(_: Shelf, follower: Follower[str, str], executor: ThreadPoolExecutor) -> None:
        assert not await follower.refresh(executor)
        assert (follower.loaded, follower.refusal) == (None, None)

    follow(script)


def test_what_is_published_is_loaded_once_and_swapped_for_the_next() -> None:
    async def script(
        shelf: Shelf, follower: Follower[str, str], executor: ThreadPoolExecutor
    ) -> None:
        shelf.published = "v1"
        assert await follower.refresh(executor)
        assert not await follower.refresh(executor)
        shelf.published = "v2"
        assert await follower.refresh(executor)
        assert (follower.loaded, shelf.loads) == ("V2", ["v1", "v2"])

    follow(script)


@pytest.mark.parametrize(
    ("bad", "shown", "hidden"),
    [
        ("bad on purpose", "not what its record says", "/"),
        ("bad by surprise", "ZeroDivisionError while loading", "/secret/path"),
    ],
)
def test_a_refused_publication_leaves_the_old_one_and_says_why(
    bad: str, shown: str, hidden: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(
        shelf: Shelf, follower: Follower[str, str], executor: ThreadPoolExecutor
    ) -> None:
        shelf.published = "v1"
        await follower.refresh(executor)
        shelf.published = bad
        for _ in range(3):
            assert not await follower.refresh(executor)
        assert follower.loaded == "V1"
        assert follower.refusal is not None
        assert follower.refusal.name == bad
        assert shown in follower.refusal.reason
        assert hidden not in follower.refusal.reason
        assert shelf.loads == ["v1", bad], "tried again only after a while"
        await follower.refresh(executor, force=True)
        assert shelf.loads == ["v1", bad, bad], "unless asked to"
        shelf.published = "v3"
        assert await follower.refresh(executor)
        assert follower.loaded == "V3"
        assert refusals(follower) == []

    follow(script)
    assert sum(r.message == "refused" for r in caplog.records) == 1, "logged once, not each time"


def test_going_back_to_what_is_loaded_clears_the_refusal() -> None:
    async def script(
        shelf: Shelf, follower: Follower[str, str], executor: ThreadPoolExecutor
    ) -> None:
        for published in ("v1", "bad on purpose", "v1"):
            shelf.published = published
            await follower.refresh(executor)
        assert (follower.loaded, follower.refusal) == ("V1", None)

    follow(script)


def test_an_unreachable_store_keeps_what_is_loaded_and_recovers() -> None:
    async def script(
        shelf: Shelf, follower: Follower[str, str], executor: ThreadPoolExecutor
    ) -> None:
        shelf.published = "v1"
        await follower.refresh(executor)
        shelf.down = True
        assert not await follower.refresh(executor)
        assert follower.loaded == "V1"
        assert follower.refusal is not None
        assert "does not answer" in follower.refusal.reason
        shelf.down, shelf.published = False, "v2"
        assert await follower.refresh(executor)
        assert follower.loaded == "V2"
        assert refusals(follower) == []

    follow(script)
