"""Fact tables: raw tables deduplicated, joined with what features need, in known order."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from ibook_assets.core.tables import OUTCOMES, REFUNDS, TRANSACTIONS, VIEWS, Column, TableSpec

ENTITY_COLUMNS: Final = {
    "user": "user_id",
    "event": "event_id",
    "promoter": "promoter_id",
    "card": "card_id",
    "device": "device_id",
    "ip": "ip_id",
}
"""Column that identifies each entity in every fact table that knows it."""

_ENTITY_SPECS: Final = tuple(
    Column(TRANSACTIONS.column(c).name, pa.int64(), TRANSACTIONS.column(c).description, True)
    for c in ENTITY_COLUMNS.values()
)

FACT_TRANSACTIONS: Final = TableSpec(
    name="transactions",
    description="Orders, one row each, with the attributes of their ticketed event.",
    key=TRANSACTIONS.key,
    columns=(
        *TRANSACTIONS.columns,
        Column("category_code", pa.int64(), "Position of the category in CATEGORIES", True),
        Column("capacity", pa.int64(), "Seats on sale", nullable=True),
        Column("list_price_cents", pa.int64(), "Standard-tier price (cents)", nullable=True),
        Column("starts_ts", pa.int64(), "Start of the event (microseconds, UTC)", nullable=True),
    ),
)

FACT_VIEWS: Final = VIEWS

FACT_REFUNDS: Final = TableSpec(
    name="refunds",
    description="Refunds with the entities of the order they return.",
    key=REFUNDS.key,
    columns=(*REFUNDS.columns, *_ENTITY_SPECS),
)

FACT_OUTCOMES: Final = TableSpec(
    name="outcomes",
    description="Outcomes, at the time they became known, with the entities of their order.",
    key=OUTCOMES.key,
    columns=(*OUTCOMES.columns, *_ENTITY_SPECS),
)

FACT_TABLES: Final = (FACT_TRANSACTIONS, FACT_VIEWS, FACT_REFUNDS, FACT_OUTCOMES)
