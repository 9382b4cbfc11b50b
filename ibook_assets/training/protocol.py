"""Backtest protocol: how start days become windows, and what a backtest reports."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pyarrow as pa

from ibook_assets.core.errors import ContractError
from ibook_assets.training.trees import TreeParameters


@dataclass(frozen=True, slots=True)
class Protocol:
    """How start days become training and test windows, in days."""

    train_days: int = 7
    delay_days: int = 7
    test_days: int = 7
    all_history: bool = False
    """Train on every mature row before the end of the training window, not only on the window."""

    def __post_init__(self) -> None:
        if self.train_days < 1 or self.delay_days < 0 or self.test_days < 1:
            msg = f"training and test need at least one day and the delay none, got {self}"
            raise ContractError(msg)

    def trained_until(self, start: date) -> date:
        """First day after the training window."""
        return start + timedelta(days=self.train_days)

    def test_from(self, start: date) -> date:
        """First test day."""
        return self.trained_until(start) + timedelta(days=self.delay_days)

    def tested_until(self, start: date) -> date:
        """First day after the test window."""
        return self.test_from(start) + timedelta(days=self.test_days)


@dataclass(frozen=True, slots=True)
class BacktestWeek:
    """One start day's result."""

    train_start: date
    roc_auc: float
    average_precision: float
    card_precision: float
    """CP@100: share of truly defrauded users among each day's 100 highest scored ones."""
    train_rows: int
    train_frauds: int
    test_rows: int
    test_frauds: int


@dataclass(frozen=True, slots=True)
class BacktestResult:
    """Results of all start days, and a score for every test transaction."""

    weeks: tuple[BacktestWeek, ...]
    scores: pa.Table
    """id (as in the file), score (probability), train_start, label; one row a test transaction."""
    features: tuple[str, ...]
    parameters: TreeParameters
    rounds: int
    search: str
    """How the parameters were chosen."""

    def mean(self, figure: str) -> float:
        """Mean of a BacktestWeek figure over the start days."""
        return float(np.mean([getattr(week, figure) for week in self.weeks]))

    def __str__(self) -> str:
        """A table for people: one line a start day, then the means."""
        lines = ["train start  train rows  frauds   test rows  frauds     AUC      AP  CP@100"]
        lines += [
            f"{w.train_start}   {w.train_rows:>10,}  {w.train_frauds:>6,}  {w.test_rows:>10,}"
            f"  {w.test_frauds:>6,}  {w.roc_auc:.4f}  {w.average_precision:.4f}"
            f"  {w.card_precision:.4f}"
            for w in self.weeks
        ]
        means = [self.mean(f) for f in ("roc_auc", "average_precision", "card_precision")]
        lines.append(f"{'mean':<51}  " + "  ".join(f"{m:.4f}" for m in means))
        lines.append(f"{len(self.features)} features; {self.search}")
        return "\n".join(lines)
