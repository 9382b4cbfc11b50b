"""From the bytes of a request body to rows in the platform's own units, or a 4xx that explains."""

from __future__ import annotations

import re
from typing import Final, TypeVar

import msgspec

from ibook_assets.core.ids import entity_id
from ibook_assets.core.tables import TRANSACTIONS
from ibook_assets.core.times import DAY_US, to_us
from ibook_serving.api import CENTS, Order, PredictRequest, ReloadRequest
from ibook_serving.http.problems import ProblemError, invalid_field

Row = dict[str, int | str | bool | None]
"""One order in the columns, types and units of the transactions table; None where unknown."""

Body = TypeVar("Body", bound=msgspec.Struct)

PREDICT: Final = msgspec.json.Decoder(PredictRequest)
RELOAD: Final = msgspec.json.Decoder(ReloadRequest)

_UNKNOWN_ROW: Final[Row] = dict.fromkeys(TRANSACTIONS.column_names)
_ID_FIELDS: Final = ("transaction_id", "promoter_id", "card_id", "device_id", "ip_id")
_SAME_FIELDS: Final = ("quantity", "tier", "channel", "declines", "avs_match", "device_accounts")
_SCALED_FIELDS: Final = (
    ("checkout_seconds", "checkout_ms", 1_000),
    ("geo_distance_km", "geo_distance_m", 1_000),
    ("account_age_days", "account_age_s", DAY_US // 1_000_000),
)
_LOCATION: Final = re.compile(r"^(.*?)(?: - at `(\$.*)`)?$", re.DOTALL)
_MISSING: Final = re.compile(r"^Object missing required field `([^`]*)`$")
_UNKNOWN: Final = re.compile(r"^Object contains unknown field `([^`]*)`$")
_STEP: Final = re.compile(r"\.([A-Za-z_][A-Za-z0-9_]*)|\[(\d+)\]")


def decode_body(body: bytes, decoder: msgspec.json.Decoder[Body]) -> Body:
    """`body` as what `decoder` declares.

    Raises:
        ProblemError: 400 when it is not JSON, 422 with the field's path when it is not as declared.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _explain(str(error), body) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(error) from error


def _malformed(error: Exception) -> ProblemError:
    reason = {
        UnicodeDecodeError: "it is not UTF-8",
        RecursionError: "it is nested too deeply",
    }.get(type(error), str(error))
    return ProblemError(
        400,
        "Malformed JSON",
        f"The body cannot be read as JSON: {reason}. GET /docs has an example.",
    )


def _explain(message: str, body: bytes) -> ProblemError:
    """422 from the decoder's message, with the value it stumbled on."""
    try:
        # The typed decoder stops at the first wrong type, before it sees what follows.
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _malformed(error)
    match = _LOCATION.match(message)
    what, path = (match[1], match[2] or "$") if match else (message, "$")
    if missing := _MISSING.match(what):
        return invalid_field(f"{path}.{missing[1]}", "is required")
    if unknown := _UNKNOWN.match(what):
        known = Order.__struct_fields__ if "requests[" in path else ("see /docs",)
        return invalid_field(
            f"{path}.{unknown[1][:64]}", f"is not a known field; known are {', '.join(known)}"
        )
    what = what[0].lower() + what[1:]
    value = document
    for name, index in _STEP.findall(path):
        value = value[name] if name else value[int(index)]
    return invalid_field(path, what, value)


def order_row(order: Order, *, path: str, now_us: int) -> Row:
    """The transactions row of `order`; both its times are `now_us` when it brings none.

    Raises:
        ProblemError: 422 for an amount that is not whole cents or a time before 1970.
    """
    occurred_us = now_us if order.occurred_at is None else to_us(order.occurred_at)
    if occurred_us < 0:
        where = f"{path}.occurred_at"
        raise invalid_field(where, "must be 1970 or later", order.occurred_at)
    row = _UNKNOWN_ROW.copy()
    row["occurred_ts"] = row["known_ts"] = occurred_us
    row["user_id"] = entity_id(order.user_id)
    row["event_id"] = entity_id(order.event_id)
    row["amount_cents"] = cents(order.amount, path=f"{path}.amount")
    for name in _ID_FIELDS:
        value = getattr(order, name)
        row[name] = None if value is None else entity_id(value)
    for name in _SAME_FIELDS:
        row[name] = getattr(order, name)
    for wire, column, factor in _SCALED_FIELDS:
        quantity = getattr(order, wire)
        row[column] = None if quantity is None else round(quantity * factor)
    return row


def cents(amount: float | str, *, path: str) -> int:
    """`amount`, in currency units, in cents; ProblemError naming `path` unless they are whole."""
    units = float(amount)
    whole = round(units * CENTS)
    # Division rounds correctly, so only the float nearest to a whole number of cents comes back.
    if whole / CENTS != units:
        raise invalid_field(path, "must have at most two decimals", amount)
    return whole
