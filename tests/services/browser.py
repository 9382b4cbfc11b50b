"""Debian's Chromium under test, driven from a thread of its own.

Playwright's blocking interface keeps an event loop running in its thread, in which no other test
could start one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, Literal, TypeVar

from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from tests.services.processes import missing

Scheme = Literal["light", "dark"]
T = TypeVar("T")

ARGUMENTS: Final = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")


@dataclass(frozen=True, slots=True)
class Sight(Generic[T]):
    """What a look at a page gave."""

    found: T
    complaints: list[str]
    """Errors and warnings of its console, and exceptions of its scripts."""
    requests: list[str]
    """Everything that was fetched, the page itself first."""


class BrowserService:
    """One headless browser; each look is at a fresh page without history or cache."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="browser")
        self._playwright, self._browser = self._thread.submit(_launched).result()

    def look(
        self,
        page: Path | str,
        with_eyes: Callable[[Page], T],
        *,
        width: int = 1280,
        height: int = 800,
        scheme: Scheme = "light",
    ) -> Sight[T]:
        """Open `page`, a file or an address, and return what `with_eyes` makes of it."""
        address = page if isinstance(page, str) else page.resolve().as_uri()

        def at() -> Sight[T]:
            complaints: list[str] = []
            requests: list[str] = []
            context = self._browser.new_context(
                viewport={"width": width, "height": height}, color_scheme=scheme
            )
            try:
                tab = context.new_page()
                tab.on("request", lambda request: requests.append(request.url))
                tab.on("pageerror", lambda error: complaints.append(str(error)))
                tab.on(
                    "console",
                    lambda said: (
                        complaints.append(said.text) if said.type in {"error", "warning"} else None
                    ),
                )
                tab.goto(address, wait_until="load")
                return Sight(with_eyes(tab), complaints, requests)
            finally:
                context.close()

        return self._thread.submit(at).result()

    def close(self) -> None:
        """End the browser."""
        self._thread.submit(self._browser.close).result()
        self._thread.submit(self._playwright.stop).result()
        self._thread.shutdown()

    @classmethod
    def require(cls) -> str:
        """Path of the browser; skip or fail the test when there is none."""
        found = shutil.which("chromium")
        if found is None:
            missing("Chromium", "run `apt-get install chromium`")
        return str(found)


def _launched() -> tuple[Playwright, Browser]:
    playwright = sync_playwright().start()
    browser = playwright.chromium.launch(
        executable_path=BrowserService.require(), args=list(ARGUMENTS)
    )
    return playwright, browser
