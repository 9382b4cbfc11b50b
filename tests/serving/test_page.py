"""The page at `/` in a real browser, against a real server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page

from ibook_assets.core.rollout import Entrant
from ibook_assets.core.settings import Settings
from ibook_assets.models.bundle import ModelBundle
from ibook_serving.page.routes import STATIC
from ibook_serving.page.shown import age, exact, milliseconds, money, percent, quantile
from tests.services.browser import BrowserService, Scheme
from tests.serving.damage import publish_damaged_model
from tests.serving.harness import (
    ADMIN_KEY,
    ORDER,
    RunningServer,
    challenge,
    promote,
    running,
    small_bundle,
)
from tests.serving.history import publish_history
from tests.serving.shown import promote_judged, store_drift
from tests.sim.test_browser import CONTRASTS, DESK, LEAST_CONTRAST, OVERFLOWING, PHONE

LIVE = "document.body.dataset.state === 'live'"
RATES = "document.getElementById('window').textContent.startsWith('last ')"
PATIENCE_MS = 45_000
"""On a busy machine; nothing waits longer than it must."""
HELD = {**ORDER, "request_id": "held-1", "amount": 4_900.0, "device_id": "dev-1"}

STEP_MS = 50

SCHEMES = pytest.mark.parametrize("scheme", ["light", "dark"])


@pytest.fixture(scope="module")
def lived_in(
    tmp_path_factory: pytest.TempPathFactory, bundle: ModelBundle, next_bundle: ModelBundle
) -> Iterator[RunningServer]:
    """A server with two processes, judged promotions, a canary, a drift record and some traffic."""
    settings = Settings(home=tmp_path_factory.mktemp("lived-in"))
    publish_history(settings)
    promote_judged(settings, bundle, actor="ana", reason="the first <model>")
    promote_judged(settings, next_bundle, actor="ben", reason="retrained")
    challenge(settings, small_bundle("fraud-v3", seed=3), Entrant("canary", 0.25))
    store_drift(settings, day="2026-02-28", champion="fraud-v2", shift=1.5)
    with running(settings, processes=2, environment={"IBOOK_ADMIN_KEY": ADMIN_KEY}) as server:
        for i in range(40):
            server.predict({**ORDER, "user_id": i})
        server.predict(HELD)
        yield server


def wait(page: Page, condition: str) -> None:
    """Until the expression `condition` is true in `page`."""
    # Playwright's own way to wait evaluates text inside the page, which its policy forbids.
    for _ in range(PATIENCE_MS // STEP_MS):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(STEP_MS)
    shown = page.locator("body").inner_text()
    pytest.fail(f"never true: {condition}; the page shows:\n{shown}")


def ask(page: Page, request_id: str, key: str) -> str:
    """What the look-up shows."""
    page.fill("#request-id", request_id)
    page.fill("#admin-key", key)
    page.press("#admin-key", "Enter")
    found = page.locator("#found > .trace, #found > .refused").first
    found.wait_for(timeout=PATIENCE_MS)
    return found.inner_text()


def test_without_scripts_it_says_all_that_is_known(lived_in: RunningServer) -> None:
    answer = lived_in.client.get("/")
    text = answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    said = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))
    assert "Serving fraud-v2 beside canary fraud-v3" in said
    assert "2 of 2 processes" in said
    assert re.search(r"Requests (4[1-9]|[5-9]\d|\d{3,})", said)
    assert "25% configured" in said
    assert "Drifted, not confirmed yet" in said
    assert "Gate: 7 of 7 rules passed against fraud-v1" in said
    assert re.search("Rolling back puts fraud-v1 in the place of fraud-v2 ?, without", said)
    assert re.search("Withdrawing takes out fraud-v3 and leaves fraud-v2 alone", said)
    assert ".venv/bin/ibook withdraw fraud --reason &quot;…&quot;" in text
    assert ".venv/bin/ibook rollback fraud --reason &quot;…&quot;" in text
    assert "the first &lt;model&gt;" in text
    assert "x-api-key: $IBOOK_ADMIN_KEY" in text


def test_its_files_are_cached_until_they_change(lived_in: RunningServer) -> None:
    for name, kind in STATIC.items():
        answer = lived_in.client.get(f"/page/{name}")
        assert answer.headers["content-type"] == kind
        assert answer.headers["cache-control"] == "no-cache"
        tag = answer.headers["etag"]
        again = lived_in.client.get(f"/page/{name}", headers={"if-none-match": f'"x", W/{tag}'})
        assert (again.status_code, again.content) == (304, b"")
        other = lived_in.client.get(f"/page/{name}", headers={"if-none-match": '"x"'})
        assert (other.status_code, other.content) == (200, answer.content)


@pytest.mark.parametrize("path", ["/", "/page/evidence", "/page/page.js"])
def test_nothing_from_elsewhere_may_run(lived_in: RunningServer, path: str) -> None:
    policy = lived_in.client.get(path).headers["content-security-policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert {rules[kind] for kind in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert rules["frame-ancestors"] == "'none'"


def test_what_is_written_into_it_does_not_run(
    browser: BrowserService, lived_in: RunningServer
) -> None:
    def eyes(page: Page) -> Any:
        page.evaluate(
            """() => {
              const script = document.createElement("script");
              script.textContent = "window.foreign = true";
              document.body.append(script);
            }"""
        )
        return page.evaluate("window.foreign")

    sight = browser.look(f"{lived_in.url}/", eyes)
    assert sight.found is None
    assert any("Content Security Policy" in complaint for complaint in sight.complaints)


@SCHEMES
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_nothing_hangs_over_fails_or_comes_from_elsewhere(
    browser: BrowserService, lived_in: RunningServer, scheme: Scheme, width: int
) -> None:
    def eyes(page: Page) -> Any:
        wait(page, f"{LIVE} && {RATES}")
        ask(page, "held-1", ADMIN_KEY)
        for summary in page.locator("summary").all():
            summary.click()
        scrolled = page.evaluate("document.documentElement.scrollWidth")
        return page.evaluate(OVERFLOWING), scrolled, page.evaluate(CONTRASTS)

    sight = browser.look(f"{lived_in.url}/", eyes, width=width, scheme=scheme)
    beyond, scrolled, contrasts = sight.found
    assert beyond == []
    assert scrolled == width
    assert len(contrasts) > 100
    assert [found for found in contrasts if found[0] < LEAST_CONTRAST] == []
    assert sight.complaints == []
    assert {url.split("/")[2] for url in sight.requests} == {lived_in.url.split("/")[2]}


def test_numbers_come_alive_and_are_those_of_the_status(
    browser: BrowserService, lived_in: RunningServer
) -> None:
    def eyes(page: Page) -> Any:
        wait(page, f"{LIVE} && {RATES}")
        for _ in range(30):
            lived_in.predict({**ORDER, "user_id": 7, "amount": 4_900.0})
        wait(page, "!document.querySelector('[data-tile=requests] b').textContent.startsWith('0/')")
        wait(page, "document.querySelector('[data-tile=requests] .spark').matches('.on')")
        wait(page, "/^[0-9.]+%$/.test(document.querySelector('[data-tile=review] b').textContent)")
        rows = page.locator("#variants tr").all_inner_texts()
        return rows, page.locator("#state").inner_text(), page.title()

    rows, state, title = browser.look(f"{lived_in.url}/", eyes).found
    assert [row.split()[:2] for row in rows] == [["champion", "fraud-v2"], ["canary", "fraud-v3"]]
    assert all("ms" in row for row in rows[:1])
    assert "75% configured" in rows[0]
    assert (state, title) == ("All is well", "Serving fraud-v2 beside canary fraud-v3 · ibook")


def test_the_script_writes_numbers_as_the_server_does(
    browser: BrowserService, lived_in: RunningServer
) -> None:
    values = [0.0, 0.0042, 0.099, 0.16, 0.5, 1.0, 1.24, 42.0, 119.0, 7_300.0, 999_999.0]
    buckets, bounds = [0, 3, 3, 9, 10, 12], [0.001, 0.01, 0.05, 0.1, 0.5]
    shares = [0.1, 0.5, 0.75, 0.95, 1.0]
    script = """async ([values, buckets, bounds, shares]) => {
      const shown = await import("/page/numbers.js");
      const { percent, exact, money, milliseconds, age } = shown;
      return [...[percent, exact, money, milliseconds, age].map(write => values.map(v => write(v))),
              shares.map(q => shown.quantile(buckets, bounds, q))];
    }"""
    given = [values, buckets, bounds, shares]
    found = browser.look(f"{lived_in.url}/", lambda page: page.evaluate(script, given)).found
    for write, written in zip((percent, exact, money, milliseconds, age), found, strict=False):
        assert written == [write(value) for value in values], write.__name__
    assert found[-1] == [quantile(buckets, bounds, q) for q in shares]


def test_the_keyboard_reaches_the_look_up_and_its_answer(
    browser: BrowserService, lived_in: RunningServer
) -> None:
    def eyes(page: Page) -> Any:
        wait(page, "!document.getElementById('lookup-fields').disabled")
        page.keyboard.press("Tab")
        skip = page.evaluate("document.activeElement.textContent")
        visible = page.evaluate("document.activeElement.getBoundingClientRect().top >= 0")
        page.keyboard.press("Enter")
        for _ in range(60):
            page.keyboard.press("Tab")
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid", page.evaluate("document.activeElement.outerHTML")
            if page.evaluate("document.activeElement.id") == "request-id":
                break
        page.keyboard.type("held-1")
        page.keyboard.press("Tab")
        page.keyboard.type(ADMIN_KEY)
        page.keyboard.press("Enter")
        page.locator("#found .trace").wait_for(timeout=PATIENCE_MS)
        return skip, visible, page.locator("#found").inner_text(), page.url

    skip, visible, text, url = browser.look(f"{lived_in.url}/", eyes).found
    assert (skip, visible) == ("Skip to the content", True)
    assert "review" in text
    assert "Total charged: 4,900.00 (raises the risk)" in text
    assert ".venv/bin/ibook replay held-1" in text
    assert ".venv/bin/ibook trace held-1" in text
    assert "challenge by" in text
    assert ADMIN_KEY not in text
    assert ADMIN_KEY not in url


def test_a_look_up_that_fails_says_why_and_keeps_no_key(
    browser: BrowserService, lived_in: RunningServer
) -> None:
    def eyes(page: Page) -> Any:
        wait(page, "!document.getElementById('lookup-fields').disabled")
        wrong, unknown = ask(page, "held-1", "not the key"), ask(page, "nobody", ADMIN_KEY)
        kept = page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]")
        page.reload()
        return wrong, unknown, kept, page.input_value("#admin-key")

    wrong, unknown, kept, after = browser.look(f"{lived_in.url}/", eyes).found
    assert "Wrong key" in wrong
    assert "Unknown request" in unknown
    assert "nobody" in unknown
    assert (kept, after) == ([0, 0, ""], "")


def test_a_promotion_a_refusal_and_the_end_show_without_a_reload(
    browser: BrowserService, settings: Settings, bundle: ModelBundle, next_bundle: ModelBundle
) -> None:
    promote(settings, bundle)
    publish_history(settings)
    with running(settings) as server:

        def eyes(page: Page) -> Any:
            wait(page, LIVE)
            page.evaluate("window.stays = true")
            first = page.locator("#headline").inner_text()
            promote_judged(settings, next_bundle, actor="ana", reason="better by a point")
            wait(page, "document.getElementById('headline').textContent.includes('fraud-v2')")
            wait(page, "document.getElementById('promotions').textContent.includes('by a point')")
            page.locator("#gate-2-0 summary").click()
            publish_damaged_model(settings, small_bundle("fraud-v3", seed=3))
            wait(page, "document.getElementById('verdict').matches('.bad')")
            wait(page, "document.getElementById('promotions').textContent.includes('not served')")
            refused = page.locator("#verdict").inner_text(), page.title()
            opened = page.locator("#gate-2-0").get_attribute("open")
            server.terminate()
            wait(page, "document.body.dataset.state === 'stale'")
            stale = page.locator("#pulse").inner_text()
            return first, refused, opened, stale, page.evaluate("window.stays")

        first, (verdict, title), opened, stale, stays = browser.look(f"{server.url}/", eyes).found
    assert first == "Serving fraud-v1"
    assert "Model fraud-v3 was refused" in verdict
    assert "1 thing is broken" in verdict
    assert "fraud-v2 stays in use" in verdict
    assert title.startswith("⚠ Serving fraud-v2")
    assert opened is not None
    assert stale.startswith("stale since ")
    assert stays is True


def test_it_rests_while_nobody_looks(browser: BrowserService, lived_in: RunningServer) -> None:
    hide = """hidden => {
      Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""

    def eyes(page: Page) -> Any:
        wait(page, LIVE)
        page.evaluate(hide, True)
        paused = page.locator("#pulse").inner_text()
        page.evaluate(hide, False)
        wait(page, LIVE)
        return paused

    assert browser.look(f"{lived_in.url}/", eyes).found == "paused"


def test_landmarks_and_names_are_there(browser: BrowserService, lived_in: RunningServer) -> None:
    def eyes(page: Page) -> Any:
        return page.evaluate(
            """() => ({
              landmarks: ["header", "nav", "main"].map(
                tag => document.querySelectorAll(tag).length),
              titles: [...document.querySelectorAll("h1, h2")].map(e => e.tagName),
              nameless: [...document.querySelectorAll("section")].filter(
                e => !document.getElementById(e.getAttribute("aria-labelledby"))).length,
              heads: [...document.querySelectorAll("th")].filter(e => !e.scope).length,
              unlabelled: [...document.querySelectorAll("input")].filter(
                e => !e.labels.length).length,
              twice: [...document.querySelectorAll("[id]")].map(e => e.id),
              live: document.getElementById("state").getAttribute("role"),
              language: document.documentElement.lang,
            })"""
        )

    found = browser.look(f"{lived_in.url}/", eyes).found
    assert found["landmarks"] == [1, 1, 1]
    assert found["titles"] == ["H1", "H2", "H2", "H2", "H2"]
    assert (found["nameless"], found["heads"], found["unlabelled"]) == (0, 0, 0)
    assert len(found["twice"]) == len(set(found["twice"]))
    assert (found["live"], found["language"]) == ("status", "en")
