"""Five scenarios at once."""

from ibook_sim.scenarios.spec import Objectives, Part, Scenario

SCENARIO = Scenario(
    name="mix",
    description="Ordinary traffic with a flash sale, an attack, a busy day and faults all at once.",
    parts=(
        Part(scenario="normal-traffic", weight=40),
        Part(scenario="flash-sale", weight=20),
        Part(scenario="fraud-attack", weight=20),
        Part(scenario="system-degradation", weight=10),
        Part(scenario="black-friday", weight=10),
    ),
    objectives=Objectives(
        latency_p99_ms=500.0,
        error_share=0.01,
        freshness_p99_seconds=60.0,
        honest_revenue_share=0.55,
    ),
)
