"""Nothing happens, so nothing may ring."""

from ibook_sim.scenarios.spec import Objectives, Scenario

SCENARIO = Scenario(
    name="null",
    description="No fraud, no drift, no faults: whatever rings here is a false alarm.",
    world={"fraud_share": 0.0},
    objectives=Objectives(
        error_share=0.0,
        oracle_share=None,
        drift_index_max=0.0,
        saved_share=None,
        honest_revenue_share=0.999,
    ),
)
