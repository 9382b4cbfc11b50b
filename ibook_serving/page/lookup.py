"""The look-up of one prediction: the form; `static/lookup.js` shows what it finds."""

from __future__ import annotations

from html import escape
from typing import Final

from ibook_assets.core.ids import NAME_PATTERN
from ibook_serving.page.evidence import command

_CURL: Final = 'curl -H "x-api-key: $IBOOK_ADMIN_KEY" {origin}/traces/<request id>'


def lookup_section(origin: str) -> str:
    """Asks for a request id and the admin key; without scripts it says how to ask by hand."""
    # Browsers read patterns as sets of characters, in which a lone hyphen is a mistake.
    pattern = escape(NAME_PATTERN.strip("^$").replace("_-]", r"_\-]"))
    return f"""<section id="lookup" aria-labelledby="lookup-title">
<h2 id="lookup-title">Look up a prediction</h2><div class="card body">
<form id="lookup-form" autocomplete="off"><fieldset id="lookup-fields" disabled>
<label>Request id <input id="request-id" name="request_id" required pattern="{pattern}"
autocapitalize="off" spellcheck="false" title="1 to 64 letters, digits, _ or -"></label>
<label>Admin key <input id="admin-key" name="key" type="password" required autocomplete="off"
aria-describedby="key-note"></label><button type="submit">Look up</button></fieldset>
<p class="note" id="key-note">The <code>request_id</code> of an answer. The key stays in this page's
memory and is gone with it.</p></form>
<noscript><p>Without scripts, ask by hand:</p>{command(_CURL.format(origin=origin))}</noscript>
<div id="found" aria-live="polite"></div></div></section>"""
