"""Plots of the world: the committed ones are of the world as it is, and legible on any page."""

import json
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from typer.testing import CliRunner

from ibook_sim.cli import app
from ibook_sim.plots import PLOTS, drawing
from ibook_sim.plots.drawing import Panel, Scale, Ticks

COMMITTED: Final = Path(__file__).parents[2] / "docs" / "img"
SVG: Final = "{http://www.w3.org/2000/svg}"
COLOURS: Final = {
    name: value
    for name, value in vars(drawing).items()
    if isinstance(value, str) and value.startswith("#")
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plots") / "img"
    done = CliRunner().invoke(app, ["plots", "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    assert [Path(p).name for p in json.loads(done.stdout)["plots"]] == _names()
    return out


def _names() -> list[str]:
    return [f"world-{name}.svg" for name in PLOTS]


@pytest.mark.parametrize("name", _names())
def test_the_committed_plot_is_the_one_drawn_today(name: str, drawn: Path) -> None:
    same = (COMMITTED / name).read_bytes() == (drawn / name).read_bytes()
    assert same, f"{name} is out of date: run `python -m ibook_sim plots --out docs/img`"


def test_no_plot_is_left_over() -> None:
    assert sorted(p.name for p in COMMITTED.glob("world-*.svg")) == sorted(_names())


@pytest.mark.parametrize("name", _names())
def test_a_plot_is_one_picture_that_stands_alone(name: str) -> None:
    # The file is our own; nothing in it comes from outside.
    root = ET.fromstring((COMMITTED / name).read_text(encoding="utf-8"))
    assert root.tag == f"{SVG}svg"
    assert root.findtext(f"{SVG}title")
    assert root.findtext(f"{SVG}desc")
    assert {e.tag.removeprefix(SVG) for e in root.iter()} <= {
        "svg", "title", "desc", "style", "text", "path", "rect", "circle"
    }  # fmt: skip
    assert not [key for e in root.iter() for key in e.attrib if "href" in key]
    _, _, width, height = (float(v) for v in root.attrib["viewBox"].split())
    for text in root.iter(f"{SVG}text"):
        assert 0 <= float(text.attrib["x"]) <= width
        assert 0 <= float(text.attrib["y"]) <= height


@pytest.mark.parametrize("colour", COLOURS.values(), ids=COLOURS.keys())
@pytest.mark.parametrize("page", ["#ffffff", "#0d1117"], ids=["white", "dark"])
def test_every_colour_stands_out_from_the_page(colour: str, page: str) -> None:
    # WCAG 2.2, success criterion 1.4.11: at least 3 to 1.
    light, dark = sorted((_luminance(colour), _luminance(page)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 3.0


def _luminance(colour: str) -> float:
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize(
    ("scale", "value", "share"),
    [
        (Scale(0, 10), 2.5, 0.25),
        (Scale(1, 100, "log"), 10.0, 0.5),
        (Scale(0.01, 0.99, "odds"), 0.5, 0.5),
        (Scale(0.1, 0.9, "odds"), 0.75, 0.75),  # odds 1/9, 3, 9: ln 27 / ln 81 = 3 / 4
        (Scale(0, 1), 7.0, 1.0),
    ],
    ids=["linear", "log", "odds, middle", "odds, aside", "beyond the end"],
)
def test_scales(scale: Scale, value: float, share: float) -> None:
    assert float(scale.share(value)) == pytest.approx(share)


def test_marks_are_where_the_values_say() -> None:
    panel = Panel(100, 20, 200, 80, Scale(0, 10), Scale(0, 4))
    panel.line(np.array([0.0, 5.0, 10.0]), np.array([0.0, 4.0, 1.0]), "#123456")
    assert 'd="M100.0 100.0L200.0 20.0L300.0 80.0"' in panel.marks[-1]
    panel.bars(np.array([5.0]), np.array([0.0]), np.array([2.0]), "#123456", width=10)
    assert 'd="M195.0 100.0h10.0V60.0h-10.0Z"' in panel.marks[-1]


@pytest.mark.parametrize(
    ("top", "labels"),
    [(35.0, ["0", "10", "20", "30"]), (2_400.0, ["0", "500", "1,000", "1,500", "2,000"])],
)
def test_ticks_are_round(top: float, labels: list[str]) -> None:
    assert Ticks.upto(top, 3).labels == labels
