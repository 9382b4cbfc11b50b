"""A small made-up shop: a matrix with a known signal, so that models have something to find."""

import numpy as np
import pytest

from ibook_assets.core.times import DAY_US
from ibook_assets.training.examples import Examples

FEATURES = (
    "order_context:amount",
    "order_context:tickets",
    "user_risk:fraud_share_30d",
    "ip_velocity:order_count_1d",
)


def make_examples(n: int, *, seed: int = 3, base_rate: float = 0.05) -> Examples:
    """`n` rows over 20 days; the first three features tell fraud, the last is noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, len(FEATURES))).astype(np.float32)
    x[rng.random((n, len(FEATURES))) < 0.05] = np.nan
    signal = np.nan_to_num(x[:, :3]) @ np.array([1.5, 1.0, 0.8]) + rng.normal(size=n)
    labels = (signal > np.quantile(signal, 1 - base_rate)).astype(np.int8)
    return Examples(
        feature_names=FEATURES,
        x=x,
        labels=labels,
        known_ts=np.sort(rng.integers(0, 20 * DAY_US, size=n)),
        transaction_ids=np.arange(n),
        entity_ids=rng.integers(0, n // 5, size=n),
        amount_cents=rng.integers(500, 50_000, size=n),
        attributes={"tier": rng.choice(np.array(["standard", "vip"]), size=n)},
    )


@pytest.fixture(scope="session")
def examples() -> Examples:
    """Six thousand rows, three hundred of them fraud."""
    return make_examples(6_000)
