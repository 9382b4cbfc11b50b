"""What the platform predicts: one typed spec per use case, from which its assets are made.

Every threshold of a use case is declared here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from ibook_assets.core.costs import CostModel
from ibook_assets.core.errors import ContractError
from ibook_assets.core.facts import ENTITY_COLUMNS, FACT_TRANSACTIONS
from ibook_assets.core.features import catalog
from ibook_assets.core.gate import GateSpec
from ibook_assets.core.ids import check_name
from ibook_assets.core.tables import CATEGORIES, CHANNELS, TIERS


@dataclass(frozen=True, slots=True)
class Span:
    """Inclusive bounds of a number that is searched."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low <= self.high or (self.log and self.low <= 0):
            msg = f"span {self.low}..{self.high} is empty, or logarithmic and not positive"
            raise ContractError(msg)


@dataclass(frozen=True, slots=True)
class TreeSpace:
    """Bounds of the search for gradient-boosted trees, in XGBoost's terms."""

    eta: Span = Span(0.05, 0.3, log=True)
    max_depth: Span = Span(3, 8)
    min_child_weight: Span = Span(0.5, 60, log=True)
    subsample: Span = Span(0.6, 1.0)
    colsample_bytree: Span = Span(0.2, 1.0)
    reg_lambda: Span = Span(0.3, 30, log=True)
    scale_pos_weight: Span = Span(1, 10, log=True)
    """How much heavier a fraud counts than a legitimate order; calibration takes it out again."""
    max_bin: tuple[int, ...] = (256, 1024)
    """Histogram bins. The default of 256 alone lost up to ten points of average precision."""
    base_score: tuple[float | None, ...] = (0.5, None)
    """Starting probability; None is the base rate of the training rows."""
    max_rounds: int = 400
    """Trees at most; early stopping on the calibration slice usually ends sooner."""
    patience: int = 25
    """Rounds without a better validation score before fitting stops."""


@dataclass(frozen=True)
class UseCase:
    """One model the platform trains, gates, promotes and serves."""

    name: str
    description: str
    entity: str
    """Whom a score is about; its orders stand or fall together in the bootstrap."""
    views: tuple[str, ...]
    """Feature views the model reads, all their features in catalogue order."""
    label: str
    """Column of the training set that holds the 0/1 target."""
    gate: GateSpec
    costs: CostModel
    endpoint: str
    """Path that answers with this model."""
    dimensions: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Columns whose values are evaluated separately, with the names behind integer codes."""
    space: TreeSpace = field(default_factory=TreeSpace)
    evaluation_share: float = 0.25
    """Latest share of the mature rows, kept for the evaluation."""
    calibration_share: float = 0.25
    """Latest share of the remaining rows, for early stopping, calibration and the threshold."""
    max_features: int = 80
    """Features a model reads at most; the ones a quick first model gains most from."""
    bare_copy_every: int = 20
    """Every so many fitting rows one is learnt a second time, without the optional signals."""
    bootstrap_replicates: int = 400
    seed: int = 20_260_101
    intended_use: str = ""
    """What decisions the model is made for, and for what it is not; model cards say it."""
    known_limits: tuple[str, ...] = ()
    """How it fails, and what no figure of an evaluation shows; model cards say it."""

    def __post_init__(self) -> None:
        check_name(self.name, what="use case")
        if self.entity not in ENTITY_COLUMNS:
            msg = f"{self.name}: entity {self.entity!r} is not one of {sorted(ENTITY_COLUMNS)}"
            raise ContractError(msg)
        for column, _ in self.dimensions:
            if column not in FACT_TRANSACTIONS.column_names:
                msg = f"{self.name}: dimension {column!r} is no column of the facts"
                raise ContractError(msg)
        if not self.features:
            known = [view.name for view in catalog.FEATURE_VIEWS]
            msg = f"{self.name}: lists no feature view; defined: {known}"
            raise ContractError(msg)

    @cached_property
    def features(self) -> tuple[str, ...]:
        """Qualified feature names, the order of a matrix' columns."""
        return tuple(name for v in self.views for name in catalog.view(v).qualified_names)

    @property
    def entity_column(self) -> str:
        """Fact column of `entity`."""
        return ENTITY_COLUMNS[self.entity]

    @property
    def spec_hashes(self) -> dict[str, str]:
        """Feature view to the hash of its present definition."""
        return {name: catalog.view(name).spec_hash for name in self.views}


FRAUD: Final = UseCase(
    name="fraud",
    description="Probability that an order ends in a fraud chargeback.",
    entity="user",
    views=tuple(view.name for view in catalog.FEATURE_VIEWS),
    label="is_fraud",
    gate=GateSpec(
        min_rows=2_000,
        min_frauds=50,
        min_lift=3.0,
        max_calibration_error=0.02,
        max_fpr=0.01,
        min_recall=0.20,
        non_inferiority_margin=0.02,
        min_oracle_share=0.80,
    ),
    costs=CostModel(
        loss_share=1.0, chargeback_fee_cents=1_500, review_cents=300, friction_share=0.02
    ),
    endpoint="/fraud/predict",
    # Hundreds of thousands of rows with a few percent of late or missing labels: many cautious
    # trees on a third of the features each; fine bins brought nothing here.
    space=TreeSpace(
        eta=Span(0.05, 0.15, log=True),
        max_depth=Span(4, 7),
        min_child_weight=Span(5, 60, log=True),
        subsample=Span(0.6, 0.9),
        colsample_bytree=Span(0.2, 0.6),
        reg_lambda=Span(1, 30, log=True),
        scale_pos_weight=Span(1, 4, log=True),
        max_bin=(256, 512),
        max_rounds=250,
        patience=25,
    ),
    dimensions=(("tier", TIERS), ("channel", CHANNELS), ("category_code", CATEGORIES)),
    intended_use=(
        "To hold ticket orders for review whose probability of a fraud chargeback is at or above "
        "the threshold, at the moment they are placed. Not to close accounts, to refuse a person "
        "for good, or to judge anything but an order."
    ),
    known_limits=(
        "Fraud that is never charged back is learnt, and counted here, as legitimate.",
        (
            "Labels come late: a new kind of fraud is learnt weeks after it begins, and until then "
            "neither the evaluation nor drift of the features shows it."
        ),
        "Users, cards and devices without history are judged by the order alone.",
        "A request without the optional signals is scored, less sharply than one that has them.",
    ),
)

USE_CASES: Final = {use_case.name: use_case for use_case in (FRAUD,)}
"""Every use case by name."""


def use_case_named(name: str) -> UseCase:
    """The use case called `name`; ContractError when there is none."""
    if name not in USE_CASES:
        msg = f"unknown use case {name!r}; defined: {sorted(USE_CASES)}"
        raise ContractError(msg)
    return USE_CASES[name]
