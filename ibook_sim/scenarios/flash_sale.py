"""Half of all orders in a twentieth of the time."""

from ibook_sim.scenarios.spec import Burst, Objectives, Scenario, Traffic

SCENARIO = Scenario(
    name="flash-sale",
    description="Half of the orders come in the minute after the doors open: ten times the rate.",
    traffic=Traffic(bursts=(Burst(at=0.2, width=0.05, share=0.5),)),
    objectives=Objectives(latency_p99_ms=400.0),
)
