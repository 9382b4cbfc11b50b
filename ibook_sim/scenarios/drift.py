"""The world moves along all three axes."""

from ibook_sim.drift import DRIFT_THRESHOLD, Drift
from ibook_sim.scenarios.spec import Objectives, Scenario

SCENARIO = Scenario(
    name="drift",
    description="Prices, the share of fraud and what fraud looks like are half-way to elsewhere.",
    drift=Drift(level=0.5),
    objectives=Objectives(
        drift_index_max=None,
        drift_index_min=DRIFT_THRESHOLD,
        platform_rings=True,
        oracle_share=0.25,
        saved_share=0.4,
        honest_revenue_share=0.6,
    ),
)
