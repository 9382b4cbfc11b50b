"""The rows a model learns from and is judged on, as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ibook_assets.core.errors import ContractError, UnknownFeatureError
from ibook_assets.core.features.signals import need_signals
from ibook_assets.core.use_cases import UseCase

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Examples:
    """Mature rows of a use case; all arrays share their first axis."""

    feature_names: tuple[str, ...]
    x: npt.NDArray[np.float32]
    """Shape (n, features), C order; NaN is missing."""
    labels: npt.NDArray[np.int8]
    known_ts: npt.NDArray[np.int64]
    transaction_ids: npt.NDArray[np.int64]
    entity_ids: npt.NDArray[np.int64]
    amount_cents: npt.NDArray[np.int64]
    attributes: Mapping[str, npt.NDArray[Any]]
    """Attribute to its value's name in each row, for sub-populations."""

    @classmethod
    def from_table(
        cls, table: pa.Table, use_case: UseCase, *, features: tuple[str, ...] | None = None
    ) -> Self:
        """Read a training set: fact columns, the label, and features under qualified names.

        Args:
            table: columns transaction_id, known_ts, the entity's id, amount_cents, the label and
                `features`; the use case's dimensions where present.
            use_case: whose columns to read.
            features: columns of the matrix; those of the use case unless given.

        Raises:
            UnknownFeatureError: a feature is not in the table.
            ContractError: another column is not.
        """
        names = use_case.features if features is None else features
        missing = set(names) - set(table.column_names)
        if missing:
            raise UnknownFeatureError(missing=missing, known=table.column_names)
        x = np.empty((table.num_rows, len(names)), dtype=np.float32)
        for j, name in enumerate(names):
            x[:, j] = table.column(name).to_numpy()
        return cls(
            feature_names=names,
            x=x,
            labels=_integers(table, use_case.label).astype(np.int8),
            known_ts=_integers(table, "known_ts"),
            transaction_ids=_integers(table, "transaction_id"),
            entity_ids=_integers(table, use_case.entity_column),
            amount_cents=_integers(table, "amount_cents"),
            attributes={
                column.removesuffix("_code"): _named(table, column, names)
                for column, names in use_case.dimensions
                if column in table.column_names
            },
        )

    def take(self, rows: Mask | npt.NDArray[np.intp]) -> Examples:
        """The rows that a mask or positions select."""
        return Examples(
            feature_names=self.feature_names,
            x=self.x[rows],
            labels=self.labels[rows],
            known_ts=self.known_ts[rows],
            transaction_ids=self.transaction_ids[rows],
            entity_ids=self.entity_ids[rows],
            amount_cents=self.amount_cents[rows],
            attributes={name: values[rows] for name, values in self.attributes.items()},
        )

    def with_bare_copies(self, rows: npt.NDArray[np.intp]) -> Examples:
        """All rows, then copies of `rows` as requests without any signal would have been.

        Clients may send no more than who orders what for how much. A model that never saw such
        rows would take what is unknown for what is rare.
        """
        both = self.take(np.concatenate([np.arange(self.rows), rows]))
        both.x[self.rows :, np.array(need_signals(self.feature_names), np.bool_)] = np.nan
        return both

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.labels.size

    @property
    def frauds(self) -> int:
        """Number of rows labelled 1."""
        return int(self.labels.sum())


def _integers(table: pa.Table, column: str) -> npt.NDArray[np.int64]:
    if column not in table.column_names:
        msg = f"the training set lacks column {column!r}; it has {table.column_names}"
        raise ContractError(msg)
    values = table.column(column)
    if values.null_count:
        msg = f"column {column!r} of the training set has {values.null_count} nulls; it needs none"
        raise ContractError(msg)
    return np.asarray(values.to_numpy(), dtype=np.int64)


def _named(table: pa.Table, column: str, names: tuple[str, ...]) -> npt.NDArray[Any]:
    values = table.column(column).to_pylist()
    if pa.types.is_integer(table.schema.field(column).type):
        values = [names[v] if v is not None and 0 <= v < len(names) else None for v in values]
    return np.array(["unknown" if v is None else v for v in values], dtype=np.str_)
