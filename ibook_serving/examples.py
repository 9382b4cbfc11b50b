"""Examples the OpenAPI document shows; a test sends the requests to a running server."""

from __future__ import annotations

from typing import Final

from ibook_serving.api import (
    Prediction,
    PredictResponse,
    Readiness,
    Reason,
    Refusal,
    ReloadResponse,
)

PREDICT_BODY: Final = {
    "requests": [
        {"user_id": 1042, "event_id": 17, "amount": 120.5},
        {
            "request_id": "checkout-7f3a",
            "user_id": "customer-88",
            "event_id": 17,
            "amount": "1940.00",
            "card_id": "tok_4242",
            "device_id": "dev-9",
            "ip_id": "203.0.113.9",
            "quantity": 8,
            "tier": "vip",
            "channel": "web",
            "declines": 3,
            "avs_match": False,
            "checkout_seconds": 2.4,
            "occurred_at": "2026-02-28T22:41:07Z",
        },
    ]
}

_VERSION: Final = "fraud-20260301-4be1"
_AS_OF: Final = "2026-03-01T00:00:00Z"

PREDICTED: Final = PredictResponse(
    predictions=(
        Prediction(
            request_id="3f9a0c5e-1",
            transaction_id=None,
            score=0.0042,
            decision="approve",
            threshold=0.31,
            reasons=None,
            model_version=_VERSION,
            variant="champion",
            features_as_of=_AS_OF,
            unknown_entities=(),
            degraded=(),
        ),
        Prediction(
            request_id="checkout-7f3a",
            transaction_id=None,
            score=0.83,
            decision="review",
            threshold=0.31,
            reasons=(
                Reason(
                    feature="order_context:decline_count",
                    value=3.0,
                    contribution=1.72,
                    phrase="Declined payment attempts before this order: "
                    "3 attempts (raises the risk)",
                ),
            ),
            model_version=_VERSION,
            variant="champion",
            features_as_of=_AS_OF,
            unknown_entities=("user", "card", "device", "ip"),
            degraded=(),
        ),
    )
)

READY: Final = Readiness(
    ready=True,
    use_case="fraud",
    model_version=_VERSION,
    record_sequence=3,
    online_snapshot="5d0c1f9a",
    features_as_of=_AS_OF,
    refusals=(),
    process=4711,
)

NOT_READY: Final = Readiness(
    ready=False,
    use_case="fraud",
    model_version=None,
    record_sequence=None,
    online_snapshot=None,
    features_as_of=None,
    refusals=(
        Refusal(
            what="model",
            name=_VERSION,
            reason="model.ubj does not have the sha256 its promotion record says",
            at=_AS_OF,
        ),
    ),
    process=4711,
)

RELOADED: Final = ReloadResponse(model_version=_VERSION, record_sequence=3, swapped=True)

METRICS: Final = (
    "# HELP ibook_requests_total Requests answered, by route and status\n"
    "# TYPE ibook_requests_total counter\n"
    'ibook_requests_total{route="/predict",status="200"} 18230.0\n'
)
