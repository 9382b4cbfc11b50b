"""The whole page: the verdict first, then numbers, then what the lake says, then the look-up."""

from __future__ import annotations

from html import escape
from typing import Final

from ibook_serving.page.evidence import evidence_section
from ibook_serving.page.live import live_section, verdict_section
from ibook_serving.page.lookup import lookup_section
from ibook_serving.page.shown import moment
from ibook_serving.status.api import Status
from ibook_serving.status.evidence import Evidence

FOLDER: Final = "/page"

_SYMBOLS: Final = """<svg hidden><symbol id="i-well" viewBox="0 0 40 40">
<circle cx="20" cy="20" r="20"/><path d="M12 20.5l6 6 11-13"/></symbol>
<symbol id="i-warn" viewBox="0 0 40 40"><circle cx="20" cy="20" r="20"/>
<path d="M20 10v13M20 29v.5"/></symbol><symbol id="i-bad" viewBox="0 0 40 40">
<circle cx="20" cy="20" r="20"/><path d="M13 13l14 14M27 13l-14 14"/></symbol></svg>"""


def document(status: Status, evidence: Evidence, *, origin: str) -> str:
    """The page of a server that is reached at `origin`."""
    title = escape(f"{status.verdict.headline} · ibook")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="color-scheme" content="light dark"><title>{title}</title>
<link rel="icon" href="{FOLDER}/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="{FOLDER}/page.css">
<script type="module" src="{FOLDER}/page.js"></script></head>
<body><a class="skip" href="#main">Skip to the content</a>{_SYMBOLS}
<header><p class="brand"><b>ibook</b> {escape(status.use_case)} scoring</p>
<nav aria-label="Sections"><a href="#live">Live</a> <a href="#drift">Drift</a>
<a href="#promotions">Promotions</a> <a href="#lookup">Look-up</a> <a href="/docs">API</a></nav>
<p id="pulse">as of {moment(status.read_at)}</p></header>
<main id="main" tabindex="-1">{verdict_section(status)}{live_section(status)}
{evidence_section(evidence, status)}{lookup_section(origin)}</main></body></html>
"""
