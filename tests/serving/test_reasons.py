"""Reasons are the strongest contributions, in order, in words."""

import numpy as np
import pytest

from ibook_assets.core.errors import UnknownFeatureError
from ibook_serving.scoring.reasons import TOP_REASONS, ReasonWriter

SINCE = "Time since the last order of the card, NaN without one in 30d"
NAMES = (
    "order_context:amount",
    "order_context:tier_code",
    "user_realtime_fraud_features:order_count_1d",
    "card_risk:fraud_share_7d",
    "card_velocity:seconds_since_order",
    "event_velocity:amount_to_mean_30d",
)


def test_reasons_are_the_strongest_contributions_in_words() -> None:
    values = np.array([12_050, 3, 7, 0.125, np.nan, 0.5], np.float32)
    shares = np.array([0.1, -0.2, 0.9, 0.0, -0.3, 0.05], np.float32)
    reasons = ReasonWriter(NAMES).write(values, shares)
    # |0.9| > |-0.3| > |-0.2| > |0.1| > |0.05|; what moved nothing is no reason.
    assert [r.feature for r in reasons] == [NAMES[i] for i in (2, 4, 1, 0, 5)]
    assert [r.phrase for r in reasons] == [
        "Orders of the user in the last 1d: 7 orders (raises the risk)",
        f"{SINCE}: not known (lowers the risk)",
        "Position in TIERS: vip (lowers the risk)",
        "Total charged: 120.50 (raises the risk)",
        "This order's amount by the event's mean order of the last 30d: 50.0% (raises the risk)",
    ]
    assert reasons[1].value is None
    assert reasons[0].contribution == np.float32(0.9)


def test_no_more_reasons_than_an_analyst_reads() -> None:
    reasons = ReasonWriter(NAMES).write(np.ones(6, np.float32), np.ones(6, np.float32))
    # Equal contributions keep the model's order.
    assert [r.feature for r in reasons] == list(NAMES[:TOP_REASONS])


def test_a_feature_nobody_defines_is_refused() -> None:
    with pytest.raises(UnknownFeatureError, match="Did you mean"):
        ReasonWriter(["order_context:amounts"])
