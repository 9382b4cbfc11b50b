"""How good a ranking, a probability and a list of alerts are, with their uncertainty.

`labels` are 0 or 1, `scores` and `probabilities` finite floats of the same length; larger means
more suspicious. Rows with equal scores are never ordered among themselves.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from ibook_assets.core.errors import ContractError

Labels: TypeAlias = npt.NDArray[np.integer[Any]]
Floats: TypeAlias = npt.NDArray[np.float64]
Keys: TypeAlias = npt.NDArray[Any]

_REPLICATE_CELLS: Final = 4_000_000
"""Weights held in memory at once while bootstrapping."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Labels by descending score, cut into groups of equal scores; sorted once, weighted often."""

    order: npt.NDArray[np.intp]
    """Row positions by descending score."""
    ends: npt.NDArray[np.intp]
    """Position in `order` of the last row of each group."""
    labels: Floats
    """Labels in `order`, as floats."""

    @classmethod
    def of(cls, labels: Labels, scores: Floats) -> Ranking:
        """Rank rows by `scores`; ContractError on lengths, labels or scores that cannot be."""
        _check(labels, scores)
        order = np.argsort(-scores, kind="stable")
        ranked = scores[order]
        ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), ranked.size - 1)
        return cls(order, ends, labels[order].astype(np.float64))

    def cumulative(self, weights: Floats) -> tuple[Floats, Floats]:
        """Fraud and legitimate weight at or above each distinct score, shapes (b, groups).

        Args:
            weights: shape (b, n), one row a replicate, >= 0.
        """
        ranked = weights[:, self.order]
        positive = np.cumsum(ranked * self.labels, axis=1)[:, self.ends]
        total = np.cumsum(ranked, axis=1)[:, self.ends]
        return positive, total - positive


def _check(labels: Labels, scores: Floats) -> None:
    if labels.shape != scores.shape or labels.ndim != 1 or labels.size == 0:
        msg = f"labels {labels.shape} and scores {scores.shape} must be equally long and not empty"
        raise ContractError(msg)
    if not np.isfinite(scores).all():
        msg = f"{int((~np.isfinite(scores)).sum())} of {scores.size} scores are not finite"
        raise ContractError(msg)
    if labels.min() < 0 or labels.max() > 1:
        msg = f"labels must be 0 or 1, found {labels.min()}..{labels.max()}"
        raise ContractError(msg)


def weighted_average_precision(ranking: Ranking, weights: Floats) -> Floats:
    """Average precision of each row of `weights` (b, n); NaN where no fraud has weight."""
    positive, negative = ranking.cumulative(weights)
    flagged = positive + negative
    precision = np.divide(positive, flagged, out=np.zeros_like(positive), where=flagged > 0)
    gained = np.diff(positive, axis=1, prepend=0.0)
    return _ratio((precision * gained).sum(axis=1), positive[:, -1])


def weighted_roc_auc(ranking: Ranking, weights: Floats) -> Floats:
    """Area under the ROC curve of each row of `weights`; NaN where a class has no weight."""
    positive, negative = ranking.cumulative(weights)
    gained = np.diff(negative, axis=1, prepend=0.0)
    previous = positive - np.diff(positive, axis=1, prepend=0.0)
    area = (gained * (positive + previous) / 2).sum(axis=1)
    return _ratio(area, positive[:, -1] * negative[:, -1])


def log_auc(ranking: Ranking, *, min_fpr: float) -> float:
    """Area under the ROC curve over the logarithm of the false-positive rate, 0..1.

    The mean over the frauds of the logarithm of the share of legitimate rows ranked above them
    (ties half), from `min_fpr` and less (1) to all of them (0). NaN where a class is missing.

    Source: Mysinger and Shoichet (2010), "Rapid context-dependent ligand desolvation in molecular
    docking", logAUC.
    """
    positive, negative = ranking.cumulative(np.ones((1, ranking.labels.size)))
    above = negative - np.diff(negative, axis=1, prepend=0.0) / 2
    fpr = _ratio(above, np.broadcast_to(negative[:, -1:], above.shape))
    earned = np.log(np.maximum(fpr, min_fpr)) / np.log(min_fpr)
    gained = np.diff(positive, axis=1, prepend=0.0)
    return float(_ratio((earned * gained).sum(axis=1), positive[:, -1])[0])


def weighted_recall_at_fpr(ranking: Ranking, weights: Floats, *, max_fpr: float) -> Floats:
    """Largest share of fraud caught by a threshold whose false-positive rate is <= `max_fpr`."""
    positive, negative = ranking.cumulative(weights)
    allowed = negative <= max_fpr * negative[:, -1:]
    caught = np.where(allowed, positive, 0.0).max(axis=1)
    return _ratio(caught, positive[:, -1])


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    return np.divide(
        numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0
    )


def average_precision(labels: Labels, scores: Floats) -> float:
    """Area under the precision-recall steps, 0..1; NaN without fraud. No-skill is the base rate.

    Source: scikit-learn's `average_precision_score` (no interpolation, Davis and Goadrich 2006).
    """
    return float(weighted_average_precision(Ranking.of(labels, scores), _once(labels))[0])


def roc_auc(labels: Labels, scores: Floats) -> float:
    """Probability that a fraud scores above a legitimate row (ties half), NaN without a class."""
    return float(weighted_roc_auc(Ranking.of(labels, scores), _once(labels))[0])


def recall_at_fpr(labels: Labels, scores: Floats, *, max_fpr: float = 0.01) -> float:
    """Share of fraud caught when at most `max_fpr` of the legitimate rows are flagged."""
    ranking = Ranking.of(labels, scores)
    return float(weighted_recall_at_fpr(ranking, _once(labels), max_fpr=max_fpr)[0])


def _once(labels: Labels) -> Floats:
    return np.ones((1, labels.size))


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Rows whose probabilities lie together: what was predicted and what came true."""

    rows: int
    predicted: float
    observed: float


def calibration_bins(
    labels: Labels, probabilities: Floats, *, n_bins: int = 10
) -> list[CalibrationBin]:
    """Bins of about equal row counts by ascending probability; ties stay in one bin.

    Equal-width bins would put nearly every row into the lowest one where fraud is rare.
    """
    _check(labels, probabilities)
    edges = np.unique(np.quantile(probabilities, np.linspace(0, 1, n_bins + 1)[1:-1]))
    position = np.searchsorted(edges, probabilities, side="right")
    rows = np.bincount(position, minlength=edges.size + 1)
    predicted = np.bincount(position, probabilities, edges.size + 1)
    observed = np.bincount(position, labels, edges.size + 1)
    return [
        CalibrationBin(int(n), float(p / n), float(o / n))
        for n, p, o in zip(rows, predicted, observed, strict=True)
        if n
    ]


def expected_calibration_error(labels: Labels, probabilities: Floats, *, n_bins: int = 10) -> float:
    """Mean distance between predicted and observed fraud rate over `calibration_bins`, 0..1.

    Source: Nixon et al. (2019), "Measuring Calibration in Deep Learning", adaptive ECE.
    """
    bins = calibration_bins(labels, probabilities, n_bins=n_bins)
    return sum(b.rows * abs(b.predicted - b.observed) for b in bins) / labels.size


def brier_score(labels: Labels, probabilities: Floats) -> float:
    """Mean squared distance of the probabilities from the labels, 0 (best) to 1."""
    _check(labels, probabilities)
    return float(np.mean((probabilities - labels) ** 2))


def card_precision(
    labels: Labels, scores: Floats, *, day: Keys, entity: Keys, top: int = 100
) -> float:
    """CP@`top`: share of truly defrauded entities among each day's `top` highest scored ones.

    An entity's score is its highest of the day; one that was caught is left out on later days.
    Ties are broken by entity. Mean over days; a day with fewer entities still divides by `top`.

    Source: Fraud Detection Handbook, chapter 4, "Precision top-k metrics".
    """
    _check(labels, scores)
    caught = np.empty(0, dtype=entity.dtype)
    shares: list[float] = []
    for today in np.unique(day):
        rows = np.flatnonzero((day == today) & ~np.isin(entity, caught))
        names, position = np.unique(entity[rows], return_inverse=True)
        highest = np.full(names.size, -np.inf)
        np.maximum.at(highest, position, scores[rows])
        defrauded = np.zeros(names.size, dtype=bool)
        np.logical_or.at(defrauded, position, labels[rows] > 0)
        alerted = np.argsort(-highest, kind="stable")[:top]
        shares.append(float(defrauded[alerted].sum() / top))
        caught = np.concatenate([caught, names[alerted][defrauded[alerted]]])
    return float(np.mean(shares))


@dataclass(frozen=True, slots=True)
class Interval:
    """A point estimate with its percentile-bootstrap confidence interval."""

    value: float
    low: float
    high: float
    level: float = 0.95

    @classmethod
    def of(cls, value: float, replicates: Floats, *, level: float = 0.95) -> Interval:
        """Percentiles of the finite `replicates`; NaN bounds when none is finite."""
        finite = replicates[np.isfinite(replicates)]
        if finite.size == 0:
            return cls(value, float("nan"), float("nan"), level)
        low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
        return cls(value, float(low), float(high), level)


def bootstrap_weights(
    n_rows: int, *, rng: np.random.Generator, replicates: int, clusters: Keys | None = None
) -> Iterator[Floats]:
    """How often each row is drawn, in blocks of shape (b, n_rows), `replicates` rows in all.

    Args:
        n_rows: rows to resample, >= 1.
        rng: source of the draws; the same state gives the same weights.
        replicates: resamples, >= 1.
        clusters: shape (n_rows,); rows of one cluster are drawn together, because the orders of
            one account stand or fall together and single rows would claim too narrow an interval.
    """
    if clusters is None:
        position, n_units = np.arange(n_rows), n_rows
    else:
        names, position = np.unique(clusters, return_inverse=True)
        n_units = names.size
    block = max(1, _REPLICATE_CELLS // n_rows)
    for start in range(0, replicates, block):
        size = min(block, replicates - start)
        drawn = rng.integers(0, n_units, size=(size, n_units))
        drawn += np.arange(size)[:, None] * n_units
        counts = np.bincount(drawn.ravel(), minlength=size * n_units).reshape(size, n_units)
        yield counts[:, position].astype(np.float64)


@dataclass(frozen=True, slots=True)
class SubPopulation:
    """A model's quality on the rows that share one attribute value."""

    dimension: str
    value: str
    rows: int
    frauds: int
    base_rate: float
    average_precision: float
    roc_auc: float
    predicted_rate: float
    """Mean probability; far from `base_rate` means miscalibrated here."""
    flagged_share: float
    recall: float
    """Share of fraud at or above the decision threshold; NaN without fraud."""


def sub_populations(
    labels: Labels,
    probabilities: Floats,
    *,
    threshold: float,
    attributes: Mapping[str, Sequence[str | None] | Keys],
    min_rows: int = 50,
) -> list[SubPopulation]:
    """Quality per value of each attribute, by falling size; groups under `min_rows` are left out.

    A null value is reported as `unknown`.
    """
    _check(labels, probabilities)
    found: list[SubPopulation] = []
    for dimension, values in attributes.items():
        named = np.array(["unknown" if v is None else str(v) for v in values])
        names, counts = np.unique(named, return_counts=True)
        for name in names[np.argsort(-counts, kind="stable")]:
            rows = named == name
            if rows.sum() >= min_rows:
                found.append(
                    _sub_population(
                        dimension, str(name), labels[rows], probabilities[rows], threshold
                    )
                )
    return found


def _sub_population(
    dimension: str, value: str, labels: Labels, probabilities: Floats, threshold: float
) -> SubPopulation:
    frauds = int(labels.sum())
    flagged = probabilities >= threshold
    return SubPopulation(
        dimension=dimension,
        value=value,
        rows=labels.size,
        frauds=frauds,
        base_rate=frauds / labels.size,
        average_precision=average_precision(labels, probabilities),
        roc_auc=roc_auc(labels, probabilities),
        predicted_rate=float(probabilities.mean()),
        flagged_share=float(flagged.mean()),
        recall=float(labels[flagged].sum() / frauds) if frauds else float("nan"),
    )


def amount_bands(amount_cents: Labels, *, quantiles: Sequence[float] = (0.5, 0.9)) -> Keys:
    """Names of amount bands cut at `quantiles` of these very amounts, e.g. `<= 80.00`."""
    edges = np.unique(np.quantile(amount_cents, quantiles, method="inverted_cdf"))
    names = [f"<= {edges[0] / 100:.2f}"]
    names += [f"{a / 100:.2f} - {b / 100:.2f}" for a, b in itertools.pairwise(edges)]
    names.append(f"> {edges[-1] / 100:.2f}")
    return np.array(names)[np.searchsorted(edges, amount_cents, side="left")]
