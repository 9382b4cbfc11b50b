"""Bots that have learnt to look like buyers."""

from ibook_sim.drift import Drift
from ibook_sim.scenarios.spec import Burst, Objectives, Scenario, Traffic

SCENARIO = Scenario(
    name="bot-evasion",
    description="8 % fraud, mostly bots at an on-sale, 70 % of whose orders look like any other.",
    world={"fraud_share": 0.08, "archetype_mix": (0.1, 0.8, 0.05, 0.05)},
    traffic=Traffic(bursts=(Burst(at=0.3, width=0.1, share=0.4),)),
    drift=Drift(level=0.7, axes=("concept",)),
    objectives=Objectives(oracle_share=0.2, saved_share=0.6, honest_revenue_share=0.45),
)
