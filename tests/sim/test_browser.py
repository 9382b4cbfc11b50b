"""The report in a real browser: whole, quiet, legible on a phone and in the dark."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from ibook_sim.offline.running import planned, run
from ibook_sim.realtime.findings import findings
from ibook_sim.realtime.load import simulated
from ibook_sim.realtime.running import run as run_in_real_time
from ibook_sim.report import read_summary, write_report
from ibook_sim.scenarios import mixed, parse_weights, scenario
from tests.services.browser import BrowserService, Scheme

PHONE, DESK = 360, 1280
LEAST_CONTRAST = 4.5

CONTRASTS = """() => {
  const parse = text => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return { rgb: [r, g, b], a };
  };
  const luminance = rgb => {
    const [r, g, b] = rgb.map(v => v / 255).map(
      v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const found = parse(getComputedStyle(e).backgroundColor);
      if (found.a === 1) return found.rgb;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim()) continue;
    const style = getComputedStyle(element);
    const ink = parse(element.closest("svg") ? style.fill : style.color).rgb;
    const [dark, light] = [luminance(ink), luminance(behind(element))].sort((a, b) => a - b);
    found.push([(light + 0.05) / (dark + 0.05), walker.currentNode.textContent.trim()]);
  }
  return found;
}"""

OVERFLOWING = """() => {
  const width = document.documentElement.clientWidth;
  const own = [...document.querySelectorAll(".wide")].filter(e => e.scrollWidth > e.clientWidth);
  const beyond = [...document.querySelectorAll("body *")].filter(
    e => e.getBoundingClientRect().right > width + 1 && !e.closest(".wide, thead"));
  return [...own, ...beyond].map(e => e.outerHTML.slice(0, 80));
}"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of each kind: spoilt and compared, failed, mixed and drifting, in real time."""
    folder = tmp_path_factory.mktemp("pages")
    spoilt = run(planned(scenario("system-degradation"), seed=7, orders=3_000))
    before = read_summary(write_report(spoilt, folder / "before.html"))
    again = run(planned(scenario("system-degradation"), seed=8, orders=3_000))
    write_report(again, folder / "compared.html", previous=before)
    drifting = scenario("drift").model_copy(update={"name": "normal-traffic"})
    strict = drifting.model_copy(update={"objectives": scenario("null").objectives})
    write_report(run(planned(strict, seed=7, orders=3_000)), folder / "failed.html")
    parts = mixed(parse_weights("drift:50,system-degradation:50"))
    write_report(run(planned(parts, seed=7, orders=3_000)), folder / "mixed.html")
    load = simulated(scenario("flash-sale"), seed=7, rps=60.0, seconds=1.0)
    done = asyncio.run(
        run_in_real_time(load, api=None, room=None, sink=None, watch=lambda _, __: None)
    )
    write_report(findings(done), folder / "realtime.html")
    return {path.stem: path for path in folder.glob("*.html")}


KINDS = pytest.mark.parametrize("kind", ["compared", "failed", "mixed", "realtime"])
SCHEMES = pytest.mark.parametrize("scheme", ["light", "dark"])
WIDTHS = pytest.mark.parametrize("width", [PHONE, DESK])


@KINDS
@SCHEMES
@WIDTHS
def test_nothing_hangs_over_and_nothing_is_fetched(
    browser: BrowserService, pages: dict[str, Path], kind: str, scheme: Scheme, width: int
) -> None:
    def eyes(page: Page) -> Any:
        for details in page.locator("summary").all():
            details.click()
        return page.evaluate(OVERFLOWING), page.evaluate("document.documentElement.scrollWidth")

    sight = browser.look(pages[kind], eyes, width=width, scheme=scheme)
    beyond, scrolled = sight.found
    assert beyond == []
    assert scrolled == width
    assert sight.complaints == []
    assert [r for r in sight.requests if not r.startswith("data:")] == [pages[kind].as_uri()]


@KINDS
@SCHEMES
def test_every_text_stands_out_from_what_is_behind_it(
    browser: BrowserService, pages: dict[str, Path], kind: str, scheme: Scheme
) -> None:
    sight = browser.look(pages[kind], lambda page: page.evaluate(CONTRASTS), scheme=scheme)
    assert len(sight.found) > 50
    assert [found for found in sight.found if found[0] < LEAST_CONTRAST] == []


def test_light_and_dark_differ(browser: BrowserService, pages: dict[str, Path]) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    light, dark = (
        browser.look(pages["failed"], lambda page: page.evaluate(colour), scheme=scheme).found
        for scheme in ("light", "dark")
    )
    assert light != dark


@KINDS
@pytest.mark.parametrize(("width", "height"), [(PHONE, 640), (DESK, 720)])
def test_the_verdict_is_seen_without_scrolling(
    browser: BrowserService, pages: dict[str, Path], kind: str, width: int, height: int
) -> None:
    sight = browser.look(
        pages[kind],
        lambda page: (
            page.locator(".verdict").bounding_box(),
            page.locator(".verdict").inner_text(),
        ),
        width=width,
        height=height,
    )
    box, text = sight.found
    assert box is not None
    assert box["y"] + box["height"] <= height
    assert any(word in text for word in ("PASSED", "FAILED", "INVALID"))


@KINDS
def test_the_keyboard_opens_the_configuration(
    browser: BrowserService, pages: dict[str, Path], kind: str
) -> None:
    def eyes(page: Page) -> Any:
        for _ in range(20):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.textContent") == "Configuration":
                break
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        page.keyboard.press("Enter")
        return outline, page.locator("details[open] pre").inner_text()

    outline, text = browser.look(pages[kind], eyes).found
    assert outline == "solid"
    assert '"objectives"' in text


@KINDS
def test_charts_and_tables_have_names(
    browser: BrowserService, pages: dict[str, Path], kind: str
) -> None:
    def eyes(page: Page) -> Any:
        return page.evaluate(
            """() => ({
              charts: [...document.querySelectorAll("svg[role=img]")].map(e => e.ariaLabel),
              heads: [...document.querySelectorAll("th")].map(e => e.scope),
              titles: [...document.querySelectorAll("h1, h2, h3")].map(e => e.tagName),
              language: document.documentElement.lang,
            })"""
        )

    found = browser.look(pages[kind], eyes).found
    assert len(found["charts"]) >= 5
    assert all(found["charts"])
    assert set(found["heads"]) == {"col", "row"}
    assert found["titles"][0] == "H1"
    assert found["titles"].count("H1") == 1
    assert found["language"] == "en"
