"""Every table of the platform: its columns, types, units and meaning, declared once.

Money is int64 cents, time int64 microseconds UTC (`*_ts`), identifiers int64 (see `core.ids`).
`occurred_ts` is event time, when it happened; `known_ts` is knowledge time, when the platform
learnt of it, assigned once at the gateway. Tables are partitioned by the UTC day of `known_ts`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pyarrow as pa

TIERS: Final = ("standard", "plus", "premium", "vip")
CHANNELS: Final = ("web", "app", "partner")
CATEGORIES: Final = ("sports", "concert", "family", "cultural")
"""Ticketed event categories; the position is the integer code that features use."""
DECISIONS: Final = ("approve", "review")
"""What becomes of an order by its score."""
OUTCOME_KINDS: Final = ("fraud", "legitimate")
"""What an order turned out to be."""
ARCHETYPES: Final = ("legit", "account_takeover", "bulk_bot", "card_testing", "refund_abuse")
"""Ground truth of the simulator; the position is the integer code."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: Arrow type, whether it may be null, and what it means (with its unit)."""

    name: str
    type: pa.DataType
    description: str
    nullable: bool = False
    minimum: int | None = None
    maximum: int | None = None
    allowed: tuple[str, ...] | None = None
    """Closed set of a category column; an unknown value is quarantined, never guessed."""


@dataclass(frozen=True, slots=True)
class TableSpec:
    """A table's contract. `key` is what makes a row a duplicate of another."""

    name: str
    description: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    time_column: str | None = "known_ts"
    """Column whose UTC day is the partition; None for a table without partitions."""

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema rows are stored with."""
        return pa.schema([pa.field(c.name, c.type, c.nullable) for c in self.columns])

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names in stored order."""
        return tuple(c.name for c in self.columns)

    def column(self, name: str) -> Column:
        """The column called `name`; KeyError when there is none."""
        return {c.name: c for c in self.columns}[name]


def _id(name: str, description: str, *, nullable: bool = False) -> Column:
    return Column(name, pa.int64(), description, nullable=nullable, minimum=0)


def _ts(name: str, description: str) -> Column:
    return Column(name, pa.int64(), f"{description} (microseconds, UTC)", minimum=0)


_OCCURRED = _ts("occurred_ts", "Event time: when it happened")
_KNOWN = _ts("known_ts", "Knowledge time: when the platform learnt of it")

TRANSACTIONS: Final = TableSpec(
    name="transactions",
    description="Ticket orders as the gateway accepted them, one row an order.",
    key=("transaction_id",),
    columns=(
        _id("transaction_id", "Order"),
        _OCCURRED,
        _KNOWN,
        _id("user_id", "Buyer's account"),
        _id("event_id", "Ticketed event"),
        _id("promoter_id", "Promoter of the event", nullable=True),
        _id("card_id", "Payment card token", nullable=True),
        _id("device_id", "Device fingerprint", nullable=True),
        _id("ip_id", "Network address token", nullable=True),
        Column("amount_cents", pa.int64(), "Total charged (cents)", minimum=0, maximum=10**10),
        Column("quantity", pa.int64(), "Tickets in the order", True, minimum=1, maximum=10_000),
        Column("tier", pa.string(), "Price tier", nullable=True, allowed=TIERS),
        Column("channel", pa.string(), "Where the order was placed", True, allowed=CHANNELS),
        Column("declines", pa.int64(), "Declined payment attempts before this one", True, 0, 100),
        Column("avs_match", pa.bool_(), "Billing address matched the card's", nullable=True),
        Column("device_accounts", pa.int64(), "Accounts seen on the device", True, 1, 10**6),
        Column("checkout_ms", pa.int64(), "Basket to payment (milliseconds)", True, 0, 10**9),
        Column(
            "geo_distance_m", pa.int64(), "Network address to home (metres)", True, 0, 4 * 10**7
        ),
        Column("account_age_s", pa.int64(), "Age of the account (seconds)", True, minimum=0),
    ),
)

VIEWS: Final = TableSpec(
    name="views",
    description="Looks at a ticketed event's page, grouped into sessions.",
    key=("view_id",),
    columns=(
        _id("view_id", "View"),
        _OCCURRED,
        _KNOWN,
        _id("session_id", "Session"),
        _id("user_id", "Visitor's account", nullable=True),
        _id("event_id", "Ticketed event"),
        Column("dwell_ms", pa.int64(), "Time on the page (milliseconds)", minimum=0),
    ),
)

REFUNDS: Final = TableSpec(
    name="refunds",
    description="Money returned at the buyer's request, one row a refund.",
    key=("refund_id",),
    columns=(
        _id("refund_id", "Refund"),
        _OCCURRED,
        _KNOWN,
        _id("transaction_id", "Refunded order"),
        Column("amount_cents", pa.int64(), "Returned (cents)", minimum=0),
    ),
)

OUTCOMES: Final = TableSpec(
    name="outcomes",
    description=(
        "What became of an order: a fraud chargeback when it is reported, else `settled` once the "
        "label matures. A chargeback later than that is a second row; the latest known row counts."
    ),
    key=("transaction_id", "known_ts"),
    columns=(
        _id("transaction_id", "Order the outcome is about"),
        _KNOWN,
        Column("is_fraud", pa.int64(), "1 fraud chargeback, 0 settled", minimum=0, maximum=1),
        Column("amount_cents", pa.int64(), "Amount at stake (cents)", minimum=0),
    ),
)

EVENTS: Final = TableSpec(
    name="events",
    description="The catalogue of ticketed events.",
    key=("event_id",),
    time_column=None,
    columns=(
        _id("event_id", "Ticketed event"),
        _id("promoter_id", "Promoter"),
        _id("venue_id", "Venue"),
        Column("category", pa.string(), "Kind of event", allowed=CATEGORIES),
        Column("capacity", pa.int64(), "Seats on sale", minimum=1),
        Column("list_price_cents", pa.int64(), "Standard-tier price (cents)", minimum=1),
        _ts("on_sale_ts", "Start of sale"),
        _ts("starts_ts", "Start of the event"),
    ),
)

USERS: Final = TableSpec(
    name="users",
    description="Accounts, when they were opened, as far as they have ordered or may order.",
    key=("user_id",),
    time_column=None,
    columns=(_id("user_id", "Account"), _ts("created_ts", "Opening of the account")),
)

PROMOTERS: Final = TableSpec(
    name="promoters",
    description="Who puts events on.",
    key=("promoter_id",),
    time_column=None,
    columns=(_id("promoter_id", "Promoter"), Column("name", pa.string(), "Trading name")),
)

VENUES: Final = TableSpec(
    name="venues",
    description="Where events take place.",
    key=("venue_id",),
    time_column=None,
    columns=(
        _id("venue_id", "Venue"),
        Column("name", pa.string(), "Name"),
        Column("city", pa.string(), "City"),
    ),
)

TRUTH_ORDERS: Final = TableSpec(
    name="orders",
    description="The simulator's ground truth beside each order. No feature may read it.",
    key=("transaction_id",),
    columns=(
        _id("transaction_id", "Order"),
        _KNOWN,
        Column("archetype", pa.int8(), "Position in ARCHETYPES; 0 is legitimate", False, 0, 4),
        Column("posterior", pa.float64(), "P(fraud | this order and its account's history)"),
        Column("row_posterior", pa.float64(), "P(fraud | this order alone)"),
    ),
)

FEATURE_LOG: Final = TableSpec(
    name="feature_log",
    description="Feature vectors as they were computed online, beside the order they were for.",
    key=("transaction_id",),
    columns=(
        _id("transaction_id", "Order the vector was computed for"),
        _ts("known_ts", "As-of: the vector holds what was known before it"),
        Column("definition", pa.string(), "SHA-256 prefix over feature names and spec hashes"),
        Column("vector", pa.binary(), "Values in the definition's order, little-endian float32"),
    ),
)

PREDICTIONS: Final = TableSpec(
    name="predictions",
    description=(
        "Every prediction with all that is needed to make it again: one row a request and variant. "
        "Scores of shadows, which nobody was answered with, have `served` false."
    ),
    # A client may use a request id twice; then each of its predictions keeps its own row.
    key=("request_id", "variant", "known_ts"),
    columns=(
        Column("request_id", pa.string(), "The client's name for the request, or ours"),
        Column("variant", pa.string(), "Lane of the promotion record that scored"),
        _ts("known_ts", "When the score was made"),
        Column("use_case", pa.string(), "What was predicted"),
        Column("served", pa.bool_(), "Whether the client was answered with it"),
        _id("transaction_id", "Order, where the client named one", nullable=True),
        Column("transaction_text", pa.string(), "The order's id as sent, where it was text", True),
        _id("user_id", "Buyer's account"),
        _id("event_id", "Ticketed event"),
        Column("experiment", pa.string(), "Experiment that ran, if one did", nullable=True),
        Column("model_version", pa.string(), "Version of the model that scored"),
        Column("record_sequence", pa.int64(), "Promotion record that was served", minimum=1),
        Column("artefact", pa.string(), "SHA-256 that identifies the promoted files"),
        Column("definition", pa.string(), "SHA-256 prefix over feature names and spec hashes"),
        Column("training_snapshot", pa.string(), "Id of the manifest of the training data"),
        Column(
            "features_as_of",
            pa.int64(),
            "Everything known before it was counted (microseconds, UTC); null without history",
            nullable=True,
            minimum=0,
        ),
        Column("store", pa.string(), "Snapshot, or generation and version, that was read", True),
        Column("positions", pa.string(), "How far the log was applied to it (JSON)", nullable=True),
        Column("vector", pa.binary(), "Features scored in the definition's order, float32 LE"),
        Column("vector_sha256", pa.string(), "SHA-256 prefix of the vector"),
        Column("score", pa.float64(), "Probability of fraud, to the bit"),
        Column("threshold", pa.float64(), "Scores at or above it go to review"),
        Column("decision", pa.string(), "What the threshold said", allowed=DECISIONS),
        Column("degraded", pa.string(), "What was missing, comma-separated", nullable=True),
        Column("unknown", pa.string(), "Entities without history, comma-separated", nullable=True),
        Column("latency_us", pa.int64(), "Request met to score made (microseconds)", minimum=0),
        Column("row", pa.string(), "The decoded request (JSON), nulls left out"),
        Column("git_sha", pa.string(), "Commit of the code that served"),
        Column("container_digest", pa.string(), "Image that served, if known", nullable=True),
        Column("checksum", pa.string(), "SHA-256 of all the columns before it"),
    ),
)

EXPERIMENT_OUTCOMES: Final = TableSpec(
    name="experiment_outcomes",
    description=(
        "What became of predictions that an experiment counts, as clients reported it. Of several "
        "outcomes of one order the latest known counts."
    ),
    key=("outcome_id",),
    columns=(
        Column("outcome_id", pa.string(), "SHA-256 prefix of what was reported"),
        _OCCURRED,
        _KNOWN,
        Column("experiment", pa.string(), "Experiment it belongs to"),
        Column("request_id", pa.string(), "Prediction it is about, where one was named", True),
        _id("transaction_id", "Order it is about, where one was named", nullable=True),
        _id("user_id", "Unit: the user who was assigned, where the trace is known", nullable=True),
        Column("variant", pa.string(), "Arm that answered, where the trace is known", True),
        Column("outcome", pa.string(), "What it turned out to be", allowed=OUTCOME_KINDS),
        Column("amount_cents", pa.int64(), "Amount at stake (cents)", True, 0, 10**10),
    ),
)

RAW_TABLES: Final = (TRANSACTIONS, VIEWS, REFUNDS, OUTCOMES)
"""Daily partitioned tables that arrive from outside."""
