"""Orders as the bytes that go over the wire, made before the first one is due."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import SplitResult

import msgspec
import pyarrow as pa

from ibook_assets.core.times import from_us

CHUNK_ROWS: Final = 20_000
"""Rows turned into Python values at a time."""


class _Order(msgspec.Struct, omit_defaults=True, gc=False):
    """An order as the scoring API reads it; None is left out."""

    user_id: int
    event_id: int
    amount: float
    transaction_id: int | None = None
    promoter_id: int | None = None
    card_id: int | None = None
    device_id: int | None = None
    ip_id: int | None = None
    quantity: int | None = None
    tier: str | None = None
    channel: str | None = None
    declines: int | None = None
    avs_match: bool | None = None
    device_accounts: int | None = None
    checkout_seconds: float | None = None
    geo_distance_km: float | None = None
    account_age_days: float | None = None
    occurred_at: str | None = None


_COLUMNS: Final = (
    *("user_id", "event_id", "amount_cents", "transaction_id", "promoter_id", "card_id"),
    *("device_id", "ip_id", "quantity", "tier", "channel", "declines", "avs_match"),
    *("device_accounts", "checkout_ms", "geo_distance_m", "account_age_s"),
)
_PLACED: Final = "occurred_ts"


def bodies(transactions: pa.Table, *, dated: bool = False) -> list[bytes]:
    """A scoring request's body for each order, in row order.

    Unless `dated` the time of the order is left out: to the server it is placed when it arrives.
    """
    encode = msgspec.json.Encoder().encode
    found: list[bytes] = []
    for start in range(0, transactions.num_rows, CHUNK_ROWS):
        chunk = transactions.slice(start, CHUNK_ROWS)
        columns = [chunk[name].to_pylist() for name in (*_COLUMNS, _PLACED)]
        rows = zip(*columns, strict=True)
        found += [encode({"requests": [_order(row, dated=dated)]}) for row in rows]
    return found


def _order(row: Sequence[Any], *, dated: bool) -> _Order:
    user, event, cents, *same, checkout_ms, geo_m, age_s, placed_us = row
    scaled = (
        None if checkout_ms is None else checkout_ms / 1_000,
        None if geo_m is None else geo_m / 1_000,
        None if age_s is None else age_s / 86_400,
    )
    occurred_at = from_us(placed_us).isoformat() if dated else None
    values: tuple[Any, ...] = (user, event, cents / 100, *same, *scaled, occurred_at)
    return _Order(*values)


def http_requests(body_of: Sequence[bytes], url: SplitResult) -> list[bytes]:
    """Whole HTTP/1.1 requests that post each body to `url`."""
    path = url.path or "/"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {url.netloc}\r\nUser-Agent: ibook-sim\r\n"
        "Content-Type: application/json\r\nAccept: application/json\r\nContent-Length: "
    ).encode()
    return [b"%b%d\r\n\r\n%b" % (head, len(body), body) for body in body_of]
