"""The table of objectives, each with how far it is from its limit, and a previous run beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

Found = Mapping[str, Any]

_SIGNS: Final = {"at most": "≤", "at least": "≥"}
_SAME: Final = 1e-3
"""Relative change up to which two figures count as the same."""


class Before:
    """The run before, if there is one to compare with."""

    def __init__(self, previous: Found | None) -> None:
        self.found = previous
        self._values = {c["name"]: c["value"] for c in previous["checks"]} if previous else {}

    def note(self, found: Found) -> str:
        """What is compared with what."""
        if self.found is None:
            return ""
        other = escape(str(self.found.get("scenario", "unknown")))
        seed = escape(str(self.found.get("seed")))
        counts = {"better": 0, "worse": 0, "same": 0}
        for check in found["checks"]:
            if (change := self.change(check)) is not None:
                counts[change] += 1
        words = ", ".join(f"{count} {word}" for word, count in counts.items())
        return f'<p class="note">Against the previous run ({other}, seed {seed}): {words}.</p>'

    def change(self, check: Found) -> str | None:
        """better, worse or same; None when the previous run did not measure it."""
        was, now = self._values.get(check["name"]), check["value"]
        if was is None or now is None:
            return None
        if abs(now - was) <= _SAME * max(abs(now), abs(was)):
            return "same"
        return "better" if (now < was) == (check["sense"] == "at most") else "worse"

    def cell(self, check: Found) -> str:
        """The previous value and what has become of it."""
        if self.found is None:
            return ""
        was, change = self._values.get(check["name"]), self.change(check)
        if change is None:
            return f'<td data-name="previous">{number(was)}</td>'
        sign = {"better": "▲ better", "worse": "▼ worse", "same": "same"}[change]
        if was and change != "same":
            sign += f", {(check['value'] - was) / abs(was):+.1%}"
        return f'<td data-name="previous">{number(was)} <small class="{change}">{sign}</small></td>'

    def digest(self, found: Found) -> str:
        """Whether the runs saw the same."""
        if self.found is None:
            return ""
        same = "equal" if self.found.get("digest") == found["digest"] else "different"
        return f"<p>Compared with the previous run, its digest is {same}.</p>"


def objectives(found: Found, before: Before) -> str:
    """All checks of the run, broken ones first."""
    checks = sorted(found["checks"], key=lambda check: bool(check["passed"]))
    parts = {part["scenario"] for part in found["parts"]} if len(found["parts"]) > 1 else set()
    folded = [c for c in checks if c["passed"] and c["name"].rpartition(": ")[2] in parts]
    shown = [check for check in checks if check not in folded]
    if not folded:
        return f'<div class="card wide">{_table(shown, before)}</div>'
    return (
        f'<div class="card wide">{_table(shown, before)}</div>'
        f'<details class="card wide more"><summary>{len(folded)} more hold, part by part</summary>'
        f"{_table(folded, before)}</details>"
    )


def gauge(value: float | None, limit: float, *, good: bool) -> str:
    """A bar of `value` with a mark at `limit`; what is beyond the scale fills it."""
    top = max(limit * 1.6, min(value or 0.0, limit * 4.0))
    filled = min(max((value or 0.0) / top, 0.0), 1.0)
    shown = f"{number(value)}, limit {number(limit)}"
    return (
        f'<div class="gauge{"" if good else " off"}" role="img" aria-label="{shown}">'
        f'<i style="width:{100 * filled:.1f}%"></i><u style="left:{100 * limit / top:.1f}%"></u>'
        "</div>"
    )


def number(value: object) -> str:
    """A figure with four digits."""
    return f"{value:,.4g}" if isinstance(value, int | float) else "not measured"


def _table(checks: Sequence[Found], before: Before) -> str:
    head = '<th scope="col">previous</th>' if before.found else ""
    rows = "".join(_row(check, before) for check in checks)
    return (
        '<table class="rows"><thead><tr><th scope="col">objective</th>'
        '<th scope="col" class="bar">against its limit</th><th scope="col">value</th>'
        f'<th scope="col">limit</th>{head}<th scope="col">verdict</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _row(check: Found, before: Before) -> str:
    word, sign = ("passed", "✓") if check["passed"] else ("failed", "✗")
    limit = check["limit"]
    # Nothing lies between a value and a limit of nought.
    bar = gauge(check["value"], limit, good=check["passed"]) if limit > 0.0 else ""
    return (
        f'<tr><th scope="row">{escape(check["name"])}<small>{escape(check["about"])}</small></th>'
        f'<td class="bar">{bar}</td><td data-name="value">{number(check["value"])}</td>'
        f'<td data-name="limit">{_SIGNS[check["sense"]]} {number(check["limit"])}</td>'
        f'{before.cell(check)}<td class="mark {word}">{sign} {word}</td></tr>'
    )
