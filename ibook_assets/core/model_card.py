"""Model cards: what a promoted model is for, what it learnt from, what it is worth, how it fails.

A card holds only what was measured and stored elsewhere: the evaluation, the promotion log, the
model's own file and the manifest of its training data. What was not measured is said to be so.
"""

from __future__ import annotations

import json
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, FiniteFloat

from ibook_assets.core.ids import NAME_PATTERN
from ibook_assets.core.promotion import GateRecord

FEW_FRAUDS: Final = 30
"""Frauds below which figures of a sub-population say little."""
WEAK_RECALL: Final = 0.5
"""Share of the overall recall below which a sub-population is called weak."""
OFF_RATE: Final = 1.5
"""Ratio of predicted to observed rate, either way, from which one is called miscalibrated."""

CARDS: Final = "cards"
"""Folder of the lake that keeps them."""

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Number = FiniteFloat | None
"""None where it could not be computed."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Stored(BaseModel):
    """Read out of a stored evaluation, which holds more than a card shows."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Estimate(_Stored):
    """A figure with its bootstrap confidence interval."""

    value: Number
    low: Number
    high: Number
    level: FiniteFloat


class CalibrationRow(_Stored):
    """Orders whose probabilities lie together: what was predicted and what came true."""

    rows: int
    predicted: Number
    observed: Number


class SubPopulationRow(_Stored):
    """The model on the orders that share one attribute value."""

    dimension: str
    value: str
    rows: int
    frauds: int
    base_rate: Number
    average_precision: Number
    predicted_rate: Number
    flagged_share: Number
    recall: Number

    @property
    def name(self) -> str:
        """`dimension = value`."""
        return f"{self.dimension} = {self.value}"


class DecisionRow(_Stored):
    """What the threshold does to the evaluation orders."""

    threshold: FiniteFloat
    held_share: Number
    precision: Number
    recall: Number


class Measured(_Stored):
    """What the stored evaluation says; its field names and numbers."""

    version: Name
    from_us: int
    until_us: int
    rows: int
    frauds: int
    average_precision: Estimate
    roc_auc: Estimate
    recall_at_fpr: Estimate
    max_fpr: FiniteFloat
    calibration_error: Number
    brier: Number
    top_entity_precision: Number
    saved_cents: Estimate
    decisions: DecisionRow
    calibration: tuple[CalibrationRow, ...]
    sub_populations: tuple[SubPopulationRow, ...]
    champion_version: Name | None = None
    champion_average_precision: Number = None
    difference: Estimate | None = None
    oracle_average_precision: Number = None
    oracle_share: Estimate | None = None


class Entry(_Frozen):
    """A place that the promotion log has given the model."""

    sequence: int
    what: str
    actor: str
    reason: str
    at: AwareDatetime


class TrainingDataCard(_Frozen):
    """What the model learnt from."""

    snapshot_id: str
    first_day: str | None
    last_day: str | None
    """Days of orders in the training set; None when its manifest is gone."""
    files: int | None
    label_maturity_days: FiniteFloat | None
    learnt_until: AwareDatetime
    """Later orders were kept for the evaluation."""
    rows: int
    frauds: int


class FeaturesCard(_Frozen):
    """What the model reads."""

    count: int
    by_view: dict[str, int]
    spec_hashes: dict[str, str]


class CostsCard(_Frozen):
    """Money at stake in one decision, as the threshold's choice saw it."""

    loss_share: FiniteFloat
    chargeback_fee_cents: int
    review_cents: int
    friction_share: FiniteFloat


class ProvenanceCard(_Frozen):
    """Where to look for everything else."""

    git_sha: str
    mlflow_run_id: str | None
    artefact: str
    """Folder of the files in the lake."""
    files_sha256: dict[str, str]
    parameters: dict[str, FiniteFloat | int | str]
    libraries: dict[str, str]
    evaluation: str | None
    """Key of the stored evaluation in the lake."""
    evaluation_sha256: str | None
    record_sha256: str
    """Entry of the promotion log that this card was written for."""


class ModelCard(_Frozen):
    """The card of one promoted model."""

    schema_version: Literal[1] = 1
    use_case: Name
    version: Name
    release: str | None = None
    """Release number; None while it has not been the champion."""
    description: str
    intended_use: str
    threshold: FiniteFloat
    entries: Annotated[tuple[Entry, ...], Field(min_length=1)]
    """Places the log has given it until the card was written, oldest first."""
    training_data: TrainingDataCard
    features: FeaturesCard
    costs: CostsCard
    gate: GateRecord
    """The verdict that the promotion rests on."""
    measured: Measured | None
    """None when no evaluation of this version was stored."""
    evaluation_is_the_gates: bool | None
    """Whether the stored evaluation gave the very figures that the gate was judged on."""
    limits: tuple[str, ...]
    provenance: ProvenanceCard

    def as_json(self) -> bytes:
        """The card as JSON: the same card, the same bytes."""
        plain = self.model_dump(mode="json")
        text = json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        return f"{text}\n".encode()


def card_key(use_case: str, version: str, *, suffix: str) -> str:
    """Where the card of a promoted version lies in the lake; `suffix` is `json` or `md`."""
    return f"{CARDS}/{use_case}/{version}.{suffix}"


def found_limits(measured: Measured | None) -> tuple[str, ...]:
    """What an evaluation shows that one should beware of."""
    if measured is None:
        return (
            (
                "No evaluation of this version is stored: sub-populations, calibration and money "
                "were not measured. The gate's own figures are all there is."
            ),
        )
    overall, named = measured.decisions.recall, measured.sub_populations
    few = [s.name for s in named if s.frauds < FEW_FRAUDS]
    weak = [
        f"{s.name} ({s.recall:.2f})"
        for s in named
        if s.frauds >= FEW_FRAUDS and s.recall is not None and overall
        if s.recall < WEAK_RECALL * overall
    ]
    off = [
        f"{s.name} ({s.predicted_rate:.4f} predicted, {s.base_rate:.4f} observed)"
        for s in named
        if s.frauds >= FEW_FRAUDS and s.predicted_rate and s.base_rate
        if not 1 / OFF_RATE <= s.predicted_rate / s.base_rate <= OFF_RATE
    ]
    said = [
        (f"Fewer than {FEW_FRAUDS} frauds, so hardly judged", few),
        (f"Recall below {WEAK_RECALL:g} times the overall {overall or 0:.2f}", weak),
        (f"Predicted and observed rates more than {OFF_RATE:g} times apart", off),
    ]
    return tuple(f"{text}: {', '.join(names)}." for text, names in said if names)
