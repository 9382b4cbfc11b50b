"""What goes over the wire: the types that validate a request also make the OpenAPI document."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from ibook_assets.core.ids import MAX_ID, NAME_PATTERN
from ibook_assets.core.tables import TRANSACTIONS

CENTS: Final = 100
TEXT_END: Final = r"$(?!\n)"
"""End of a text: Python's `$` alone lets a trailing newline through."""
NAME: Final = NAME_PATTERN.removesuffix("$") + TEXT_END
MAX_ID_CHARS: Final = 128
"""Longest identifier text a request may carry (characters)."""


def _meta(column: str) -> Meta:
    """Description and range of the transactions column a wire field feeds."""
    spec = TRANSACTIONS.column(column)
    return Meta(description=spec.description, ge=spec.minimum, le=spec.maximum)


def _choice(column: str) -> Meta:
    spec = TRANSACTIONS.column(column)
    allowed = spec.allowed or ()
    return Meta(
        pattern=f"^({'|'.join(allowed)}){TEXT_END}",
        description=spec.description,
        extra_json_schema={"enum": list(allowed)},
    )


def _quantity(column: str, stored_per_unit: float, unit: str) -> Meta:
    """A number in `unit`; the column stores `stored_per_unit` of its own unit for each."""
    spec = TRANSACTIONS.column(column)
    top = MAX_ID if spec.maximum is None else spec.maximum
    return Meta(
        ge=0,
        le=top / stored_per_unit,
        description=f"{spec.description.partition(' (')[0]} ({unit})",
    )


_MAX_AMOUNT: Final = (TRANSACTIONS.column("amount_cents").maximum or 0) // CENTS

Explain = Literal["auto", "true", "false"]
"""Which orders get reasons: those that go to review, all, none."""

Identifier = (
    Annotated[int, Meta(ge=0, le=MAX_ID)]
    | Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARS)]
)
Amount = (
    Annotated[int, Meta(ge=0, le=_MAX_AMOUNT)]
    | Annotated[float, Meta(ge=0, le=_MAX_AMOUNT)]
    | Annotated[str, Meta(pattern=r"^(0|[1-9][0-9]{0,8})(\.[0-9]{1,2})?" + TEXT_END)]
)


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """One ticket order to score. What is not known is left out, never guessed."""

    user_id: Annotated[Identifier, Meta(description="Buyer's account: a number or text")]
    event_id: Annotated[Identifier, Meta(description="Ticketed event: a number or text")]
    amount: Annotated[
        Amount,
        Meta(description="Total charged, in currency units with at most two decimals"),
    ]
    request_id: Annotated[
        Annotated[str, Meta(pattern=NAME)] | None,
        Meta(description="Your name for this request; made up and returned when left out"),
    ] = None
    transaction_id: Annotated[Identifier | None, Meta(description="Order; returned as sent")] = None
    occurred_at: Annotated[
        Annotated[datetime, Meta(tz=True)] | None,
        Meta(description="When the order was placed, with a time zone; now when left out"),
    ] = None
    promoter_id: Annotated[Identifier | None, Meta(description="Promoter of the event")] = None
    card_id: Annotated[Identifier | None, Meta(description="Payment card token")] = None
    device_id: Annotated[Identifier | None, Meta(description="Device fingerprint")] = None
    ip_id: Annotated[Identifier | None, Meta(description="Network address token")] = None
    quantity: Annotated[int, _meta("quantity")] | None = None
    tier: Annotated[str, _choice("tier")] | None = None
    channel: Annotated[str, _choice("channel")] | None = None
    declines: Annotated[int, _meta("declines")] | None = None
    avs_match: Annotated[bool, Meta(description="Billing address matched the card's")] | None = None
    device_accounts: Annotated[int, _meta("device_accounts")] | None = None
    checkout_seconds: Annotated[float, _quantity("checkout_ms", 1e3, "seconds")] | None = None
    geo_distance_km: Annotated[float, _quantity("geo_distance_m", 1e3, "km")] | None = None
    account_age_days: Annotated[float, _quantity("account_age_s", 86_400.0, "days")] | None = None


class PredictRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Orders to score together."""

    requests: Annotated[list[Order], Meta(min_length=1, description="Orders to score")]


class Reason(msgspec.Struct, frozen=True):
    """One feature's share in a score."""

    feature: Annotated[str, Meta(description="Qualified name, `view:feature`")]
    value: Annotated[float | None, Meta(description="Value scored; null when not known")]
    contribution: Annotated[
        float, Meta(description="SHAP value in log-odds; above zero raises the risk")
    ]
    phrase: Annotated[str, Meta(description="The same in words")]


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """The answer for one order, complete in itself."""

    request_id: Annotated[str, Meta(description="As sent, or made up")]
    transaction_id: Annotated[int | str | None, Meta(description="As sent")]
    score: Annotated[float, Meta(ge=0, le=1, description="Probability of fraud")]
    decision: Annotated[
        str,
        Meta(
            description="What the threshold says", extra_json_schema={"enum": ["approve", "review"]}
        ),
    ]
    threshold: Annotated[float, Meta(description="Scores at or above it go to review")]
    reasons: Annotated[
        tuple[Reason, ...] | None,
        Meta(description="Features that moved the score most; null when not explained"),
    ]
    model_version: Annotated[str, Meta(description="Version of the model that scored")]
    variant: Annotated[
        str,
        Meta(
            description="What that model is at present: `champion`, `canary`, or in an experiment "
            "`control` or `treatment`"
        ),
    ]
    features_as_of: Annotated[
        str | None,
        Meta(
            description="What the features know: everything before this time; null without history",
            extra_json_schema={"format": "date-time"},
        ),
    ]
    unknown_entities: Annotated[
        tuple[str, ...], Meta(description="Sent entities that history has never seen")
    ]
    degraded: Annotated[
        tuple[str, ...],
        Meta(description="What was missing while answering; empty when nothing was"),
    ]


class PredictResponse(msgspec.Struct, frozen=True):
    """Predictions in the order of the requests."""

    predictions: tuple[Prediction, ...]


class Health(msgspec.Struct, frozen=True):
    """Whether this process can score."""

    ok: bool
    detail: Annotated[str, Meta(description="`model_loaded` or what is missing")]


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Something published that this process would not take; the one before stays in use."""

    what: Annotated[str, Meta(description="`model` or `online_store`")]
    name: Annotated[str, Meta(description="Model version or snapshot refused")]
    reason: str
    at: Annotated[str, Meta(extra_json_schema={"format": "date-time"})]


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """What this process serves, and what it refused to."""

    ready: bool
    use_case: str
    model_version: str | None
    record_sequence: Annotated[
        int | None, Meta(description="Number of the promotion record being served")
    ]
    online_snapshot: str | None
    features_as_of: Annotated[str | None, Meta(extra_json_schema={"format": "date-time"})]
    refusals: tuple[Refusal, ...]
    process: Annotated[int, Meta(description="Process that answered")]


class ReloadRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Optional expectation of a reload."""

    model_version: Annotated[
        Annotated[str, Meta(pattern=NAME)] | None,
        Meta(description="Version that must be serving afterwards"),
    ] = None


class ReloadResponse(msgspec.Struct, frozen=True):
    """What serves after the reload."""

    model_version: str
    record_sequence: int
    swapped: Annotated[bool, Meta(description="Whether this call changed it")]
