"""What decisions cost, and from which fraud probability holding an order is the cheaper one.

An order is held when its fraud probability is at or above the threshold: a review is paid, and a
legitimate buyer may be lost. A fraud that passes costs the disputed amount and a fee.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ibook_assets.core.errors import ContractError

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[Any]

HOLD_NOTHING: Final = math.nextafter(1.0, 2.0)
"""Threshold above every probability."""


@dataclass(frozen=True, slots=True)
class CostModel:
    """Money at stake in one decision. Amounts in cents, shares in 0..1."""

    loss_share: float
    """Share of a fraudulent order's amount that is lost when it passes."""
    chargeback_fee_cents: int
    """Fee of the card scheme for each fraud that passes."""
    review_cents: int
    """Work on one held order, fraudulent or not."""
    friction_share: float
    """Share of a legitimate order's amount lost when it is held: buyers lost, times margin."""

    def passed_cents(self, fraud: Numbers | float, amount_cents: Numbers | float) -> Floats:
        """Cost of letting each order pass; `fraud` is a 0/1 label or a probability."""
        loss = amount_cents * self.loss_share + self.chargeback_fee_cents
        return np.asarray(fraud * loss, dtype=np.float64)

    def held_cents(self, fraud: Numbers | float, amount_cents: Numbers | float) -> Floats:
        """Cost of holding each order; `fraud` is a 0/1 label or a probability."""
        friction = (1 - fraud) * amount_cents * self.friction_share
        return np.asarray(self.review_cents + friction, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class CostCurve:
    """Total cost in cents when everything at or above each threshold is held."""

    thresholds: Floats
    """Falling; the first holds nothing, the others are the distinct probabilities."""
    cost_cents: Floats
    held: npt.NDArray[np.int64]
    """Orders held at each threshold."""

    @property
    def best(self) -> int:
        """Position of the cheapest threshold; of equals, the one that holds least."""
        return int(np.argmin(self.cost_cents))

    @property
    def best_threshold(self) -> float:
        """The cheapest threshold."""
        return float(self.thresholds[self.best])


def cost_curve(
    fraud: Numbers, probabilities: Floats, amount_cents: Numbers, costs: CostModel
) -> CostCurve:
    """Cost of every threshold that can make a difference.

    Args:
        fraud: shape (n,), what happened (0/1) or is expected (a calibrated probability).
        probabilities: shape (n,), what the decision sees, within 0..1.
        amount_cents: shape (n,), >= 0.
        costs: money at stake.

    Source: Elkan (2001), "The Foundations of Cost-Sensitive Learning", with costs per example.
    """
    if not fraud.shape == probabilities.shape == amount_cents.shape or fraud.size == 0:
        msg = (
            f"fraud {fraud.shape}, probabilities {probabilities.shape} and amounts "
            f"{amount_cents.shape} must be equally long and not empty"
        )
        raise ContractError(msg)
    passed = costs.passed_cents(fraud, amount_cents)
    change = costs.held_cents(fraud, amount_cents) - passed
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order]
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), ranked.size - 1)
    return CostCurve(
        thresholds=np.concatenate([[HOLD_NOTHING], ranked[ends]]),
        cost_cents=passed.sum() + np.concatenate([[0.0], np.cumsum(change[order])[ends]]),
        held=np.concatenate([[0], ends + 1]).astype(np.int64),
    )


@dataclass(frozen=True, slots=True)
class Savings:
    """What decisions at one threshold cost, beside doing nothing and knowing everything (cents)."""

    nothing_held_cents: float
    decided_cents: float
    perfect_cents: float

    @property
    def saved_cents(self) -> float:
        """Money kept against letting everything pass; negative when deciding costs more."""
        return self.nothing_held_cents - self.decided_cents

    @property
    def share_of_possible(self) -> float:
        """Saved share of what perfect knowledge would save; NaN when nothing could be saved."""
        possible = self.nothing_held_cents - self.perfect_cents
        return self.saved_cents / possible if possible > 0 else math.nan


def savings(
    labels: Numbers,
    probabilities: Floats,
    amount_cents: Numbers,
    *,
    threshold: float,
    costs: CostModel,
) -> Savings:
    """Realised cost of holding every order with probability >= `threshold`."""
    passed = costs.passed_cents(labels, amount_cents)
    held = costs.held_cents(labels, amount_cents)
    decided = np.where(probabilities >= threshold, held, passed)
    perfect = np.where(labels > 0, np.minimum(held, passed), passed)
    return Savings(float(passed.sum()), float(decided.sum()), float(perfect.sum()))
