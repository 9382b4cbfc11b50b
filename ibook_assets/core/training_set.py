"""The training set: point-in-time features of mature orders, with their labels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from ibook_assets.core.arrow import Column, array
from ibook_assets.core.errors import ContractError
from ibook_assets.core.maturity import admitted, labels_as_of
from ibook_assets.core.use_cases import UseCase


def training_columns(use_case: UseCase) -> tuple[str, ...]:
    """Fact columns that stand beside the features of `use_case`."""
    dimensions = [column for column, _ in use_case.dimensions]
    return tuple(
        dict.fromkeys(
            ["transaction_id", "known_ts", use_case.entity_column, "amount_cents", *dimensions]
        )
    )


def assemble(
    use_case: UseCase,
    *,
    orders: pa.Table,
    features: Mapping[str, pa.Table],
    outcomes: pa.Table,
    as_of_us: int,
    maturity_us: int,
) -> pa.Table:
    """Rows whose label had time to arrive by `as_of_us`, in the order of `orders`.

    Args:
        use_case: which columns, features and label.
        orders: facts/transactions, at least `training_columns`.
        features: feature view to its table, row by row those of `orders`.
        outcomes: facts/outcomes known by `as_of_us`: transaction_id, known_ts, is_fraud.
        as_of_us: moment the training set is as of (microseconds, UTC).
        maturity_us: how long a label may take to arrive.

    Returns:
        `training_columns`, the label as int8, then float32 features under qualified names.

    Raises:
        ContractError: a feature table does not hold the orders' rows, or no row is mature.
    """
    ids = np.asarray(orders["transaction_id"].to_numpy(), dtype=np.int64)
    known_ts = np.asarray(orders["known_ts"].to_numpy(), dtype=np.int64)
    mature = admitted(known_ts, as_of_us=as_of_us, maturity_us=maturity_us)
    if not mature.any():
        msg = (
            f"none of {ids.size} orders is mature: the newest label wait began before its end; "
            "materialise more days or lower IBOOK_LABEL_MATURITY_DAYS"
        )
        raise ContractError(msg)
    labels = labels_as_of(ids, outcomes, as_of_us=as_of_us)
    columns: dict[str, Column] = {name: orders[name] for name in training_columns(use_case)}
    columns[use_case.label] = array(labels)
    for view in use_case.views:
        table = features[view]
        if not table["transaction_id"].equals(orders["transaction_id"]):
            msg = (
                f"feature view {view} has {table.num_rows} rows that are not the "
                f"{orders.num_rows} orders in their order; rematerialise features/{view}"
            )
            raise ContractError(msg)
        names = [name for name in table.column_names if name not in ("transaction_id", "known_ts")]
        columns |= {f"{view}:{name}": table[name] for name in names}
    return pa.table(columns).filter(array(mature)).combine_chunks()
