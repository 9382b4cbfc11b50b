"""The busiest day of the year."""

from ibook_sim.chaos import Chaos
from ibook_sim.scenarios.spec import Burst, Objectives, Scenario, Traffic

SCENARIO = Scenario(
    name="black-friday",
    description="Three times the orders, in two waves, with bots about and a network under strain.",
    world={
        "orders_per_day": 10_800.0,
        "fraud_share": 0.05,
        "archetype_mix": (0.35, 0.4, 0.2, 0.05),
    },
    traffic=Traffic(
        orders_per_second=60.0,
        bursts=(Burst(at=0.1, width=0.1, share=0.25), Burst(at=0.7, width=0.1, share=0.25)),
    ),
    chaos=Chaos(latency_share=0.02, latency_ms=50.0, error_share=0.002),
    objectives=Objectives(
        latency_p99_ms=400.0, error_share=0.005, saved_share=0.6, honest_revenue_share=0.5
    ),
)
