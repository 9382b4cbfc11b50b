"""One tick's orders: features in one look-up, each order scored by the lane of its user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ibook_serving.http.decode import Row
from ibook_serving.scoring.ports import Deployment, FeatureSource, Fetched, Lane, Matrix


class Scored(NamedTuple):
    """One order and what a lane says of it."""

    lane: Lane
    values: Matrix
    """Shape (f,): `Deployment.features` of the order."""
    score: float
    unknown: tuple[str, ...]
    fetched: Fetched


async def score_rows(
    features: FeatureSource, deployment: Deployment, rows: Sequence[Row]
) -> list[Scored]:
    """Each of `rows` by the lane of its user, all with features of one moment."""
    fetched = await features.fetch(deployment.features, rows)
    lanes = [deployment.lane_of(row["user_id"]) for row in rows]  # type: ignore[arg-type]
    scores = _scores(deployment, lanes, fetched.values)
    return [
        Scored(lane, values, score, unknown, fetched)
        for lane, values, score, unknown in zip(
            lanes, fetched.values, scores, fetched.unknown, strict=True
        )
    ]


def _scores(deployment: Deployment, lanes: Sequence[Lane], values: Matrix) -> list[float]:
    first = lanes[0]
    if all(lane is first for lane in lanes):
        return scores_of(first, deployment.seen_by(first, values)).tolist()
    scores = np.empty(len(lanes))
    for lane in dict.fromkeys(lanes):
        mine = [i for i, other in enumerate(lanes) if other is lane]
        scores[mine] = scores_of(lane, deployment.seen_by(lane, values[mine]))
    return scores.tolist()


def scores_of(lane: Lane, x: Matrix) -> np.ndarray[tuple[int], np.dtype[np.floating]]:
    """Shape (n,): what `lane`'s model says of `x`, shape (n, f) in the order it reads."""
    return lane.loaded.model.score(np.ascontiguousarray(x))
