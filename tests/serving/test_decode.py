"""Bodies become rows, or a 4xx that names the field, the value and what is allowed."""

from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibook_assets.core.ids import entity_id
from ibook_assets.core.tables import CHANNELS, TIERS, TRANSACTIONS
from ibook_serving.http.decode import PREDICT, Row, decode_body, order_row
from ibook_serving.http.problems import ProblemError

NOW_US = 1_772_000_000_000_000


def rows(body: bytes) -> list[Row]:
    orders = decode_body(body, PREDICT).requests
    return [order_row(o, path=f"$.requests[{i}]", now_us=NOW_US) for i, o in enumerate(orders)]


def one(**fields: object) -> bytes:
    order = {"user_id": 1, "event_id": 2, "amount": 120.5} | fields
    return msgspec.json.encode({"requests": [order]})


def status(body: bytes) -> int:
    try:
        rows(body)
    except ProblemError as problem:
        return problem.status
    return 200


def refusal(body: bytes) -> ProblemError:
    with pytest.raises(ProblemError) as caught:
        rows(body)
    return caught.value


def test_the_reference_fields_are_enough() -> None:
    (row,) = rows(one())
    assert set(row) == set(TRANSACTIONS.column_names)
    assert {k: v for k, v in row.items() if v is not None} == {
        "user_id": 1,
        "event_id": 2,
        "amount_cents": 12_050,
        "occurred_ts": NOW_US,
        "known_ts": NOW_US,
    }


def test_every_optional_field_reaches_its_column_in_its_unit() -> None:
    (row,) = rows(
        one(
            transaction_id="t-9",
            promoter_id="3",
            card_id="tok_x",
            device_id=4,
            ip_id=5,
            quantity=2,
            tier="vip",
            channel="app",
            declines=1,
            avs_match=False,
            device_accounts=3,
            checkout_seconds=4.25,
            geo_distance_km=1.5,
            account_age_days=2,
            occurred_at="2026-03-01T12:00:00+03:00",
        )
    )
    assert row["transaction_id"] == entity_id("t-9")
    assert (row["promoter_id"], row["card_id"]) == (3, entity_id("tok_x"))
    assert (row["checkout_ms"], row["geo_distance_m"]) == (4_250, 1_500)
    assert row["account_age_s"] == 2 * 86_400
    # 2026-03-01T09:00:00Z is 20,513 days and 9 hours after the epoch.
    assert row["occurred_ts"] == (20_513 * 24 + 9) * 3_600 * 1_000_000
    assert None not in row.values()


@given(st.integers(0, 10**10))
def test_amounts_become_cents_exactly_however_they_are_written(cents: int) -> None:
    text = str(Decimal(cents).scaleb(-2))
    as_number = f'{{"requests":[{{"user_id":1,"event_id":2,"amount":{text}}}]}}'.encode()
    as_float = one(amount=cents / 100)
    for body in (as_number, as_float, one(amount=text) if cents < 10**10 else as_number):
        assert rows(body)[0]["amount_cents"] == cents


@pytest.mark.parametrize("tier", TIERS)
def test_known_tiers_pass(tier: str) -> None:
    assert rows(one(tier=tier))[0]["tier"] == tier


@pytest.mark.parametrize("channel", CHANNELS)
def test_known_channels_pass(channel: str) -> None:
    assert rows(one(channel=channel))[0]["channel"] == channel


@pytest.mark.parametrize(
    ("body", "path", "hint"),
    [
        (one(amount=-1), "$.requests[0].amount", ">= 0, found -1"),
        (one(amount=120.555), "$.requests[0].amount", "two decimals, found 120.555"),
        (one(amount=1e-7), "$.requests[0].amount", "two decimals"),
        (one(amount="NaN"), "$.requests[0].amount", 'found "NaN"'),
        (one(amount=10**9), "$.requests[0].amount", "<= 100000000"),
        (one(amount=None), "$.requests[0].amount", "got `null`"),
        (one(user_id=-5), "$.requests[0].user_id", ">= 0"),
        (one(user_id=10**25), "$.requests[0].user_id", "<= 9223372036854775807"),
        (one(user_id=True), "$.requests[0].user_id", "got `bool`"),
        (one(user_id=""), "$.requests[0].user_id", "length >= 1"),
        (one(user_id="u" * 129), "$.requests[0].user_id", "length <= 128"),
        (one(user_id={"$ne": 1}), "$.requests[0].user_id", "got `object`"),
        (one(tier="gold"), "$.requests[0].tier", "standard|plus|premium|vip"),
        (one(tier="vip\n"), "$.requests[0].tier", "standard|plus|premium|vip"),
        (one(amount="1.50\n"), "$.requests[0].amount", "matching regex"),
        (one(request_id="a\n"), "$.requests[0].request_id", "A-Za-z0-9_-"),
        (one(quantity=0), "$.requests[0].quantity", ">= 1, found 0"),
        (one(quantity=1.5), "$.requests[0].quantity", "got `float`"),
        (one(checkout_seconds=-0.1), "$.requests[0].checkout_seconds", ">= 0"),
        (one(request_id="../etc"), "$.requests[0].request_id", "A-Za-z0-9_-"),
        (one(occurred_at="2026-03-01T12:00:00"), "$.requests[0].occurred_at", "timezone"),
        (one(occurred_at="1969-12-31T23:59:59Z"), "$.requests[0].occurred_at", "1970"),
        (one(quantitiy=3), "$.requests[0].quantitiy", "quantity"),
        (b'{"requests":[{"event_id":2,"amount":1}]}', "$.requests[0].user_id", "is required"),
        (b'{"requests":[]}', "$.requests", "length >= 1"),
        (b"{}", "$.requests", "is required"),
        (b"null", "$", "got `null`"),
        (b"[1]", "$", "got `array`"),
        (b'{"requests":[{"user_id":1,"event_id":2,"amount":1e999}]}', "$", "out of range"),
    ],
    ids=lambda value: value[:60] if isinstance(value, bytes) else "",
)
def test_a_wrong_field_is_named_with_its_value_and_what_is_allowed(
    body: bytes, path: str, hint: str
) -> None:
    problem = refusal(body)
    if problem.status == 400:  # a number no decoder can hold is not a value to point at
        assert "out of range" in problem.detail
        return
    assert problem.status == 422
    assert problem.errors is not None
    assert problem.errors[0].path == path
    assert hint in problem.detail


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"not json",
        b'{"requests":[{"user_id":1,"event_id":2,"amount":NaN}]}',
        b'{"requests":[{"user_id":1,"event_id":2,"amount":Infinity}]}',
        b'{"requests":[{"user_id":"\xff","event_id":2,"amount":1}]}',
        b'{"requests":[{"user_id":"\\ud800","event_id":2,"amount":1}]}',
        b"[" * 100_000,
        b'{"requests":' * 50_000,
        b'{"requests":[{"user_id":1,"event_id":2,"amount":1}]} trailing',
        b'{"requests":[{"user_id":' + b"9" * 5_000,
    ],
    ids=[
        "empty",
        "open",
        "text",
        "nan",
        "inf",
        "latin1",
        "surrogate",
        "deep",
        "deep-object",
        "tail",
        "cut",
    ],
)
def test_what_is_not_json_is_400(body: bytes) -> None:
    assert refusal(body).status == 400


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["user_id", "event_id", "amount", "tier", "x"]), json_values)
)
def test_any_json_either_parses_or_is_a_4xx(order: dict[str, object]) -> None:
    body = msgspec.json.encode({"requests": [order]})
    assert status(body) in (200, 400, 422)


@given(st.binary(max_size=200))
def test_any_bytes_either_parse_or_are_a_4xx(body: bytes) -> None:
    assert status(body) in (200, 400, 422)
