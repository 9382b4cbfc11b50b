"""Five times the fraud, mostly stolen accounts and tested cards."""

from ibook_sim.scenarios.spec import Burst, Objectives, Scenario, Traffic

SCENARIO = Scenario(
    name="fraud-attack",
    description="12 % of the orders are fraudulent: accounts taken over, and cards being tested.",
    world={"fraud_share": 0.12, "archetype_mix": (0.5, 0.1, 0.35, 0.05)},
    traffic=Traffic(bursts=(Burst(at=0.4, width=0.2, share=0.4),)),
    objectives=Objectives(oracle_share=0.5, saved_share=0.7, honest_revenue_share=0.25),
)
