"""What a model is worth on rows it has not seen: figures, intervals, sub-populations, oracle."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ibook_assets.core.costs import Savings, savings
from ibook_assets.core.errors import ContractError
from ibook_assets.core.gate import GateEvidence
from ibook_assets.core.metrics import (
    CalibrationBin,
    Interval,
    Ranking,
    SubPopulation,
    amount_bands,
    bootstrap_weights,
    brier_score,
    calibration_bins,
    card_precision,
    expected_calibration_error,
    sub_populations,
    weighted_average_precision,
    weighted_recall_at_fpr,
    weighted_roc_auc,
)
from ibook_assets.core.times import DAY_US
from ibook_assets.core.use_cases import UseCase
from ibook_assets.models.bundle import ModelBundle
from ibook_assets.training.examples import Examples

Floats = npt.NDArray[np.float64]

TOP_ENTITIES: Final = 100
"""Entities an analyst team can look at in a day, for CP@100."""


@dataclass(frozen=True, slots=True)
class Decisions:
    """What the threshold does to the evaluation rows. Shares in 0..1."""

    threshold: float
    held_share: float
    precision: float
    """Share of held orders that are fraud; NaN when none is held."""
    recall: float
    money: Savings


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that is known about one model on one window."""

    use_case: str
    version: str
    from_us: int
    until_us: int
    """Inclusive knowledge time of the last row."""
    rows: int
    frauds: int
    average_precision: Interval
    roc_auc: Interval
    recall_at_fpr: Interval
    max_fpr: float
    calibration_error: float
    brier: float
    top_entity_precision: float
    """CP@100 of the use case's entity."""
    saved_cents: Interval
    decisions: Decisions
    calibration: tuple[CalibrationBin, ...]
    sub_populations: tuple[SubPopulation, ...]
    champion_version: str | None = None
    champion_average_precision: float | None = None
    difference: Interval | None = None
    """Average precision of the challenger minus the champion's, on the same draws."""
    oracle_average_precision: float | None = None
    oracle_share: Interval | None = None
    """Share of the best possible average precision, on the same draws."""

    @property
    def base_rate(self) -> float:
        """Share of fraud: the average precision of a model without skill."""
        return self.frauds / self.rows

    @property
    def gate_evidence(self) -> GateEvidence:
        """What the gate needs of this."""
        return GateEvidence(
            rows=self.rows,
            frauds=self.frauds,
            average_precision=self.average_precision,
            recall_at_fpr=self.recall_at_fpr,
            calibration_error=self.calibration_error,
            difference=self.difference,
            oracle_share=self.oracle_share,
            champion_version=self.champion_version,
        )

    @property
    def headline(self) -> dict[str, float | None]:
        """The figures people compare, by name; None where one does not exist."""
        oracle = self.oracle_share.value if self.oracle_share else None
        gain = self.difference.value if self.difference else None
        figures: dict[str, float | None] = {
            "evaluation_rows": self.rows,
            "evaluation_frauds": self.frauds,
            "base_rate": self.base_rate,
            "average_precision": self.average_precision.value,
            "average_precision_low": self.average_precision.low,
            "average_precision_high": self.average_precision.high,
            "roc_auc": self.roc_auc.value,
            "recall_at_fpr_1pct": self.recall_at_fpr.value,
            "calibration_error": self.calibration_error,
            "brier": self.brier,
            "card_precision_top_100": self.top_entity_precision,
            "threshold_precision": self.decisions.precision,
            "threshold_recall": self.decisions.recall,
            "held_share": self.decisions.held_share,
            "saved_cents": self.saved_cents.value,
            "saved_share_of_possible": self.decisions.money.share_of_possible,
            "gain_over_champion": gain,
            "oracle_average_precision": self.oracle_average_precision,
            "oracle_share": oracle,
        }
        return {k: None if v is None or not math.isfinite(v) else v for k, v in figures.items()}

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values; numbers that are not finite become None."""
        plain: dict[str, Any] = _finite({**asdict(self), "headline": self.headline})
        return plain


def _finite(value: Any) -> Any:  # noqa: ANN401 - JSON is any of its types
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def evaluate(
    bundle: ModelBundle,
    examples: Examples,
    use_case: UseCase,
    *,
    champion: ModelBundle | None = None,
    champion_examples: Examples | None = None,
    oracle: Floats | None = None,
) -> Evaluation:
    """Judge `bundle` on mature rows that it has not learnt from.

    Intervals are percentiles of a bootstrap over entities, the same draws for every figure, so
    that differences are paired. The generator is seeded by the use case.

    Args:
        bundle: the challenger.
        examples: evaluation rows in the challenger's feature order; no other rows.
        use_case: costs, gate and bootstrap.
        champion: the model in use, judged on the same rows.
        champion_examples: the same rows in the champion's feature order; `examples` when its
            features are the same.
        oracle: shape (n,), the true probability of fraud where the world is simulated.

    Raises:
        ContractError: rows were learnt from by one of the models, or hold no fraud at all.
    """
    for model in (bundle, champion):
        if model is not None and examples.known_ts.min() < model.info.trained_until_us:
            msg = f"evaluation rows reach into what model {model.version} was trained on"
            raise ContractError(msg)
    probabilities = bundle.score(examples.x)
    rivals = {"model": probabilities}
    if champion is not None:
        rivals["champion"] = champion.score((champion_examples or examples).x)
    if oracle is not None:
        rivals["oracle"] = np.asarray(oracle, dtype=np.float64)
    judged = _judge(examples, rivals, use_case, threshold=bundle.threshold)
    return Evaluation(
        use_case=use_case.name,
        version=bundle.version,
        from_us=int(examples.known_ts.min()),
        until_us=int(examples.known_ts.max()),
        rows=examples.rows,
        frauds=examples.frauds,
        max_fpr=use_case.gate.max_fpr,
        calibration_error=expected_calibration_error(examples.labels, probabilities),
        brier=brier_score(examples.labels, probabilities),
        top_entity_precision=card_precision(
            examples.labels,
            probabilities,
            day=examples.known_ts // DAY_US,
            entity=examples.entity_ids,
            top=TOP_ENTITIES,
        ),
        decisions=_decisions(examples, probabilities, use_case, threshold=bundle.threshold),
        calibration=tuple(calibration_bins(examples.labels, probabilities)),
        sub_populations=tuple(
            sub_populations(
                examples.labels,
                probabilities,
                threshold=bundle.threshold,
                attributes={**examples.attributes, "amount": amount_bands(examples.amount_cents)},
            )
        ),
        champion_version=None if champion is None else champion.version,
        **judged,
    )


def _judge(
    examples: Examples, rivals: dict[str, Floats], use_case: UseCase, *, threshold: float
) -> dict[str, Any]:
    """The figures that carry an interval, by field of Evaluation."""
    if examples.frauds in {0, examples.rows}:
        msg = f"{examples.frauds} frauds in {examples.rows} evaluation rows: nothing to rank"
        raise ContractError(msg)
    rankings = {name: Ranking.of(examples.labels, scores) for name, scores in rivals.items()}
    saved = _saved_by_row(examples, rivals["model"], use_case, threshold=threshold)
    measures: dict[str, Callable[[Floats], Floats]] = {
        "roc_auc": lambda w: weighted_roc_auc(rankings["model"], w),
        "recall_at_fpr": lambda w: weighted_recall_at_fpr(
            rankings["model"], w, max_fpr=use_case.gate.max_fpr
        ),
        "saved_cents": lambda w: w @ saved,
    }
    for name, ranking in rankings.items():
        measures[name] = _average_precision_of(ranking)
    once = np.ones((1, examples.rows))
    values = {name: float(measure(once)[0]) for name, measure in measures.items()}
    draws = _replicates(examples, measures, use_case)

    def interval(name: str) -> Interval:
        return Interval.of(values[name], draws[name])

    found: dict[str, Any] = {
        "average_precision": interval("model"),
        "roc_auc": interval("roc_auc"),
        "recall_at_fpr": interval("recall_at_fpr"),
        "saved_cents": interval("saved_cents"),
    }
    if "champion" in rivals:
        found["champion_average_precision"] = values["champion"]
        found["difference"] = Interval.of(
            values["model"] - values["champion"], draws["model"] - draws["champion"]
        )
    if "oracle" in rivals:
        found["oracle_average_precision"] = values["oracle"]
        found["oracle_share"] = Interval.of(
            values["model"] / values["oracle"], draws["model"] / draws["oracle"]
        )
    return found


def _average_precision_of(ranking: Ranking) -> Callable[[Floats], Floats]:
    return lambda weights: weighted_average_precision(ranking, weights)


def _replicates(
    examples: Examples, measures: dict[str, Callable[[Floats], Floats]], use_case: UseCase
) -> dict[str, Floats]:
    drawn: dict[str, list[Floats]] = {name: [] for name in measures}
    for weights in bootstrap_weights(
        examples.rows,
        rng=np.random.default_rng(use_case.seed),
        replicates=use_case.bootstrap_replicates,
        clusters=examples.entity_ids,
    ):
        for name, measure in measures.items():
            drawn[name].append(measure(weights))
    return {name: np.concatenate(parts) for name, parts in drawn.items()}


def _saved_by_row(
    examples: Examples, probabilities: Floats, use_case: UseCase, *, threshold: float
) -> Floats:
    passed = use_case.costs.passed_cents(examples.labels, examples.amount_cents)
    held = use_case.costs.held_cents(examples.labels, examples.amount_cents)
    return np.where(probabilities >= threshold, passed - held, 0.0)


def _decisions(
    examples: Examples, probabilities: Floats, use_case: UseCase, *, threshold: float
) -> Decisions:
    held = probabilities >= threshold
    caught = int(examples.labels[held].sum())
    return Decisions(
        threshold=threshold,
        held_share=float(held.mean()),
        precision=caught / int(held.sum()) if held.any() else math.nan,
        recall=caught / examples.frauds if examples.frauds else math.nan,
        money=savings(
            examples.labels,
            probabilities,
            examples.amount_cents,
            threshold=threshold,
            costs=use_case.costs,
        ),
    )
