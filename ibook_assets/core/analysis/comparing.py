"""Challenger against champion: from counts by window to findings, canary and shadow alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from ibook_assets.core.analysis.eprocess import Logs, bounded_mean, mixed, rate, two_sample
from ibook_assets.core.analysis.findings import Finding
from ibook_assets.core.analysis.objectives import P95_SHARE, SCORE_CUTS, Objectives
from ibook_assets.core.analysis.units import Mask, Pairs, Requests, Users, Windows, by_window

HIGHER: Final = "higher"
LOWER: Final = "lower"


class _Part(NamedTuple):
    """One event of a metric, compared in one direction."""

    detail: str
    windows: Windows
    evidence: Logs


def canary_findings(
    users: Users, requests: Requests, objectives: Objectives, *, window_us: int
) -> tuple[Finding, ...]:
    """A canary beside the champion over the same minutes.

    Args:
        users: first orders of users since the step began, those of closed windows.
        requests: requests by arm between looks at the server's metrics.
        objectives: what the canary is held to.
        window_us: width of the windows that users are compared in.
    """
    errors = Windows(requests.times_us, requests.errors, requests.answered)
    slower = {
        bound: Windows(requests.times_us, hits, requests.answered)
        for bound, hits in requests.slower.items()
    }
    wasted = users.windows(~users.fraud, window_us, of=users.held & users.mature)
    return (
        _compared("errors", [_more("server errors", errors, objectives.error_odds)], objectives),
        _limited("error_limit", errors, objectives.error_limit, objectives),
        _compared(
            "latency",
            [
                _more(f"slower than {bound * 1_000:g} ms", windows, objectives.latency_odds)
                for bound, windows in slower.items()
            ],
            objectives,
        ),
        _limited("latency_limit", slower[objectives.latency_limit_seconds], P95_SHARE, objectives),
        _compared(
            "flags",
            _both_ways("held", users.windows(users.held, window_us), objectives.flag_odds),
            objectives,
        ),
        _compared(
            "scores",
            [
                part
                for cut in SCORE_CUTS
                for part in _both_ways(
                    f"scores from {cut:g}",
                    users.windows(users.scores >= cut, window_us),
                    objectives.score_odds,
                )
            ],
            objectives,
        ),
        _compared(
            "precision",
            [_more("held without fraud", wasted, objectives.wasted_odds)],
            objectives,
            required=False,
        ),
    )


def shadow_findings(
    pairs: Pairs, batches: Requests, objectives: Objectives, *, window_us: int
) -> tuple[Finding, ...]:
    """A shadow beside the champion on the same orders.

    Tolerated odds are ratios of shares here, of the event and of its not happening.

    Args:
        pairs: first orders of users since the step began, those of closed windows.
        batches: batches of orders that it scored between looks at the server's metrics. Nobody
            waits for a shadow, so that only the limit is judged, and no rollout waits for it.
        objectives: what the shadow is held to.
        window_us: width of the windows that orders are compared in.
    """
    slow = batches.slower[objectives.latency_limit_seconds]
    slower = Windows(batches.times_us, slow, batches.answered)
    said = ~np.isnan(pairs.shadow_scores)
    silent = by_window(pairs.known_us, np.ones_like(said), ~said, window_us)
    both = pairs.scored(said)
    return (
        _limited("silence", silent, objectives.error_limit, objectives),
        _limited("latency_limit", slower, P95_SHARE, objectives, required=False),
        _compared(
            "flags",
            _same_orders(
                "held",
                both,
                both.champion_held,
                both.shadow_held,
                tolerated=objectives.flag_odds,
                window_us=window_us,
            ),
            objectives,
        ),
        _compared(
            "scores",
            [
                part
                for cut in SCORE_CUTS
                for part in _same_orders(
                    f"scores from {cut:g}",
                    both,
                    both.champion_scores >= cut,
                    both.shadow_scores >= cut,
                    tolerated=objectives.score_odds,
                    window_us=window_us,
                )
            ],
            objectives,
        ),
    )


def _same_orders(
    detail: str, pairs: Pairs, champion: Mask, shadow: Mask, *, tolerated: float, window_us: int
) -> list[_Part]:
    """An event of both models on the same orders: shadow above, and below, `tolerated` times."""
    alone = by_window(pairs.known_us, shadow, champion ^ shadow, window_us).hits
    together = by_window(pairs.known_us, np.ones_like(shadow), champion & shadow, window_us)
    orders, shared = together.units[:, 1], together.hits[:, 1]
    windows = Windows(
        together.times_us,
        np.stack([alone[:, 0] + shared, alone[:, 1] + shared], axis=1),
        np.stack([orders, orders], axis=1),
    )
    neither = orders - alone.sum(axis=1) - shared
    parts = []
    for direction, mine, other in ((HIGHER, 1, 0), (LOWER, 0, 1)):
        # Of the event, and of its not happening: where it is common, only that can change much.
        evidence = [
            bounded_mean(
                np.stack([alone[:, mine], alone[:, other], agreed, rest], axis=1),
                (1.0, -tolerated, 1.0 - tolerated, 0.0),
            )
            for agreed, rest in ((shared, neither), (neither, shared))
        ]
        parts.append(_Part(f"{detail}, {direction}", windows, mixed(np.stack(evidence, axis=1))))
    return parts


def _more(detail: str, windows: Windows, tolerated: float) -> _Part:
    found = two_sample(windows.hits, windows.units, tolerated=tolerated)
    return _Part(detail, windows, found)


def _both_ways(detail: str, windows: Windows, tolerated: float) -> list[_Part]:
    rarer = two_sample(windows.misses.hits, windows.units, tolerated=tolerated)
    return [
        _more(f"{detail}, {HIGHER}", windows, tolerated),
        _Part(f"{detail}, {LOWER}", windows, rarer),
    ]


def _compared(
    metric: str, parts: Sequence[_Part], objectives: Objectives, *, required: bool = True
) -> Finding:
    worst = max(parts, key=lambda part: max(part.evidence, default=0.0))
    champion, challenger = worst.windows.units.sum(axis=0).tolist()
    hits = worst.windows.hits.sum(axis=0)
    return Finding(
        metric=metric,
        detail=worst.detail,
        champion_rate=float(hits[0] / champion) if champion else None,
        challenger_rate=float(hits[1] / challenger) if challenger else None,
        champion_units=champion,
        challenger_units=challenger,
        evidence=mixed(np.stack([part.evidence for part in parts], axis=1)),
        times_us=worst.windows.times_us,
        enough=min(champion, challenger) >= objectives.minimum_units,
        required=required,
    )


def _limited(
    metric: str, windows: Windows, limit: float, objectives: Objectives, *, required: bool = True
) -> Finding:
    hits, units = windows.hits[:, 1], windows.units[:, 1]
    total = int(units.sum())
    return Finding(
        metric=metric,
        detail=f"at most {limit:.1%}",
        champion_rate=None,
        challenger_rate=float(hits.sum() / total) if total else None,
        champion_units=0,
        challenger_units=total,
        evidence=rate(hits, units, limit=limit),
        times_us=windows.times_us,
        enough=total >= objectives.minimum_units,
        required=required,
    )
