"""The documents: links lead somewhere, commands and settings that they name exist."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path
from typing import Final

import pytest
import typer

from ibook_assets.cli import app
from ibook_assets.core.settings import Settings
from scripts.env_example import variable

ROOT: Final = Path(__file__).parents[1]
DOCUMENTS: Final = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
)
DEPLOYMENT: Final = ("docker-compose.yml", "deploy/dagster.yaml")
"""Files that declare variables of their own, such as PostgreSQL's."""

_LINK: Final = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE: Final = re.compile(r"^```[^\n]*\n(.*?)^```|`([^`\n]+)`", re.MULTILINE | re.DOTALL)
_VARIABLE: Final = re.compile(r"\bIBOOK_[A-Z0-9_]+\b")

each_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


def code_in(text: str) -> list[str]:
    """Contents of code blocks and code spans."""
    return [block or span for block, span in _CODE.findall(text)]


def make_targets(text: str) -> set[str]:
    """Targets named in code; `demo` and `test` of `make demo|test` alike."""
    found = chain.from_iterable(
        re.findall(r"(?:^|[\s;&])make ([a-z][a-z|-]*)", code, re.MULTILINE)
        for code in code_in(text)
    )
    return {target for names in found for target in names.split("|")}


def ibook_commands(text: str) -> set[str]:
    """Subcommands of `ibook` named in code."""
    found = (
        re.findall(r"(?:^|[\s/])ibook ([a-z][a-z-]*)", code, re.MULTILINE) for code in code_in(text)
    )
    return set(chain.from_iterable(found))


def anchors(markdown: str) -> set[str]:
    """Anchors of headings, as code hosts make them."""
    titles = re.findall(r"^#+ (.+)$", markdown, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


@each_document
def test_relative_links_lead_to_files_and_headings(document: Path) -> None:
    for link in _LINK.findall(document.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert target.is_relative_to(ROOT), f"{link} leaves the repository"
        if anchor:
            assert anchor in anchors(target.read_text()), link


@each_document
def test_make_targets_exist(document: Path) -> None:
    declared = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert make_targets(document.read_text()) <= declared


@each_document
def test_ibook_commands_exist(document: Path) -> None:
    group = typer.main.get_command(app)
    assert ibook_commands(document.read_text()) <= set(getattr(group, "commands", {}))


@each_document
def test_variables_exist(document: Path) -> None:
    settings = {variable(name, field) for name, field in Settings.model_fields.items()}
    deployment = {
        name for file in DEPLOYMENT for name in _VARIABLE.findall((ROOT / file).read_text())
    }
    assert set(_VARIABLE.findall(document.read_text())) <= settings | deployment


def test_every_decision_is_numbered_once() -> None:
    names = sorted(path.name for path in (ROOT / "docs" / "adr").glob("*.md"))
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))


def test_the_rules_find_what_they_look_for() -> None:
    text = (
        "Use `make demo|test`, `make bench ARGS=x`; these make sense.\n\n"
        "```sh\n.venv/bin/ibook promote fraud\nmake dev\n```\n"
    )
    assert make_targets(text) == {"demo", "test", "bench", "dev"}
    assert ibook_commands(text) == {"promote"}
    assert anchors("## Feed it your file\n") == {"feed-it-your-file"}
