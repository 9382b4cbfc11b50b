"""The drift that was asked for, what of it was reached, and whether the platform would ring."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from ibook_sim.drift import DRIFT_THRESHOLD
from ibook_sim.report.objectives import gauge, number

Found = Mapping[str, Any]


def drift_section(found: Found) -> str:
    """Columns against their undrifted twin; in a mix, each part with its own."""
    parts = [part for part in found["parts"] if part["drift"]["columns"]]
    if not parts:
        return (
            "<section><h2>Drift</h2><p>Recorded days have no undrifted twin to be held against."
            "</p></section>"
        )
    if len(parts) == 1:
        body = _about(parts[0]) + _columns(parts[0])
    else:
        moved = [part for part in parts if part["drift"]["score"] > 0.0]
        still = [escape(part["scenario"]) for part in parts if part not in moved]
        body = "<p>Each part is a world of its own and is held against its own undrifted twin.</p>"
        body += "".join(
            f"<h3>{escape(part['scenario'])}</h3>{_about(part)}{_columns(part)}" for part in moved
        )
        body += f"<p>Not moved at all: {', '.join(still)}.</p>" if still else ""
    return f"<section><h2>Drift</h2>{body}</section>"


def _about(part: Found) -> str:
    drift = part["drift"]
    reached = "".join(
        f"; {escape(axis)} reached {number(share)}" for axis, share in drift["reached"].items()
    )
    rings = "counts as drift" if drift["score"] >= DRIFT_THRESHOLD else "does not count as drift"
    axes = f" along {', '.join(drift['axes'])}" if drift["axes"] else ""
    return (
        f"<p>Level asked: {drift['level']:g}{axes}{reached}. Most moved column: stability index "
        f"{drift['score']:.3f}, which {rings} (from {DRIFT_THRESHOLD:g}).</p>{_platform(part)}"
    )


def _platform(part: Found) -> str:
    """What the platform's own monitoring says of the same orders."""
    found = part.get("platform_drift")
    if found is None:
        return ""
    if found["score"] is None:
        return f"<p>The platform's own monitoring has no verdict: {escape(found['reason'])}.</p>"
    fires = "fires" if found["fires"] else "stays below"
    drifted = ", ".join(found["drifted"])
    which = f" ({escape(drifted)})" if drifted else ""
    return (
        f"<p>The platform's own monitoring of the {found['columns']} columns of an order: "
        f"calibrated verdict <b>{escape(found['verdict'])}</b>{which}; its drift score, the share "
        f"of columns far from the twin's, is {found['score']:.2f} and {fires} "
        f"{found['threshold']:.2f}.</p>"
    )


def _columns(part: Found) -> str:
    rows = "".join(
        f'<tr><th scope="row"><code>{escape(name)}</code></th><td class="bar">'
        f"{gauge(index, DRIFT_THRESHOLD, good=index < DRIFT_THRESHOLD)}</td>"
        f'<td data-name="stability index">{index:.4f}</td>'
        f'<td data-name="total variation">{variation:.4f}</td></tr>'
        for name, (index, variation) in part["drift"]["columns"].items()
    )
    return (
        '<div class="card wide"><table class="rows"><thead><tr><th scope="col">column</th>'
        '<th scope="col" class="bar">against the threshold</th>'
        '<th scope="col">stability index</th><th scope="col">total variation</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
