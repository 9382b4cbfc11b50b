"""Which rows may be learnt from, what their label is, and how time is cut for an honest test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ibook_assets.core.errors import ContractError

Ids = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def admitted(known_ts: Ids, *, as_of_us: int, maturity_us: int) -> Mask:
    """Rows whose label had time to arrive by `as_of_us`: `known_ts + maturity_us <= as_of_us`."""
    return known_ts <= as_of_us - maturity_us


def labels_as_of(
    transaction_ids: Ids, outcomes: pa.Table, *, as_of_us: int
) -> npt.NDArray[np.int8]:
    """1 where any fraud outcome of the transaction was known by `as_of_us`, else 0.

    A chargeback that comes after the order counted as settled still makes it a fraud.

    Args:
        transaction_ids: shape (n,).
        outcomes: columns transaction_id, known_ts, is_fraud; any order, any number a transaction.
        as_of_us: moment of the question (microseconds, UTC); later outcomes are not looked at.
    """
    known = _int64(outcomes, "known_ts") <= as_of_us
    fraud = _int64(outcomes, "is_fraud") == 1
    defrauded = np.unique(_int64(outcomes, "transaction_id")[known & fraud])
    return np.isin(transaction_ids, defrauded).astype(np.int8)


def _int64(table: pa.Table, column: str) -> Ids:
    values: Any = table.column(column).to_numpy()
    return np.asarray(values, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class TimeSplit:
    """Half-open times that cut rows into fitting, calibration and evaluation, in this order."""

    calibration_from_us: int
    evaluation_from_us: int
    gap_us: int = 0
    """Rows this long before the evaluation are used for nothing, as the label delay in use."""

    @property
    def training_until_us(self) -> int:
        """Exclusive end of everything the model may learn from."""
        return self.evaluation_from_us - self.gap_us

    def fitting(self, known_ts: Ids) -> Mask:
        """Rows that trees are grown on."""
        return known_ts < self.calibration_from_us

    def calibration(self, known_ts: Ids) -> Mask:
        """Rows for early stopping, tuning, calibration and the threshold."""
        return (known_ts >= self.calibration_from_us) & (known_ts < self.training_until_us)

    def training(self, known_ts: Ids) -> Mask:
        """Fitting and calibration rows together."""
        return known_ts < self.training_until_us

    def evaluation(self, known_ts: Ids) -> Mask:
        """Rows that nothing of the model was chosen on."""
        return known_ts >= self.evaluation_from_us


def split_by_time(
    known_ts: Ids,
    *,
    evaluation_share: float = 0.25,
    calibration_share: float = 0.2,
    gap_us: int = 0,
) -> TimeSplit:
    """Cut at row quantiles of `known_ts`; equal times never fall on two sides.

    Args:
        known_ts: shape (n,), microseconds; any order.
        evaluation_share: of all rows, the latest; within (0, 1).
        calibration_share: of the remaining rows, the latest; within (0, 1).
        gap_us: width of the gap before the evaluation window, >= 0.

    Raises:
        ContractError: a part would be empty.
    """
    if known_ts.size == 0:
        msg = "no mature rows to split: wait for labels, or lower IBOOK_LABEL_MATURITY_DAYS"
        raise ContractError(msg)
    evaluation_from = _upper_quantile(known_ts, evaluation_share)
    rest = known_ts[known_ts < evaluation_from - gap_us]
    calibration_from = _upper_quantile(rest, calibration_share) if rest.size else evaluation_from
    split = TimeSplit(calibration_from, evaluation_from, gap_us)
    parts = {
        "fitting": split.fitting(known_ts),
        "calibration": split.calibration(known_ts),
        "evaluation": split.evaluation(known_ts),
    }
    empty = [name for name, rows in parts.items() if not rows.any()]
    if empty:
        msg = (
            f"{known_ts.size} mature rows leave nothing for {', '.join(empty)}: they are too few "
            "or share too few moments; materialise more days or lower the label maturity"
        )
        raise ContractError(msg)
    return split


def _upper_quantile(known_ts: Ids, share: float) -> int:
    return int(np.quantile(known_ts, 1 - share, method="inverted_cdf"))


def unseen(known_ts: Ids, *, trained_until_us: int) -> Mask:
    """Rows that a model trained on everything before `trained_until_us` has not learnt from."""
    return known_ts >= trained_until_us
